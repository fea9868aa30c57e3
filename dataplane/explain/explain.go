// SPDX-License-Identifier: Apache-2.0

// Package explain puts policy into words: verdicts with the steps that led to them, rules and policies. A running
// dataplane and the offline tools say the same, since what they say is what judges packets.
package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Flow explains what a table says of a flow that would begin.
func Flow(t *policy.Table, q *policy.Query) *api.ExplainReply {
	x := t.Explain(q)
	v := x.Verdict
	r := &api.ExplainReply{Verdict: word(v.Reason == verdict.None), Rule: Rule(t, v.Rule)}
	if v.Reason != verdict.None {
		r.Reason = v.Reason.String()
	}
	r.Steps = append(r.Steps, "from "+who(x.Src), "to "+who(x.Dst))
	for _, s := range x.Steps {
		r.Steps = append(r.Steps, s.String())
	}
	if staged := v.Staged; staged.Asked && staged.Denied != (v.Reason != verdict.None) {
		r.StagedVerdict, r.StagedRule = word(!staged.Denied), Rule(t, staged.Rule)
	}
	return r
}

func word(allowed bool) string {
	if allowed {
		return "allow"
	}
	return "deny"
}

// who says in one line who an end of a flow is.
func who(w policy.Who) string {
	id := w.Identity
	text := w.Addr.String() + ": "
	switch {
	case id == nil:
		text += "the world outside"
	case id.GetKind() == controlapi.Identity_KIND_NODE:
		text += strings.TrimRight(fmt.Sprintf("identity %d, a node %s", id.GetId(), strings.Join(id.GetLabels(), " ")), " ")
	default:
		text += strings.TrimRight(fmt.Sprintf("identity %d, a pod of namespace %s %s", id.GetId(), id.GetNamespace(),
			strings.Join(id.GetLabels(), " ")), " ")
	}
	if w.Node {
		text += ", this node"
	}
	return text
}

// Rule names what decided: "NetworkPolicy shop/web spec.ingress[0]", or in words what is no rule of a policy; empty
// where nothing had to.
func Rule(t *policy.Table, id policy.RuleID) string {
	if id == policy.RuleDefault {
		return ""
	}
	p, rule, text := t.Rule(id)
	switch {
	case rule != nil:
		return p.GetName() + " " + rule.GetName()
	case p != nil:
		return p.GetName() + " " + text
	}
	return text
}

// protocols are those with a name, in the words of people.
var protocols = map[packet.IPProto]string{
	packet.ProtoTCP: "tcp", packet.ProtoUDP: "udp", packet.ProtoSCTP: "sctp",
	packet.ProtoICMP: "icmp", packet.ProtoICMPv6: "icmpv6",
}

// Protocol is the name of a protocol, or its number.
func Protocol(p packet.IPProto) string { return cmp.Or(protocols[p], strconv.Itoa(int(p))) }

// ParseProtocol undoes Protocol. Capitals, which manifests have, will do as well.
func ParseProtocol(text string) (packet.IPProto, error) {
	for p, name := range protocols {
		if strings.EqualFold(name, text) {
			return p, nil
		}
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("protocol %q is none of tcp, udp, sctp, icmp, icmpv6 and no number from 0 to 255", text)
	}
	return packet.IPProto(n), nil
}

// Ports says whether a protocol has ports.
func Ports(p packet.IPProto) bool {
	return slices.Contains([]packet.IPProto{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP}, p)
}
