// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// linkMTU is what both ends are made with, in bytes: the largest that IP has. What a packet may have on its way is with
// the routes; a veth drops what is larger than the receiving end's MTU (drivers/net/veth.c). Of the container's end
// control has the last word.
const linkMTU = 65535

// names are the host's end of an attachment and the addresses of both, which follow from the attachment's key, so that
// whoever knows the key finds the device, and an ADD that is repeated makes the same.
type names struct {
	device           string
	alias            string
	hostMAC, portMAC net.HardwareAddr
}

// name derives them from a hash. A device's name has 15 bytes and its alias 255 (IFALIASZ in linux/if.h). MACs begin
// with 0a: locally administered, and none of the trunk's, which begin with 02:76:64.
func name(key *attach.Key) names {
	const aliasSize, local = 255, 0x0a
	sum := sha256.Sum256([]byte(key.Network + "\x00" + key.Container + "\x00" + key.Interface))
	alias := aliasPrefix + key.Container + "/" + key.Interface
	return names{
		device:  devicePrefix + hex.EncodeToString(sum[:7])[:13],
		alias:   alias[:min(len(alias), aliasSize)],
		hostMAC: append(net.HardwareAddr{local}, sum[8:13]...),
		portMAC: append(net.HardwareAddr{local}, sum[16:21]...),
	}
}

const (
	devicePrefix = "vd"
	aliasPrefix  = "viaduct "
)

// owns says whether the device is this attachment's. One without an alias was left by an ADD that was killed after
// the device was made.
func (n names) owns(l netlink.Link) bool {
	return l.Type() == "veth" && (l.Attrs().Alias == n.alias || l.Attrs().Alias == "")
}

// pair makes both ends, each in its namespace and under its name from the start, and brings the host's end up. The
// host's end has no IPv6: it is a door, and nobody in it may hear a container's router advertisements. The container's
// end stays down. An error that is fs.ErrExist leaves nothing behind.
func (a *attachment) pair(queues int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = a.names.device, a.names.hostMAC, linkMTU
	attrs.NumTxQueues, attrs.NumRxQueues = queues, queues
	err := a.host.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: a.key.Interface, PeerNamespace: netlink.NsFd(a.sandbox.handle),
		PeerHardwareAddr: a.mac(), PeerMTU: linkMTU,
		PeerNumTxQueues: uint32(queues), PeerNumRxQueues: uint32(queues),
	})
	if err != nil {
		return fmt.Errorf("make veth pair %s and %s: %w", a.names.device, a.key.Interface, err)
	}
	sysctl := fmt.Sprintf("/proc/sys/net/ipv6/conf/%s/disable_ipv6", a.names.device)
	if err := os.WriteFile(sysctl, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disable IPv6 on %s: %w", a.names.device, err)
	}
	up := netlink.NewLinkAttrs()
	up.Name, up.Alias, up.Flags = a.names.device, a.names.alias, net.FlagUp
	if err := a.host.LinkModify(&netlink.GenericLink{LinkAttrs: up, LinkType: "veth"}); err != nil {
		return fmt.Errorf("bring up %s: %w", a.names.device, err)
	}
	return nil
}

// mac is the container's end's.
func (a *attachment) mac() net.HardwareAddr {
	if a.wanted.mac != nil {
		return a.wanted.mac
	}
	return a.names.portMAC
}

// unpair removes a device of the host, and with it its other end, if owns says so; that there is none is no error. It
// returns as soon as no packet comes or goes by the device, and says by the channel what became of it: for nine tenths
// of a removal the kernel waits for readers only (rcu_barrier, by netdev_run_todo in net/core/dev.c).
func unpair(host *netlink.Handle, owns func(netlink.Link) bool, device string) <-chan error {
	done := make(chan error, 1)
	link, err := find(host, device)
	if link == nil || !owns(link) {
		done <- err
		return done
	}
	removed := make(chan struct{})
	go func() {
		done <- removal(device, host.LinkDel(link))
		close(removed)
	}()
	watch, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		<-removed
		return done
	}
	defer watch.Close()
	for {
		select {
		case <-removed:
			return done
		case <-time.After(100 * time.Microsecond):
		}
		if _, err := watch.LinkByIndex(link.Attrs().Index); absent(err) {
			return done
		}
	}
}

func removal(device string, err error) error {
	if err == nil || absent(err) {
		return nil
	}
	return fail(types.ErrIOFailure, "remove "+device, err)
}

// find returns the device of a name, nil when there is none.
func find(in *netlink.Handle, device string) (netlink.Link, error) {
	link, err := in.LinkByName(device)
	switch {
	case err == nil:
		return link, nil
	case absent(err):
		return nil, nil
	}
	return nil, fail(types.ErrIOFailure, "find "+device, err)
}

// absent says whether the error is that there is no such device; with its namespace one may go at any moment.
func absent(err error) bool {
	return errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV)
}

// peers says whether the host's device and an interface in the sandbox are ends of one pair: an index alone could be
// another namespace's.
func (a *attachment) peers(device, inside netlink.Link) bool {
	id, err := a.host.GetNetNsIdByFd(int(a.sandbox.handle))
	return err == nil && device.Attrs().NetNsID == id && device.Attrs().ParentIndex == inside.Attrs().Index &&
		inside.Type() == "veth"
}

// ours says whether a device of the host was made for an attachment of any network.
func ours(l netlink.Link) bool {
	return l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, devicePrefix) &&
		(l.Attrs().Alias == "" || strings.HasPrefix(l.Attrs().Alias, aliasPrefix))
}
