// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Table is the name of our nftables table, of family inet.
const Table = "viaduct"

// masquerade is what was last put in force, and the generation of the namespace's rules that it made. As long as that
// is the generation, nobody has changed anything.
type masquerade struct {
	known        bool
	generation   uint32
	pods, direct []netip.Prefix
}

// applyMasquerade replaces our table, in one transaction, by one for these prefixes; without pods there is none.
// Connections keep the translation that they have.
func (s *Stack) applyMasquerade(pods, direct []netip.Prefix) []Note {
	before, err := generation()
	if err != nil {
		if len(pods) == 0 && unsupported(err) {
			return nil
		}
		return []Note{{"masquerade", tableReason(err)}}
	}
	m := &s.masquerade
	if m.known && m.generation == before && slices.Equal(m.pods, pods) && slices.Equal(m.direct, direct) {
		return nil
	}
	m.known = false
	if err := replaceTable(pods, direct); err != nil {
		if len(pods) == 0 && unsupported(err) {
			return nil
		}
		return []Note{{"masquerade", tableReason(err)}}
	}
	// Had somebody else's transaction come in between, ours may have been changed since.
	after, err := generation()
	*m = masquerade{known: err == nil && after == before+1, generation: after,
		pods: slices.Clone(pods), direct: slices.Clone(direct)}
	return nil
}

// maxTransaction is the most bytes that a transaction has. It is one message to the kernel; a prefix costs up to 80.
const maxTransaction = 16 << 20

func replaceTable(pods, direct []netip.Prefix) error {
	conn, err := nftables.New(nftables.WithSockOptions(func(conn *netlink.Conn) error {
		return conn.SetWriteBuffer(maxTransaction)
	}))
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	conn.AddTable(table) // so that there is one to remove
	conn.DelTable(table)
	if len(pods) > 0 {
		conn.AddTable(table)
		chain := conn.AddChain(&nftables.Chain{
			Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: toDataplane()})
		untouched := append(slices.Clone(pods), direct...)
		for _, f := range families {
			if err := f.addRule(conn, chain, pods, untouched); err != nil {
				return err
			}
		}
	}
	return conn.Flush()
}

// toDataplane accepts what goes out by the host port as it is: the dataplane knows pods by their own addresses.
func toDataplane() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, PairStack)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// family is where nftables finds the addresses of a packet of one IP family.
type family struct {
	suffix              string // of the sets' names
	protocol            byte   // NFPROTO
	keys                nftables.SetDatatype
	is                  func(netip.Addr) bool
	source, destination uint32 // bytes from the network header
	length              uint32 // of an address in bytes
}

var families = []family{
	{"4", unix.NFPROTO_IPV4, nftables.TypeIPAddr, netip.Addr.Is4, 12, 16, 4},
	{"6", unix.NFPROTO_IPV6, nftables.TypeIP6Addr, netip.Addr.Is6, 8, 24, 16},
}

// addRule masquerades what is from pods and to nothing untouched. Ports are chosen at random, so that two packets at
// once do not choose the same and lose one of them to the other.
func (f family) addRule(conn *nftables.Conn, chain *nftables.Chain, pods, untouched []netip.Prefix) error {
	from := f.set(chain.Table, "pods", pods)
	if from.elements == nil {
		return nil
	}
	to := f.set(chain.Table, "untouched", untouched)
	for _, s := range []prefixSet{from, to} {
		if err := s.add(conn); err != nil {
			return err
		}
	}
	conn.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.protocol}},
		f.load(f.source),
		&expr.Lookup{SourceRegister: 1, SetName: from.set.Name, SetID: from.set.ID},
		f.load(f.destination),
		&expr.Lookup{SourceRegister: 1, SetName: to.set.Name, SetID: to.set.ID, Invert: true},
		&expr.Masq{FullyRandom: true},
	}})
	return nil
}

func (f family) load(offset uint32) expr.Any {
	return &expr.Payload{
		OperationType: expr.PayloadLoad, DestRegister: 1, Base: expr.PayloadBaseNetworkHeader,
		Offset: offset, Len: f.length,
	}
}

// unsupported tells whether the error says that the kernel does not know what was asked for.
func unsupported(err error) bool {
	for _, e := range []unix.Errno{unix.EPROTONOSUPPORT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.ENOENT, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func tableReason(err error) string {
	if unsupported(err) {
		return "the kernel lacks nf_tables with NAT for inet (CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_MASQ; " +
			"Linux 5.2): load it, or have pods masqueraded elsewhere (" + oneLine(err) + ")"
	}
	return "nftables: " + oneLine(err)
}
