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

// rules is what was last put in force, and the generation of the namespace's rules that it made. As long as that is the
// generation, nobody has changed anything.
type rules struct {
	known        bool
	generation   uint32
	pods, direct []netip.Prefix
	masquerade   bool
	services     bool
}

func (r *rules) are(c *Config) bool {
	return slices.Equal(r.pods, c.Pods) && slices.Equal(r.direct, c.Direct) &&
		r.masquerade == c.Masquerade && r.services == c.Services
}

// applyRules replaces our table, in one transaction, by one for these prefixes; without pods there is none. Connections
// keep the translation that they have.
func (s *Stack) applyRules(c *Config) []Note {
	before, err := generation()
	if err == nil && s.rules.known && s.rules.generation == before && s.rules.are(c) {
		return nil
	}
	s.rules.known = false
	var notes []Note
	if err == nil {
		err = replaceTable(c)
	}
	if err != nil && c.Services && unsupported(err) {
		tracked := *c
		tracked.Services = false
		if replaceTable(&tracked) == nil {
			notes, err = []Note{{"nftables", "the kernel lacks what has services' answers not tracked (CONFIG_NFT_FIB_INET): " +
				"load it, or let no firewall drop what is invalid (" + oneLine(err) + ")"}}, nil
		}
	}
	if err != nil {
		if len(c.Pods) == 0 && unsupported(err) {
			return nil
		}
		return []Note{{"nftables", tableReason(err)}}
	}
	// Had somebody else's transaction come in between, ours may have been changed since.
	after, err := generation()
	s.rules = rules{known: err == nil && after == before+1 && len(notes) == 0, generation: after,
		pods: slices.Clone(c.Pods), direct: slices.Clone(c.Direct), masquerade: c.Masquerade,
		services: c.Services}
	return notes
}

// maxTransaction is the most bytes that a transaction has. It is one message to the kernel; a prefix costs up to 80.
const maxTransaction = 16 << 20

func replaceTable(c *Config) error {
	conn, err := nftables.New(nftables.WithSockOptions(func(conn *netlink.Conn) error {
		return conn.SetWriteBuffer(maxTransaction)
	}))
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	conn.AddTable(table) // so that there is one to remove
	conn.DelTable(table)
	if len(c.Pods) > 0 {
		conn.AddTable(table)
		if err := addChains(conn, table, c); err != nil {
			return err
		}
	}
	return conn.Flush()
}

func addChains(conn *nftables.Conn, table *nftables.Table, c *Config) error {
	prerouting := addPrerouting(conn, table)
	var postrouting, answered *nftables.Chain
	if c.Services {
		answered = addAnswers(conn, table)
	}
	if c.Masquerade {
		postrouting = addPostrouting(conn, table)
	}
	untouched := append(slices.Clone(c.Pods), c.Direct...)
	for _, f := range families {
		pods := f.set(table, "pods", c.Pods)
		if pods.elements == nil {
			continue
		}
		if err := pods.add(conn); err != nil {
			return err
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: prerouting, Exprs: f.dropForged(pods.set)})
		if c.Services {
			conn.AddRule(&nftables.Rule{Table: table, Chain: prerouting, Exprs: f.leaveUntracked(pods.set)})
			conn.AddRule(&nftables.Rule{Table: table, Chain: answered, Exprs: f.markAnswered(pods.set)})
		}
		if !c.Masquerade {
			continue
		}
		to := f.set(table, "untouched", untouched)
		if err := to.add(conn); err != nil {
			return err
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: postrouting, Exprs: f.masquerade(pods.set, to.set)})
	}
	return nil
}

func addPostrouting(conn *nftables.Conn, table *nftables.Table) *nftables.Chain {
	chain := conn.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: toDataplane()})
	return chain
}

// toDataplane accepts what goes out by the host port as it is: the dataplane knows pods by their own addresses.
func toDataplane() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: deviceName(PairStack)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// deviceName is a device's name as nftables compares it.
func deviceName(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

// family is where nftables finds the addresses of a packet of one IP family.
type family struct {
	suffix              string // of the sets' names
	protocol            byte   // NFPROTO
	keys                nftables.SetDatatype
	has                 func(netip.Addr) bool
	source, destination uint32 // bytes from the network header
	length              uint32 // of an address in bytes
}

var families = []family{
	{"4", unix.NFPROTO_IPV4, nftables.TypeIPAddr, netip.Addr.Is4, 12, 16, 4},
	{"6", unix.NFPROTO_IPV6, nftables.TypeIP6Addr, netip.Addr.Is6, 8, 24, 16},
}

// masquerade is for what is from pods and to nothing untouched. Ports are chosen at random, so that two packets at once
// do not choose the same and lose one of them to the other.
func (f family) masquerade(pods, untouched *nftables.Set) []expr.Any {
	return append(f.is(), f.load(f.source),
		&expr.Lookup{SourceRegister: 1, SetName: pods.Name, SetID: pods.ID},
		f.load(f.destination),
		&expr.Lookup{SourceRegister: 1, SetName: untouched.Name, SetID: untouched.ID, Invert: true},
		&expr.Masq{FullyRandom: true},
	)
}

// is matches packets of the family.
func (f family) is() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.protocol}},
	}
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
			"Linux 5.2): load it, or have pods masqueraded, and forged sources dropped, elsewhere (" + oneLine(err) + ")"
	}
	return oneLine(err)
}
