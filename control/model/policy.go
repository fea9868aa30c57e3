// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	netutils "k8s.io/utils/net"
)

// Policy is what is used of a NetworkPolicy or a ClusterNetworkPolicy.
type Policy struct {
	Tier     Tier
	Priority int32 // within the tier, 0 to 1000: lower goes first; 0 in TierNamespace, which has no order
	Subject  Peer
	// The directions that it isolates: what no rule of the tier allows there is denied. Only TierNamespace isolates.
	Ingress, Egress bool
	Rules           []PolicyRule // ingress ones first, each direction in order
	Staged          bool         // judged and reported, and not enforced
}

// Tier is which policies go before which.
type Tier uint8

// The tiers, in the order in which they are judged.
const (
	TierAdmin Tier = iota
	TierNamespace
	TierBaseline
)

// PolicyRule is one rule.
type PolicyRule struct {
	Name   string // its path, and the name that it was given: "spec.ingress[0] (allow-web)"
	Egress bool   // else ingress
	Action Action
	Any    bool   // every peer matches; else those below do
	Peers  []Peer // none: the rule matches nothing
	Ports  []PortRange
}

// Action is what a rule says.
type Action uint8

// The actions.
const (
	Allow Action = iota
	Deny
	Pass // on to the next tier
)

// Peer is whom a policy speaks of. Which of its fields count, its kind says.
type Peer struct {
	Kind PeerKind
	// Of pods: the namespace that they are in, or, where it is empty, a selector of namespaces.
	Namespace  string
	Namespaces Selector
	Selector   Selector // of pods, or of nodes
	Blocks     []Block  // ordered
	Domains    []string // ordered, lower case, without the last dot; "*.example.com" is all names below
}

// PeerKind is what a peer is told by.
type PeerKind uint8

// The kinds of peers.
const (
	Pods PeerKind = iota
	Nodes
	Blocks
	Domains
)

// Block is a prefix without some prefixes inside it.
type Block struct {
	Prefix netip.Prefix
	Except []netip.Prefix // ordered
}

// PortRange is destination ports: a range, both ends included, or those that a name has at the destination.
type PortRange struct {
	Protocol string // "TCP", "UDP", "SCTP"; empty, with a name alone: each
	// 0 and 65535: all of them. 0 and 0 with a name.
	First, Last uint16
	Name        string
}

// Annotations of policies, which neither kind has fields for.
const (
	annotationPrefix  = "viaduct.dev/"
	stagedAnnotation  = annotationPrefix + "staged"
	subjectAnnotation = annotationPrefix + "subject"
)

// Annotation says whether an annotation is read; all others say nothing here.
func Annotation(key string) bool {
	return strings.HasPrefix(key, annotationPrefix) || key == corev1.MirrorPodAnnotationKey
}

// annotations reads those of ours, of which a policy may have the known ones.
func (c *checker) annotations(all map[string]string, known ...string) (staged, nodes bool) {
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if !strings.HasPrefix(key, annotationPrefix) {
			continue
		}
		value := all[key]
		c.check(slices.Contains(known, key), "metadata.annotations", "there is no annotation %q of this kind", key)
		switch key {
		case stagedAnnotation:
			c.check(value == "true" || value == "false", "metadata.annotations", `%s is "true" or "false", not %q`, key, value)
			staged = value == "true"
		case subjectAnnotation:
			c.check(value == "pods" || value == "nodes", "metadata.annotations", `%s is "pods" or "nodes", not %q`, key, value)
			nodes = value == "nodes"
		}
	}
	return staged, nodes
}

// block reads a prefix, whose bits behind its length do not count: the API server lets them be. It also lets be, in
// ipBlock, IPv4 with leading zeros and IPv4 mapped into IPv6 (k8s.io/apimachinery, IsValidCIDRForLegacyField), and what
// it has taken is to be enforced.
func (c *checker) block(field, text string) netip.Prefix {
	p, err := netip.ParsePrefix(text)
	if c.served && (err != nil || p.Addr().Is4In6()) {
		p, err = legacyPrefix(text)
	}
	c.check(err == nil, field, "%q is not a prefix (10.0.0.0/8, fd00::/8)", text)
	c.check(err != nil || !p.Addr().Is4In6(), field, "%q is an IPv4-mapped prefix", text)
	return p.Masked()
}

// legacyPrefix reads what Go's net.ParseCIDR once read, and with its meaning.
func legacyPrefix(text string) (netip.Prefix, error) {
	_, n, err := netutils.ParseCIDRSloppy(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if a.Is4In6() { // so the mask has those before the IPv4 address
		a, bits = a.Unmap(), bits-mappedBits
	}
	return netip.PrefixFrom(a, bits), nil
}

// mappedBits are those before the IPv4 address in one that is mapped into IPv6 (RFC 4291 2.5.5.2).
const mappedBits = 96

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func compareBlocks(a, b Block) int {
	return cmp.Or(comparePrefixes(a.Prefix, b.Prefix), slices.CompareFunc(a.Except, b.Except, comparePrefixes))
}

// ordered has the blocks and domains in order, each once. All of one rule's are one peer.
func (p *Peer) ordered() {
	slices.SortFunc(p.Blocks, compareBlocks)
	p.Blocks = slices.CompactFunc(p.Blocks, func(a, b Block) bool { return compareBlocks(a, b) == 0 })
	slices.Sort(p.Domains)
	p.Domains = slices.Compact(p.Domains)
}

// portName reads a name as a container's port has it (RFC 6335 5.1).
func (c *checker) portName(field, name string) string {
	valid := len(name) <= 15 && framed(name, lowerOrDigit, "-") && !strings.Contains(name, "--") &&
		strings.ContainsFunc(name, func(r rune) bool { return 'a' <= r && r <= 'z' })
	c.check(valid, field, "%q is not a port's name", name)
	return intern(name)
}

// everyPort is all ports of the protocol.
func everyPort(protocol string) PortRange { return PortRange{Protocol: protocol, Last: maxPort} }

// String returns "TCP 80-90", "UDP" or "TCP http".
func (r PortRange) String() string {
	switch {
	case r.Name != "":
		return strings.TrimSpace(r.Protocol + " " + r.Name)
	case r.First == 0 && r.Last == maxPort:
		return r.Protocol
	case r.First == r.Last:
		return r.Protocol + " " + strconv.Itoa(int(r.First))
	}
	return r.Protocol + " " + strconv.Itoa(int(r.First)) + "-" + strconv.Itoa(int(r.Last))
}

// rulePath is the name of a rule in reports.
func rulePath(list string, i int, name string) string {
	path := index("spec."+list, i)
	if name != "" {
		path += " (" + line(name) + ")"
	}
	return path
}

// protocols of policies' ports.
var protocols = []string{"TCP", "UDP", "SCTP"}
