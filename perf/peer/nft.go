// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/perf/rig"
)

// ruleset is a table with the chain that forwarded packets pass, as in
//
//	table ip filter {
//		chain forward {
//			type filter hook forward priority filter; policy drop;
//			ct state established,related accept
//			…
type ruleset struct {
	*nftables.Conn
	chain *nftables.Chain
}

// socketBuffer is for a transaction of atOnce rules or elements, and for as many answers.
const (
	socketBuffer = 8 << 20
	atOnce       = 256
)

func newRuleset(in *rig.Namespace) (*ruleset, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(in.FD()), nftables.WithSockOptions(func(c *netlink.Conn) error {
		if err := c.SetReadBuffer(socketBuffer); err != nil {
			return err
		}
		return c.SetWriteBuffer(socketBuffer)
	}))
	if err != nil {
		return nil, err
	}
	drop := nftables.ChainPolicyDrop
	table := conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	s := &ruleset{conn, conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})}
	const known = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	s.add(&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(known),
			Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
	return s, nil
}

// add accepts what the expressions match.
func (s *ruleset) add(match ...expr.Any) {
	s.AddRule(&nftables.Rule{Table: s.chain.Table, Chain: s.chain,
		Exprs: append(match, &expr.Verdict{Kind: expr.VerdictAccept})})
}

// Fields of a packet, loaded as nft does (nft --debug=netlink).

func source(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
}

func destination(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
}

func protocol(register uint32) expr.Any {
	return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}
}

func destinationPort(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func equal(register uint32, data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

var protocolNumbers = map[string]byte{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP}

// nftRules is a line for each rule: ip saddr A ip daddr B tcp dport P accept.
func nftRules(in *rig.Namespace, rules []rule) error {
	s, err := newRuleset(in)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(rules, atOnce) {
		for _, r := range some {
			s.add(source(1), equal(1, r.from.AsSlice()), destination(1), equal(1, r.to.AsSlice()),
				protocol(1), equal(1, []byte{protocolNumbers[r.protocol]}),
				destinationPort(1), equal(1, binaryutil.BigEndian.PutUint16(r.port)))
		}
		if err := s.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// nftSet is one line for all: ip saddr . ip daddr . meta l4proto . th dport @admitted accept.
func nftSet(in *rig.Namespace, rules []rule) error {
	s, err := newRuleset(in)
	if err != nil {
		return err
	}
	set := &nftables.Set{
		Table: s.chain.Table, Name: "admitted", Concatenation: true, KeyType: nftables.MustConcatSetType(
			nftables.TypeIPAddr, nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
	}
	if err := s.AddSet(set, nil); err != nil {
		return err
	}
	// The registers of 4 bytes that a lookup of 16 takes together (NFT_REG32_00 in linux/netfilter/nf_tables.h).
	const first = unix.NFT_REG32_00
	s.add(source(first), destination(first+1), protocol(first+2), destinationPort(first+3),
		&expr.Lookup{SourceRegister: first, SetName: set.Name, SetID: set.ID})
	if err := s.Flush(); err != nil {
		return err
	}
	for some := range slices.Chunk(rules, atOnce) {
		var elements []nftables.SetElement
		for _, r := range some {
			elements = append(elements, nftables.SetElement{Key: r.key()})
		}
		if err := s.SetAddElements(set, elements); err != nil {
			return err
		}
		if err := s.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// key is a rule as an element of the set: each field begins a register.
func (r rule) key() []byte {
	port := binaryutil.BigEndian.PutUint16(r.port)
	return slices.Concat(r.from.AsSlice(), r.to.AsSlice(),
		[]byte{protocolNumbers[r.protocol], 0, 0, 0, port[0], port[1], 0, 0})
}

// DropInput has a namespace take no IPv4 packet for itself: what is answered to it ends there.
func DropInput(in *rig.Namespace) error {
	conn, err := nftables.New(nftables.WithNetNSFd(in.FD()))
	if err != nil {
		return err
	}
	drop := nftables.ChainPolicyDrop
	conn.AddChain(&nftables.Chain{
		Name: "input", Table: conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4}),
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
		Policy: &drop,
	})
	return conn.Flush()
}
