// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

type prefixSet struct {
	set      *nftables.Set
	elements []nftables.SetElement // nil: there is none of the family
}

// set is a set of those prefixes that are of the family.
func (f family) set(table *nftables.Table, name string, prefixes []netip.Prefix) prefixSet {
	s := prefixSet{set: &nftables.Set{
		Table: table, Name: name + f.suffix, KeyType: f.keys, Interval: true, KeyByteOrder: binaryutil.BigEndian,
	}}
	for _, i := range intervals(prefixes, f.has) {
		s.elements = append(s.elements, nftables.SetElement{Key: i.first.AsSlice()})
		if i.behind.IsValid() {
			s.elements = append(s.elements, nftables.SetElement{Key: i.behind.AsSlice(), IntervalEnd: true})
		}
	}
	return s
}

// add adds the set and its elements, so many at a time that a netlink attribute (64 KiB) holds them.
func (s prefixSet) add(conn *nftables.Conn) error {
	if err := conn.AddSet(s.set, nil); err != nil {
		return err
	}
	const atOnce = 512
	for elements := range slices.Chunk(s.elements, atOnce) {
		if err := conn.SetAddElements(s.set, elements); err != nil {
			return err
		}
	}
	return nil
}

// interval is some addresses in a row. behind is the one behind the last, and the zero Addr when there is none.
type interval struct{ first, behind netip.Addr }

// intervals covers the prefixes that are of the family, in order, without overlap: nftables takes none
// (nft_rbtree_insert in net/netfilter/nft_set_rbtree.c).
func intervals(prefixes []netip.Prefix, is func(netip.Addr) bool) []interval {
	sorted := slices.Clone(prefixes)
	slices.SortFunc(sorted, netip.Prefix.Compare)
	var merged []interval
	for _, p := range sorted {
		if !is(p.Addr()) {
			continue
		}
		next := interval{p.Masked().Addr(), netipx.PrefixLastIP(p).Next()}
		if n := len(merged); n > 0 && (!merged[n-1].behind.IsValid() || next.first.Compare(merged[n-1].behind) <= 0) {
			merged[n-1].behind = later(merged[n-1].behind, next.behind)
			continue
		}
		merged = append(merged, next)
	}
	return merged
}

// later is the later of two ends; the zero Addr is behind all.
func later(a, b netip.Addr) netip.Addr {
	if !a.IsValid() || b.IsValid() && a.Compare(b) > 0 {
		return a
	}
	return b
}

// generation asks nf_tables for the number that each transaction in the namespace raises by one, whoever's it is
// (nf_tables_commit in net/netfilter/nf_tables_api.c).
func generation() (uint32, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, fmt.Errorf("open netfilter netlink: %w", err)
	}
	defer conn.Close()
	const header = 4 // struct nfgenmsg (linux/netfilter/nfnetlink.h)
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request,
		},
		Data: make([]byte, header),
	})
	if err != nil {
		return 0, fmt.Errorf("ask for the generation of rules: %w", err)
	}
	for _, answer := range answers {
		if len(answer.Data) < header {
			continue
		}
		attributes, err := netlink.NewAttributeDecoder(answer.Data[header:])
		if err != nil {
			return 0, fmt.Errorf("generation of rules: %w", err)
		}
		attributes.ByteOrder = binary.BigEndian
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_GEN_ID {
				return attributes.Uint32(), nil
			}
		}
	}
	return 0, fmt.Errorf("generation of rules: %d answers without it", len(answers))
}
