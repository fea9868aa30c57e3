// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// maxMTU is the largest that a veth takes (ETH_MAX_MTU): jumbo packets inside the node.
const maxMTU = 65535

// Trunk is the veth pair through which hooks hand packets to userspace, and get them back.
type Trunk struct {
	Inner, Outer Link // TrunkInner and TrunkOuter
}

// EnsureTrunk makes the trunk, or makes the one that is there as it has to be. queues is the number of queues in each
// direction at both ends, from 1. A trunk with another number, or of which half is missing, is made anew, which ends
// every socket and every program on it; otherwise they stay.
//
// What the inner end transmits is finished by the kernel, as XDP behind the outer end cannot: checksums are complete,
// segments are cut, VLAN tags are in the frame. It waits in a queue when the outer end's ring is full, and is not lost:
// a veth stops its queue where it has a qdisc (drivers/net/veth.c, since Linux 6.16).
//
// With gro the kernel joins what userspace sends of a flow before to_port sees it.
func (s *Stack) EnsureTrunk(queues int, gro bool) (Trunk, error) {
	if queues < 1 {
		return Trunk{}, fmt.Errorf("trunk with %d queues: one is the least", queues)
	}
	inner, outer, err := s.ensureVeth(TrunkInner, TrunkOuter, queues)
	if err != nil {
		return Trunk{}, err
	}
	for _, link := range []netlink.Link{inner, outer} {
		if err := s.mute(link); err != nil {
			return Trunk{}, err
		}
	}
	if err := setOffloads(gro); err != nil {
		return Trunk{}, err
	}
	if err := s.queue(inner, queues); err != nil {
		return Trunk{}, err
	}
	if err := s.raise(maxMTU, inner, outer); err != nil {
		return Trunk{}, err
	}
	return Trunk{Inner: describe(inner), Outer: describe(outer)}, nil
}

// queue has each transmit queue of the device be a pfifo of txQueueLength packets.
func (s *Stack) queue(link netlink.Link, queues int) error {
	there, err := s.qdiscs(link)
	if err != nil {
		return err
	}
	if queues == 1 {
		return s.ensureQdisc(link, there, netlink.HANDLE_ROOT, "pfifo")
	}
	if err := s.ensureQdisc(link, there, netlink.HANDLE_ROOT, "mq"); err != nil {
		return err
	}
	for i := range queues {
		if err := s.ensureQdisc(link, there, netlink.MakeHandle(rootMajor, uint16(i+1)), "pfifo"); err != nil {
			return err
		}
	}
	return nil
}

// rootMajor is the root qdisc's handle; its classes, one a queue from 1, are below it.
const rootMajor = 1

// qdiscs are the kinds of the device's qdiscs by their parents. Those without a handle of their own are the kernel's
// defaults (net/sched/sch_generic.c), and do not count.
func (s *Stack) qdiscs(link netlink.Link) (map[uint32]string, error) {
	list, err := Dump(func() ([]netlink.Qdisc, error) { return s.links.QdiscList(link) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs of %s: %w", link.Attrs().Name, err)
	}
	kinds := make(map[uint32]string)
	for _, q := range list {
		root := q.Attrs().Parent == netlink.HANDLE_ROOT
		if q.Attrs().Handle != 0 && (!root || q.Attrs().Handle == netlink.MakeHandle(rootMajor, 0)) {
			kinds[q.Attrs().Parent] = q.Type()
		}
	}
	return kinds, nil
}

// ensureQdisc puts a qdisc of the kind at the parent. Below a root that is replaced the others are gone.
func (s *Stack) ensureQdisc(link netlink.Link, there map[uint32]string, parent uint32, kind string) error {
	if there[parent] == kind {
		return nil
	}
	attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: parent}
	if parent == netlink.HANDLE_ROOT {
		attrs.Handle = netlink.MakeHandle(rootMajor, 0)
		// A root of another kind does not give way to one of the same handle (net/sched/sch_api.c).
		if err := s.clearRoot(link); err != nil {
			return err
		}
		clear(there)
	}
	if err := s.links.QdiscReplace(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: kind}); err != nil {
		return fmt.Errorf("put qdisc %s on %s (CONFIG_NET_SCHED): %w", kind, link.Attrs().Name, err)
	}
	return nil
}

// clearRoot takes the root qdisc off, unless it is the kernel's default.
func (s *Stack) clearRoot(link netlink.Link) error {
	list, err := Dump(func() ([]netlink.Qdisc, error) { return s.links.QdiscList(link) })
	if err != nil {
		return fmt.Errorf("list qdiscs of %s: %w", link.Attrs().Name, err)
	}
	for _, q := range list {
		if q.Attrs().Parent == netlink.HANDLE_ROOT && q.Attrs().Handle != 0 {
			if err := s.links.QdiscDel(q); err != nil {
				return fmt.Errorf("take qdisc %s off %s: %w", q.Type(), link.Attrs().Name, err)
			}
		}
	}
	return nil
}
