// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// sandbox is a container's network namespace. The plugin's own threads stay outside.
type sandbox struct {
	path          string
	handle        netns.NsHandle
	links         *netlink.Handle
	device, inode uint64 // of the file behind the path (stat(2))
}

// enter opens the namespace that CNI_NETNS names. It must not be the plugin's own, unless CNI_NETNS_OVERRIDE says that
// it may.
func enter(args *skel.CmdArgs) (*sandbox, error) {
	handle, err := netns.GetFromPath(args.Netns)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fail(types.ErrUnknownContainer, "open CNI_NETNS "+args.Netns, err)
	}
	if err != nil {
		return nil, argument("CNI_NETNS %q: %v", args.Netns, err)
	}
	s := &sandbox{path: args.Netns, handle: handle}
	if err := s.open(args); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *sandbox) open(args *skel.CmdArgs) error {
	kind, err := unix.IoctlRetInt(int(s.handle), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return argument("CNI_NETNS %q is no network namespace", args.Netns)
	}
	var file, own unix.Stat_t
	if err := unix.Fstat(int(s.handle), &file); err != nil {
		return fail(types.ErrIOFailure, "stat "+args.Netns, err)
	}
	if err := unix.Stat("/proc/self/ns/net", &own); err != nil {
		return fail(types.ErrIOFailure, "stat the plugin's namespace", err)
	}
	s.device, s.inode = file.Dev, file.Ino
	if own.Dev == file.Dev && own.Ino == file.Ino && !overridden(args) {
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is the plugin's own namespace", "")
	}
	if s.links, err = netlink.NewHandleAt(s.handle, unix.NETLINK_ROUTE); err != nil {
		return fail(types.ErrIOFailure, "open netlink in "+args.Netns, err)
	}
	return nil
}

func overridden(args *skel.CmdArgs) bool {
	return args.NetnsOverride == "1" || strings.EqualFold(args.NetnsOverride, "true")
}

func (s *sandbox) close() {
	if s.links != nil {
		s.links.Close()
	}
	_ = s.handle.Close()
}

// enableIPv6 lets the interface have IPv6 addresses; runtimes turn IPv6 off in namespaces they make. Where it is on
// already nothing is written. A sysctl is of the namespace of the thread that opens it: a thread goes inside, and ends.
func (s *sandbox) enableIPv6(ifname string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- func() error {
			if err := netns.Set(s.handle); err != nil {
				return err
			}
			path := fmt.Sprintf("/proc/sys/net/ipv6/conf/%s/disable_ipv6", ifname)
			value, err := os.ReadFile(path)
			if err != nil || strings.TrimSpace(string(value)) == "0" {
				return err
			}
			return os.WriteFile(path, []byte("0"), 0)
		}()
	}()
	return <-done
}
