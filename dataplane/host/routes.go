// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// Protocol marks our routes in the kernel's tables: rtm_protocol, as in `ip route show proto 118`.
	Protocol = 118
	// metric is our routes' own, so that a replacement never meets somebody else's route. A route that somebody makes
	// later without a metric wins, as an administrator means it to.
	metric = 118
)

// applyRoutes brings the routes of our protocol in the main table to those that are wanted.
func (s *Stack) applyRoutes(wanted []Route) ([]Note, error) {
	w := routeWriter{stack: s, occupied: map[int]map[netip.Prefix]netlink.RouteProtocol{}}
	if err := w.read(); err != nil {
		return nil, err
	}
	for _, r := range wanted {
		if err := w.ensure(r); err != nil {
			return w.notes, err
		}
	}
	return w.notes, w.removeRest()
}

// routeWriter is one pass of applyRoutes.
type routeWriter struct {
	stack *Stack
	pair  int                              // index of PairStack, 0: there is none
	ours  map[netip.Prefix][]netlink.Route // what is there of our protocol and not yet known to be wanted
	// occupied are the prefixes of everybody else's routes, by family; read when a route has to be added.
	occupied map[int]map[netip.Prefix]netlink.RouteProtocol
	notes    []Note
}

func (w *routeWriter) read() error {
	pair, err := w.stack.find(PairStack)
	if err != nil {
		return err
	}
	if pair != nil {
		w.pair = pair.Attrs().Index
	}
	w.ours = make(map[netip.Prefix][]netlink.Route)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := w.stack.listRoutes(family, Protocol)
		if err != nil {
			return err
		}
		for _, r := range routes {
			p := prefixOf(r.Dst)
			w.ours[p] = append(w.ours[p], r)
		}
	}
	return nil
}

// listRoutes lists the main table's routes of a protocol; 0: of all.
func (s *Stack) listRoutes(family int, protocol netlink.RouteProtocol) ([]netlink.Route, error) {
	filter, mask := &netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: protocol}, netlink.RT_FILTER_TABLE
	if protocol != 0 {
		mask |= netlink.RT_FILTER_PROTOCOL
	}
	for range 10 { // what changed while it was read is read again
		routes, err := s.links.RouteListFiltered(family, filter, mask)
		switch {
		case errors.Is(err, netlink.ErrDumpInterrupted):
			continue
		case errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP): // no IPv6 in this kernel
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("list routes: %w", err)
		}
		return routes, nil
	}
	return nil, errors.New("list routes: they change all the time; see what does it with `ip monitor route`")
}

// ensure has one route be there.
func (w *routeWriter) ensure(r Route) error {
	if !r.Via.IsValid() && w.pair == 0 {
		w.note(r, "device "+PairStack+" is missing")
		return nil
	}
	if w.take(r) {
		return nil
	}
	if list := w.ours[r.Prefix]; len(list) == 1 && list[0].Priority == metric {
		err := w.stack.links.RouteReplace(w.kernelRoute(r)) // no packet finds none
		if err == nil {
			delete(w.ours, r.Prefix)
		} else {
			w.note(r, routeReason(r, err))
		}
		return nil
	}
	return w.add(r)
}

// take takes the route out of what is there, if it is.
func (w *routeWriter) take(r Route) bool {
	list := w.ours[r.Prefix]
	i := slices.IndexFunc(list, func(is netlink.Route) bool { return w.same(is, r) })
	if i >= 0 {
		w.ours[r.Prefix] = slices.Delete(list, i, i+1)
	}
	return i >= 0
}

// add adds a route, in place of all that is there of our protocol with its prefix.
func (w *routeWriter) add(r Route) error {
	if err := w.remove(r.Prefix); err != nil {
		return err
	}
	by, taken, err := w.somebodyElse(r.Prefix)
	if err != nil {
		return err
	}
	if taken {
		w.note(r, fmt.Sprintf("there is one already, of protocol %v: remove it, or leave it and have that one", by))
	} else if err := w.stack.links.RouteAdd(w.kernelRoute(r)); err != nil {
		w.note(r, routeReason(r, err))
	}
	return nil
}

func (w *routeWriter) same(is netlink.Route, r Route) bool {
	want := w.kernelRoute(r)
	return addrOf(is.Gw) == addrOf(want.Gw) && (want.LinkIndex == 0 || is.LinkIndex == want.LinkIndex) &&
		is.Priority == metric && is.Type == unix.RTN_UNICAST && len(is.MultiPath) == 0
}

func (w *routeWriter) kernelRoute(r Route) *netlink.Route {
	route := &netlink.Route{
		Dst: ipNet(r.Prefix), Gw: r.Via.AsSlice(), Protocol: Protocol, Priority: metric,
		Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST,
	}
	if !r.Via.IsValid() {
		gateway := gateways[0]
		if r.Prefix.Addr().Is6() {
			gateway = gateways[1]
		}
		route.Gw, route.LinkIndex, route.Flags = gateway.AsSlice(), w.pair, int(netlink.FLAG_ONLINK)
	}
	return route
}

// somebodyElse tells whether there is a route of another protocol with the prefix, of any metric.
func (w *routeWriter) somebodyElse(p netip.Prefix) (netlink.RouteProtocol, bool, error) {
	family := netlink.FAMILY_V4
	if p.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	if w.occupied[family] == nil {
		routes, err := w.stack.listRoutes(family, 0)
		if err != nil {
			return 0, false, err
		}
		w.occupied[family] = make(map[netip.Prefix]netlink.RouteProtocol)
		for _, r := range routes {
			if r.Protocol != Protocol {
				w.occupied[family][prefixOf(r.Dst)] = r.Protocol
			}
		}
	}
	by, taken := w.occupied[family][p]
	return by, taken, nil
}

func (w *routeWriter) removeRest() error {
	for p := range w.ours {
		if err := w.remove(p); err != nil {
			return err
		}
	}
	return nil
}

func (w *routeWriter) remove(p netip.Prefix) error {
	for _, r := range w.ours[p] {
		if err := w.stack.links.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %s: %w", p, err)
		}
	}
	delete(w.ours, p)
	return nil
}

func (w *routeWriter) note(r Route, reason string) {
	w.notes = append(w.notes, Note{"route " + r.Prefix.String(), reason})
}

func routeReason(r Route, err error) string {
	if r.Via.IsValid() && (errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) ||
		errors.Is(err, unix.EINVAL)) {
		return fmt.Sprintf("%s is on no subnet of the host's (%v)", r.Via, err)
	}
	return familyReason(r.Prefix.Addr(), err)
}
