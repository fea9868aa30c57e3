// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/explain"
	"github.com/viaduct-net/viaduct/dataplane/host"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// frontends is what the hooks of services take, as the snapshot in force has it: which frontends there are, and what
// each address is. It notes what has to be written, so that a change costs what it names: of a service whose backends
// changed alone, nothing.
type frontends struct {
	of        map[uint32][]xdpprog.Frontend // by the service's id
	refs      map[xdpprog.Frontend]int      // how many services have it
	at        map[netip.Addr]int            // how many frontends are at the address
	egress    map[netip.Addr]bool
	host      map[netip.Addr]host.Address // of the host's devices
	own       []netip.Addr                // the dataplane's
	nodePorts []netip.Prefix              // where node ports are; empty: everywhere

	dirtyFrontends map[xdpprog.Frontend]bool
	dirtyAddresses map[netip.Addr]bool
	unshared       bool // what addresses lists may be others than at its last call, for the host has others
}

func newFrontends() frontends {
	return frontends{
		of: make(map[uint32][]xdpprog.Frontend), refs: make(map[xdpprog.Frontend]int), at: make(map[netip.Addr]int),
		egress: make(map[netip.Addr]bool), host: make(map[netip.Addr]host.Address),
		dirtyFrontends: make(map[xdpprog.Frontend]bool), dirtyAddresses: make(map[netip.Addr]bool),
	}
}

// frontendsOf are those of a service, in the snapshot's order.
func frontendsOf(s *api.Service) []xdpprog.Frontend {
	list := make([]xdpprog.Frontend, 0, len(s.GetFrontends()))
	for _, f := range s.GetFrontends() {
		a, ok := netip.AddrFromSlice(f.GetAddress())
		switch {
		case !ok && s.GetIpv6():
			a = netip.IPv6Unspecified()
		case !ok:
			a = netip.IPv4Unspecified()
		}
		list = append(list, xdpprog.Frontend{Addr: a, Proto: uint8(s.GetProtocol()), Port: uint16(f.GetPort())})
	}
	return list
}

// set takes a service in the place of the one with its id.
func (f *frontends) set(s *api.Service) {
	next := frontendsOf(s)
	if slices.Equal(f.of[s.GetId()], next) {
		return
	}
	for _, front := range next { // before those that go, of which it may have some
		f.count(front, 1)
	}
	f.remove(s.GetId())
	f.of[s.GetId()] = next
}

func (f *frontends) remove(id uint32) {
	for _, front := range f.of[id] {
		f.count(front, -1)
	}
	delete(f.of, id)
}

func (f *frontends) count(front xdpprog.Frontend, by int) {
	add(f.refs, front, by)
	f.dirtyFrontends[front] = true
	if !front.Addr.IsUnspecified() {
		add(f.at, front.Addr, by)
		f.dirtyAddresses[front.Addr] = true
	}
}

func add[K comparable](counts map[K]int, key K, by int) {
	if counts[key] += by; counts[key] == 0 {
		delete(counts, key)
	}
}

// setAll makes the services of a snapshot the ones that there are.
func (f *frontends) setAll(services []*api.Service) {
	gone := make(map[uint32]bool, len(f.of))
	for id := range f.of {
		gone[id] = true
	}
	for _, s := range services {
		f.set(s)
		delete(gone, s.GetId())
	}
	for id := range gone {
		f.remove(id)
	}
}

// setEgress makes these the addresses that pods have outside.
func (f *frontends) setEgress(list []*api.Egress) {
	next := make(map[netip.Addr]bool)
	for _, e := range list {
		for _, b := range e.GetAddresses() {
			if a, ok := netip.AddrFromSlice(b); ok {
				next[a] = true
			}
		}
	}
	if maps.Equal(next, f.egress) {
		return
	}
	for _, list := range []map[netip.Addr]bool{f.egress, next} {
		for a := range list {
			f.dirtyAddresses[a] = true
		}
	}
	f.egress = next
}

// setNode takes what the node's settings say.
func (f *frontends) setNode(node *api.NodeSettings) {
	var own []netip.Addr
	for _, b := range node.GetDataplaneAddresses() {
		if a, ok := netip.AddrFromSlice(b); ok {
			own = append(own, a)
		}
	}
	nodePorts := prefixes(node.GetNodePortPrefixes())
	if slices.Equal(own, f.own) && slices.Equal(nodePorts, f.nodePorts) {
		return
	}
	f.own, f.nodePorts = own, nodePorts
	for a := range f.host {
		f.dirtyAddresses[a] = true
	}
	f.dirtyLoopback()
}

func (f *frontends) dirtyLoopback() {
	for _, a := range loopbacks {
		f.dirtyAddresses[a] = true
	}
}

