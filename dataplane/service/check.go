// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
)

// InvalidError says what of a snapshot's services is at fault.
type InvalidError struct {
	Origin uint32 // of the object
	Field  string // path in the snapshot: "services[2].backends[0].port"
	Reason string // one line of lower case
}

// Error joins field and reason.
func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }

func invalid(origin uint32, field, reason string, args ...any) error {
	return &InvalidError{origin, field, fmt.Sprintf(reason, args...)}
}

// maxMembers is how many backends a service has at most: they are numbered in 16 bits.
const maxMembers = 1<<16 - 1

// check refuses a service that says what cannot be.
func check(field string, s *api.Service) error {
	part, reason := checkService(s)
	for i := 0; reason == "" && i < len(s.GetFrontends()); i++ {
		var of string
		if of, reason = checkFrontend(s, i); reason != "" {
			part = fmt.Sprintf(".frontends[%d]%s", i, of)
		}
	}
	for i := 0; reason == "" && i < len(s.GetBackends()); i++ {
		var of string
		if of, reason = checkBackend(s, i); reason != "" {
			part = fmt.Sprintf(".backends[%d]%s", i, of)
		}
	}
	if reason == "" {
		return nil
	}
	return invalid(s.GetOrigin(), field+part, "%s", reason)
}

func checkService(s *api.Service) (part, reason string) {
	switch {
	case s.GetId() == 0:
		return ".id", "0 is no service"
	case s.Name == "":
		return ".name", "is missing"
	case s.Algorithm <= api.Service_ALGORITHM_NONE || s.Algorithm > api.Service_ALGORITHM_MAGLEV_BOUNDED:
		return ".algorithm", fmt.Sprintf("%d is not known", s.Algorithm)
	case s.Removal < api.Service_REMOVAL_DRAIN || s.Removal > api.Service_REMOVAL_RESET:
		return ".removal", fmt.Sprintf("%d is not known", s.Removal)
	case len(s.Backends) > maxMembers:
		return ".backends", fmt.Sprintf("%d are more than %d", len(s.Backends), maxMembers)
	}
	switch s.Protocol {
	case api.Protocol_PROTOCOL_TCP, api.Protocol_PROTOCOL_UDP, api.Protocol_PROTOCOL_SCTP:
		return "", ""
	}
	return ".protocol", fmt.Sprintf("%d is not TCP, UDP or SCTP", s.Protocol)
}

func checkFrontend(s *api.Service, i int) (part, reason string) {
	f := s.Frontends[i]
	switch f.GetKind() {
	case api.Frontend_KIND_CLUSTER_IP, api.Frontend_KIND_EXTERNAL_IP, api.Frontend_KIND_LOAD_BALANCER:
		if len(f.Address) == 0 {
			return ".address", "is missing"
		}
	case api.Frontend_KIND_NODE_PORT:
		if len(f.Address) > 0 {
			return ".address", "node ports are at every address of the node"
		}
	case api.Frontend_KIND_HOST_PORT:
	default:
		return ".kind", fmt.Sprintf("%d is not known", f.GetKind())
	}
	if len(f.Address) > 0 {
		if _, reason := address(f.Address, s.Ipv6); reason != "" {
			return ".address", reason
		}
	}
	if reason := checkPort(f.Port); reason != "" {
		return ".port", reason
	}
	for j, p := range f.Sources {
		prefix, reason := identity.Parse(p)
		if reason == "" && prefix.Addr().Is6() != s.Ipv6 {
			reason = fmt.Sprintf("%s is of the other family", prefix)
		}
		if reason != "" {
			return fmt.Sprintf(".sources[%d]", j), reason
		}
	}
	if i > 0 {
		return "", misplaced(compareFrontends(s.Frontends[i-1], f))
	}
	return "", ""
}

func checkBackend(s *api.Service, i int) (part, reason string) {
	b := s.Backends[i]
	if _, reason := address(b.GetAddress(), s.Ipv6); reason != "" {
		return ".address", reason
	}
	if reason := checkPort(b.Port); reason != "" {
		return ".port", reason
	}
	if b.Weight == 0 || b.Weight > 65535 {
		return ".weight", fmt.Sprintf("%d is not from 1 to 65535", b.Weight)
	}
	if i > 0 {
		return "", misplaced(compareBackends(s.Backends[i-1], b))
	}
	return "", ""
}

func checkPort(port uint32) (reason string) {
	if port == 0 || port > 65535 {
		return fmt.Sprintf("%d is not from 1 to 65535", port)
	}
	return ""
}

// misplaced says what is wrong with the order of two that follow on each other.
func misplaced(order int) (reason string) {
	switch {
	case order == 0:
		return "is there twice"
	case order > 0:
		return "is out of order"
	}
	return ""
}

// address reads an address of one station of a family, or says why it is none.
func address(b []byte, ipv6 bool) (a netip.Addr, reason string) {
	a, ok := netip.AddrFromSlice(b)
	switch {
	case !ok || a.Is4In6():
		return a, "is not an IPv4 or IPv6 address"
	case a.Is6() != ipv6:
		return a, fmt.Sprintf("%s is of the other family", a)
	case a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Is4() && (a.As4()[0] >= 240 || a.As4()[0] == 0):
		return a, fmt.Sprintf("%s cannot be the address of a station", a)
	}
	return a, ""
}

func compareFrontends(a, b *api.Frontend) int {
	return cmp.Or(cmp.Compare(a.GetKind(), b.GetKind()), bytes.Compare(a.GetAddress(), b.GetAddress()),
		cmp.Compare(a.GetPort(), b.GetPort()))
}

func compareBackends(a, b *api.Backend) int {
	return cmp.Or(bytes.Compare(a.GetAddress(), b.GetAddress()), cmp.Compare(a.GetPort(), b.GetPort()))
}
