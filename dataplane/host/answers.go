// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The dataplane leads clients outside to processes of the host's that answer for services, and leaves them their
// addresses. Answers have to come back by it, though a route to the client leads elsewhere: connections that come in by
// the host port from no pod have a mark, packets of their answers get it, and a rule has what has it go to the
// dataplane.
const (
	// AnswerMark is the bit of connections' and packets' marks that says so. kube-proxy, portmap, Cilium and Calico have
	// others.
	AnswerMark = 0x1000
	// AnswerTable is the number of the routing table that leads to the dataplane, and the priority of the rule.
	AnswerTable = 118
)

// Answers says whether answers of the host's processes go to the dataplane where it has led a client outside to them,
// as of the last Apply.
func (s *Stack) Answers() bool { return s.answers }

// applyAnswers brings the rules and the routes of their table to what is wanted, for families that the host speaks.
func (s *Stack) applyAnswers(wanted bool) error {
	pair, err := s.find(PairStack)
	if err != nil {
		return err
	}
	wanted = wanted && pair != nil
	for i, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		speaks := wanted && (family == netlink.FAMILY_V4 || speaksIPv6(PairStack))
		if err := applyAnswerRule(family, speaks); err != nil {
			return err
		}
		if !speaks {
			continue // the routes go with the device, and nothing leads to them
		}
		all := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}[i]
		route := &netlink.Route{Dst: ipNet(all), Gw: gateways[i].AsSlice(), LinkIndex: pair.Attrs().Index,
			Flags: int(netlink.FLAG_ONLINK), Protocol: Protocol, Priority: metric, Table: AnswerTable, Type: unix.RTN_UNICAST}
		if err := s.links.RouteReplace(route); err != nil {
			return fmt.Errorf("lead answers to the dataplane: %w", err)
		}
	}
	return nil
}

func applyAnswerRule(family int, wanted bool) error {
	// By a socket of its own: netlink's dump of rules is none that a strict one takes.
	list, err := netlink.RuleListFiltered(family, &netlink.Rule{Table: AnswerTable}, netlink.RT_FILTER_TABLE)
	if err != nil {
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		return fmt.Errorf("list routing rules: %w", err)
	}
	rule := netlink.NewRule()
	mask := uint32(AnswerMark)
	rule.Family, rule.Table, rule.Priority, rule.Mark, rule.Mask = family, AnswerTable, AnswerTable, AnswerMark, &mask
	is := slices.ContainsFunc(list, func(r netlink.Rule) bool { return r.Mark == AnswerMark && r.Priority == AnswerTable })
	switch {
	case wanted && !is:
		if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add a routing rule: %w", err)
		}
	case !wanted && is:
		if err := netlink.RuleDel(rule); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove a routing rule: %w", err)
		}
	}
	return nil
}

// addAnswers adds the chain that sees connections of the host's before they are routed, and the one that has answers be
// routed by their marks.
func addAnswers(conn *nftables.Conn, table *nftables.Table) (in *nftables.Chain) {
	in = conn.AddChain(&nftables.Chain{
		Name: "answered", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle,
	})
	out := conn.AddChain(&nftables.Chain{
		Name: "answers", Table: table, Type: nftables.ChainTypeRoute,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle,
	})
	rule := append(direction(1), &expr.Ct{Key: expr.CtKeyMARK, Register: 1})
	rule = append(rule, only(AnswerMark)...)
	rule = append(rule, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1})
	rule = append(rule, with(AnswerMark), &expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true})
	conn.AddRule(&nftables.Rule{Table: table, Chain: out, Exprs: rule})
	return in
}

// markAnswered marks connections that the dataplane has led from somebody who is no pod to the host itself.
func (f family) markAnswered(pods *nftables.Set) []expr.Any {
	rule := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: deviceName(PairStack)},
	}
	rule = append(append(rule, f.is()...), f.load(f.source))
	rule = append(rule,
		&expr.Lookup{SourceRegister: 1, SetName: pods.Name, SetID: pods.ID, Invert: true},
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)})
	rule = append(append(rule, direction(0)...), &expr.Ct{Key: expr.CtKeyMARK, Register: 1})
	return append(rule, with(AnswerMark), &expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true})
}

// direction matches packets of tracked connections by their direction: IP_CT_DIR_ORIGINAL 0, IP_CT_DIR_REPLY 1.
func direction(is byte) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{is}},
	}
}

// with sets bits of the register.
func with(bits uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
		Mask: binary.NativeEndian.AppendUint32(nil, ^bits), Xor: binary.NativeEndian.AppendUint32(nil, bits)}
}

// only matches where bits of the register are set.
func only(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, bits)},
	}
}