// setHost takes the addresses of the host's devices.
func (f *frontends) setHost(list []host.Address) {
	next := make(map[netip.Addr]host.Address, len(list))
	for _, p := range list {
		next[p.Addr()] = p
		if f.host[p.Addr()] != p {
			f.dirtyAddresses[p.Addr()], f.unshared = true, true
		}
	}
	for a := range f.host {
		if _, stays := next[a]; !stays {
			f.dirtyAddresses[a], f.unshared = true, true
		}
	}
	f.host = next
}

// loopbacks stand for all addresses of loopback.
var loopbacks = [2]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}

// uses says what an address is. An egress address may be on a device of the host's, which then answers for it on the
// link and keeps what its own sockets have there; but not one that the host itself goes out with: answers to what it
// masquerades would be taken.
func (f *frontends) uses(a netip.Addr) (uses xdpprog.Uses) {
	if f.at[a] > 0 {
		uses |= xdpprog.AtFrontend
	}
	on, hosts := f.host[a]
	if f.egress[a] && (!hosts || on.Spare) {
		uses |= xdpprog.AtEgress
	}
	switch {
	case a == loopbacks[0] || a == loopbacks[1]:
		if f.hasNodePorts(a) {
			uses |= xdpprog.AtLoopback
		}
	case hosts && !slices.Contains(f.own, a):
		uses |= xdpprog.AtHost
		if f.hasNodePorts(a) {
			uses |= xdpprog.AtNodePorts
		}
	}
	return uses
}

// nodePortsWithin are the ports in a range, both ends included, at which frontends are at addresses of the host: "tcp
// 40000", in order.
func (f *frontends) nodePortsWithin(first, last uint16) (list []string) {
	found := make(map[xdpprog.Frontend]bool)
	for front := range f.refs {
		_, hosts := f.host[front.Addr]
		if front.Port >= first && front.Port <= last && (hosts || front.Addr.IsUnspecified()) {
			front.Addr = netip.Addr{}
			found[front] = true
		}
	}
	order := func(a, b xdpprog.Frontend) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Proto, b.Proto))
	}
	for _, front := range slices.SortedFunc(maps.Keys(found), order) {
		list = append(list, fmt.Sprintf("%s %d", explain.Protocol(packet.IPProto(front.Proto)), front.Port))
	}
	return list
}

func (f *frontends) hasNodePorts(a netip.Addr) bool {
	return len(f.nodePorts) == 0 || slices.ContainsFunc(f.nodePorts, func(p netip.Prefix) bool { return p.Contains(a) })
}

// addresses lists those of frontends and of egress, in no order. What comes to them by an uplink that is shared is the
// dataplane's as a whole, ARP as well: those by which the host itself is reached are not among them.
func (f *frontends) addresses() (list []netip.Prefix) {
	f.unshared = false
	for _, all := range []map[netip.Addr]bool{keysOf(f.at), f.egress} {
		for a := range all {
			if on, hosts := f.host[a]; hosts && !on.IsSingleIP() {
				continue
			}
			list = append(list, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return list
}

// takeOver has what a process before left in the hooks' maps written anew, or removed.
func (f *frontends) takeOver(hooks *xdpprog.Services) error {
	there, err := hooks.Frontends()
	if err != nil {
		return err
	}
	addresses, err := hooks.Addresses()
	if err != nil {
		return err
	}
	for _, front := range there {
		f.dirtyFrontends[front] = true
	}
	for front := range f.refs {
		f.dirtyFrontends[front] = true
	}
	for _, list := range []map[netip.Addr]bool{keysOf(addresses), keysOf(f.at), keysOf(f.host), f.egress} {
		for a := range list {
			f.dirtyAddresses[a] = true
		}
	}
	f.dirtyLoopback()
	return nil
}

func keysOf[V any](m map[netip.Addr]V) map[netip.Addr]bool {
	keys := make(map[netip.Addr]bool, len(m))
	for a := range m {
		keys[a] = true
	}
	return keys
}

// write brings the hooks' maps to what is in force: frontends before the addresses by which they are found, and away
// after them. What cannot be written is tried again at the next call.
func (f *frontends) write(hooks *xdpprog.Services, log *zap.Logger) error {
	var failed error
	keep := func(err error) bool {
		if err != nil && failed == nil {
			failed = err
			log.Warn("telling the hooks of services", zap.Error(err))
		}
		return err != nil
	}
	for front := range f.dirtyFrontends {
		if f.refs[front] > 0 && !keep(hooks.SetFrontend(front)) {
			delete(f.dirtyFrontends, front)
		}
	}
	for a := range f.dirtyAddresses {
		if !keep(hooks.SetAddress(a, f.uses(a))) {
			delete(f.dirtyAddresses, a)
		}
	}
	for front := range f.dirtyFrontends {
		if f.refs[front] == 0 && !keep(hooks.RemoveFrontend(front)) {
			delete(f.dirtyFrontends, front)
		}
	}
	return failed
}
