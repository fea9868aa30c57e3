// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/explain"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// family is that of an address.
type family int

const (
	ipv4 family = iota
	ipv6
	families
)

func (f family) String() string { return [...]string{"ipv4", "ipv6"}[f] }

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// kind is how an end was named.
type kind int

const (
	byAddress kind = iota
	byPod
	byNode
)

// end is one end of the flow.
type end struct {
	flag           string // "--from"
	text           string // as it was said
	kind           kind
	namespace, pod string // of byPod
	node           string // of byNode
	addresses      [families]netip.Addr
	madeUp         bool        // the manifests have no addresses of it
	ports          []namedPort // of its containers, where that is known
}

// namedPort is a port of a pod's container.
type namedPort struct {
	name   string
	proto  packet.IPProto
	number uint16
}

// port is the number of a port that containers of the end name.
func (e *end) port(proto packet.IPProto, name string) (uint16, error) {
	others := make([]string, 0, len(e.ports))
	for _, p := range e.ports {
		if p.name == name && p.proto == proto {
			return p.number, nil
		}
		others = append(others, fmt.Sprintf("%s (%s %d)", p.name, explain.Protocol(p.proto), p.number))
	}
	return 0, fmt.Errorf("--port: %s has no %s port named %q; those with names are %s", e, explain.Protocol(proto), name,
		cmp.Or(strings.Join(others, ", "), "none"))
}

// namedPorts are those of an identity or a pod, as control says them.
func namedPorts(of []*controlapi.NamedPort) (list []namedPort) {
	for _, p := range of {
		list = append(list, namedPort{p.GetName(), packet.IPProto(p.GetProtocol()), uint16(p.GetPort())})
	}
	return list
}

// parseEnd reads an address, "node/NAME" or "NAMESPACE/POD".
func parseEnd(flag, text string) (end, error) {
	e := end{flag: flag, text: text}
	if a, err := netip.ParseAddr(text); err == nil {
		if a.Zone() != "" {
			return e, fmt.Errorf("%s %q: a link-local address is of no pod, and policy is not asked about it", flag, text)
		}
		e.add(a)
		return e, nil
	}
	before, after, found := strings.Cut(text, "/")
	switch {
	case !found || before == "" || after == "" || strings.Contains(after, "/"):
		return e, fmt.Errorf("%s %q is neither NAMESPACE/POD, node/NAME nor an address", flag, text)
	case before == "node":
		e.kind, e.node = byNode, after
	default:
		e.kind, e.namespace, e.pod = byPod, before, after
	}
	return e, nil
}

// add gives the end an address, unless it has one of the family.
func (e *end) add(a netip.Addr) {
	a = a.Unmap()
	if own := &e.addresses[familyOf(a)]; !own.IsValid() {
		*own = a
	}
}

// take gives the end addresses, of each family the first.
func (e *end) take(list []netip.Addr, madeUp bool) {
	for _, a := range list {
		e.add(a)
	}
	e.madeUp = madeUp
}

// String returns "pod shop/web", "node n1" or the address.
func (e *end) String() string {
	switch e.kind {
	case byPod:
		return "pod " + e.text
	case byNode:
		return "node " + e.node
	}
	return e.text
}

// has says which families the end has.
func (e *end) has() string {
	var words []string
	for f, name := range [...]string{"IPv4", "IPv6"} {
		if e.addresses[f].IsValid() {
			words = append(words, name)
		}
	}
	if words == nil {
		return "no address"
	}
	return strings.Join(words, " and ")
}

// said is the address that the end has, empty where it was made up.
func (e *end) said(f family) string {
	if e.madeUp {
		return ""
	}
	return e.addresses[f].String()
}

// name puts the end's name into the step that says who it is: "from 10.244.1.7: identity 3, …".
func (e *end) name(direction string, f family, step string) string {
	who, found := strings.CutPrefix(step, direction+e.addresses[f].String()+": ")
	switch {
	case !found || e.kind == byAddress:
		return step
	case e.madeUp:
		return fmt.Sprintf("%s%s, without an address yet: %s", direction, e.text, who)
	}
	return fmt.Sprintf("%s%s %s: %s", direction, e.text, e.addresses[f], who)
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("--port %s is not from 1 to 65535", text)
	}
	return uint16(n), nil
}
