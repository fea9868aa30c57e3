// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// txQueueLength is the number of packets that a queue of a device holds, and the limit of a pfifo that is told none
// (net/sched/sch_fifo.c). The trunk's inner end waits with so many, of up to 64 KiB each, while the ring of its peer is
// full.
const txQueueLength = 1000

// ensureVeth has the two devices be one pair with the number of queues, and returns them. What is there and is not, is
// removed and made anew.
func (s *Stack) ensureVeth(near, far string, queues int) (a, b netlink.Link, err error) {
	a, b, err = s.findPair(near, far)
	if err != nil || joined(a, b) && queuesOf(a) == queues && queuesOf(b) == queues {
		return a, b, err
	}
	for _, name := range []string{near, far} {
		if err := s.removeVeth(name); err != nil {
			return nil, nil, err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.TxQLen, attrs.NumTxQueues, attrs.NumRxQueues = near, txQueueLength, queues, queues
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: far, PeerNumTxQueues: uint32(queues), PeerNumRxQueues: uint32(queues),
	}
	if err := s.links.LinkAdd(veth); err != nil {
		return nil, nil, fmt.Errorf("make veth pair %s and %s: %w", near, far, err)
	}
	if a, b, err = s.findPair(near, far); err == nil && !joined(a, b) {
		err = fmt.Errorf("make veth pair %s and %s: somebody removes what is made", near, far)
	}
	return a, b, err
}

func (s *Stack) findPair(near, far string) (a, b netlink.Link, err error) {
	if a, err = s.find(near); err == nil {
		b, err = s.find(far)
	}
	return a, b, err
}

// find returns the device of ours of that name, nil when there is none.
func (s *Stack) find(name string) (netlink.Link, error) {
	link, err := s.links.LinkByName(name)
	switch {
	case errors.As(err, &netlink.LinkNotFoundError{}):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look for device %s: %w", name, err)
	case link.Type() != "veth":
		return nil, fmt.Errorf("device %s is a %s of somebody else's: rename or remove it", name, link.Type())
	}
	return link, nil
}

// joined tells whether the devices are each other's peers, in this namespace.
func joined(a, b netlink.Link) bool {
	return a != nil && b != nil && a.Attrs().NetNsID < 0 && b.Attrs().NetNsID < 0 &&
		a.Attrs().ParentIndex == b.Attrs().Index && b.Attrs().ParentIndex == a.Attrs().Index
}

// queuesOf is the number of queues in each direction, 0 when the directions differ.
func queuesOf(link netlink.Link) int {
	if link.Attrs().NumRxQueues != link.Attrs().NumTxQueues {
		return 0
	}
	return link.Attrs().NumRxQueues
}

// removeVeth removes the device of that name, and with it its peer, wherever that is.
func (s *Stack) removeVeth(name string) error {
	link, err := s.find(name)
	if link == nil {
		return err
	}
	if err := s.links.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
}

// mute keeps the host's stack from speaking on a device that only hooks and sockets use: no ARP, no IPv6, no address.
func (s *Stack) mute(link netlink.Link) error {
	name := link.Attrs().Name
	if link.Attrs().RawFlags&unix.IFF_NOARP == 0 {
		if err := s.links.LinkSetARPOff(link); err != nil {
			return fmt.Errorf("switch ARP off on %s: %w", name, err)
		}
	}
	for _, key := range []string{"addr_gen_mode", "disable_ipv6"} { // 1: none (linux/if_link.h); 1: yes
		if err := ensureSysctl("net/ipv6/conf/"+name+"/"+key, "1"); err != nil {
			return err
		}
	}
	_, err := s.setAddresses(link, nil)
	return err
}

// raise gives both ends their MTU, brings them up, and waits until they carry packets: that follows the carrier by way
// of a work queue (net/core/link_watch.c), and until it has run a device drops in silence.
func (s *Stack) raise(mtu int, ends ...netlink.Link) error {
	for _, link := range ends {
		if link.Attrs().MTU != mtu {
			if err := s.links.LinkSetMTU(link, mtu); err != nil {
				return fmt.Errorf("set MTU %d of %s: %w", mtu, link.Attrs().Name, err)
			}
		}
		if link.Attrs().RawFlags&unix.IFF_UP == 0 {
			if err := s.links.LinkSetUp(link); err != nil {
				return fmt.Errorf("bring %s up: %w", link.Attrs().Name, err)
			}
		}
	}
	for _, link := range ends {
		if err := s.awaitUp(link); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stack) awaitUp(link netlink.Link) error {
	const within = 5 * time.Second
	for deadline := time.Now().Add(within); link.Attrs().OperState != netlink.OperUp; {
		if time.Now().After(deadline) {
			return fmt.Errorf("device %s is not up within %v of being told to", link.Attrs().Name, within)
		}
		time.Sleep(time.Millisecond)
		fresh, err := s.links.LinkByIndex(link.Attrs().Index)
		if err != nil {
			return fmt.Errorf("look at device %s: %w", link.Attrs().Name, err)
		}
		link = fresh
	}
	return nil
}

func describe(link netlink.Link) Link {
	attrs := link.Attrs()
	return Link{Name: attrs.Name, IfIndex: attrs.Index, MAC: attrs.HardwareAddr, Queues: attrs.NumRxQueues}
}
