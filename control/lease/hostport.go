// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// String is "192.0.2.7:8080/tcp", "8080/tcp" of every address.
func (p HostPort) String() string {
	if !p.HostIP.IsValid() {
		return fmt.Sprintf("%d/%s", p.HostPort, p.Protocol)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(p.HostIP, p.HostPort), p.Protocol)
}

// Compare orders by protocol, host port, address and container port.
func (p HostPort) Compare(o HostPort) int {
	return cmp.Or(cmp.Compare(p.Protocol, o.Protocol), cmp.Compare(p.HostPort, o.HostPort),
		p.HostIP.Compare(o.HostIP), cmp.Compare(p.ContainerPort, o.ContainerPort))
}

// portsInOrder returns host ports each once; nil where there is none.
func portsInOrder(ports []HostPort) []HostPort {
	if len(ports) == 0 {
		return nil
	}
	return slices.Compact(slices.SortedFunc(slices.Values(ports), HostPort.Compare))
}

// mayTake says which host port of e, whose addresses are known, is another attachment's. before may keep its own for e.
func (b *book) mayTake(e, before *entry) error {
	if len(e.HostPorts) == 0 {
		return nil
	}
	for _, other := range b.entries {
		if other == before {
			continue
		}
		for _, taken := range other.HostPorts {
			for _, p := range e.HostPorts {
				if collide(e, p, other, taken) {
					return &PortTakenError{Port: p, By: other.Key, Pod: other.pod()}
				}
			}
		}
	}
	return nil
}

// collide says whether a packet to the node could be for both.
func collide(e *entry, p HostPort, other *entry, taken HostPort) bool {
	if p.HostPort != taken.HostPort || p.Protocol != taken.Protocol {
		return false
	}
	for _, is4 := range []bool{true, false} {
		if p.in(e, is4) && taken.in(other, is4) &&
			(p.every() || taken.every() || p.HostIP == taken.HostIP) {
			return true
		}
	}
	return false
}

// in says whether the host port leads to the attachment by a family.
func (p HostPort) in(e *entry, is4 bool) bool {
	return (!p.HostIP.IsValid() || p.HostIP.Is4() == is4) &&
		slices.ContainsFunc(e.Addresses, func(a netip.Addr) bool { return a.Is4() == is4 })
}

// every says whether it is at every address of the node, of a family at least.
func (p HostPort) every() bool { return !p.HostIP.IsValid() || p.HostIP.IsUnspecified() }

// pod is "default/web", empty where it is not known.
func (a Attachment) pod() string {
	if a.PodName == "" {
		return ""
	}
	return a.PodNamespace + "/" + a.PodName
}
