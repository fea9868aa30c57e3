// SPDX-License-Identifier: Apache-2.0

// Package explain is "viaduct explain": what policy says of a flow that would begin, and why; of one for a service,
// what it says of each backend. A running dataplane is asked, or manifests are judged offline by the same tables.
//
// command.go is the CLI, end.go the ends of the flow as people name them, online.go and offline.go who is asked,
// answer.go what is printed.
package explain

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/explain"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// question is what is asked.
type question struct {
	from, to end
	proto    packet.IPProto
	port     uint16 // of the destination; 0 where the protocol has none
	portName string // that stands for the port; empty: the number was said
}

// judge says what policy says of the question's flow between two addresses of one family.
type judge func(ctx context.Context, src, dst netip.Addr) (*api.ExplainReply, error)

// newQuestion reads the flags.
func newQuestion(from, to, protocol, port string) (q *question, err error) {
	q = &question{}
	if q.from, err = parseEnd("--from", from); err != nil {
		return nil, err
	}
	if q.to, err = parseEnd("--to", to); err != nil {
		return nil, err
	}
	if q.proto, err = explain.ParseProtocol(protocol); err != nil {
		return nil, fmt.Errorf("--%w", err)
	}
	switch has := explain.Ports(q.proto); {
	case has && port == "":
		return nil, fmt.Errorf("%s has ports: say which by --port", protocol)
	case !has && port != "":
		return nil, fmt.Errorf("--port %s: %s has no ports", port, protocol)
	case has:
		return q, q.setPort(port)
	}
	return q, nil
}

// setPort reads a port's number, or, where it is none, its name.
func (q *question) setPort(text string) error {
	if strings.Trim(text, "0123456789") != "" {
		q.portName = text
		return nil
	}
	n, err := parsePort(text)
	q.port = n
	return err
}

// namePort finds the number of a port that was said by name: the destination's containers have it.
func (q *question) namePort() (err error) {
	if q.portName != "" {
		q.port, err = q.to.port(q.proto, q.portName)
	}
	return err
}

// carries says whether the question's protocol is one of the family.
func (q *question) carries(f family) bool {
	return q.proto != packet.ProtoICMP && f == ipv6 || q.proto != packet.ProtoICMPv6 && f == ipv4
}

// ask has each family judged that the protocol and both ends have.
func (q *question) ask(ctx context.Context, judge judge) (*Report, error) {
	r := &Report{From: q.from.text, To: q.to.text, Protocol: explain.Protocol(q.proto), Port: q.port,
		Refused: []string{}}
	for f := range families {
		src, dst := q.from.addresses[f], q.to.addresses[f]
		if !src.IsValid() || !dst.IsValid() || !q.carries(f) {
			continue
		}
		reply, err := judge(ctx, src, dst)
		if err != nil {
			return nil, err
		}
		r.Families = append(r.Families, q.answer(f, reply))
	}
	if len(r.Families) == 0 {
		return nil, fmt.Errorf("no packet of %s goes from %s (%s) to %s (%s)", r.Protocol, &q.from, q.from.has(), &q.to,
			q.to.has())
	}
	r.Answer = r.Families[0]
	for _, a := range r.Families {
		if a.denies() {
			r.Answer = a
			break
		}
	}
	return r, nil
}

// answer is the reply as it is printed: ends that have names have them in it.
func (q *question) answer(f family, reply *api.ExplainReply) Answer {
	a := Answer{
		Family: f.String(), Source: q.from.said(f), Destination: q.to.said(f), Verdict: reply.Verdict, Reason: reply.Reason,
		Rule: reply.Rule, Steps: []string{}, StagedVerdict: reply.StagedVerdict, StagedRule: reply.StagedRule,
		Epoch: reply.Epoch, Service: reply.Service, Backends: []Backend{}, Uncarried: reply.Uncarried,
		Pair: reply.Pair,
	}
	for _, b := range reply.Backends {
		a.Backends = append(a.Backends, Backend{b.Address, b.Port, b.Verdict, b.Reason, b.Rule})
	}
	for i, step := range reply.Steps {
		switch i {
		case 0:
			step = q.from.name("from ", f, step)
		case 1:
			step = q.to.name("to ", f, step)
		}
		a.Steps = append(a.Steps, step)
	}
	return a
}

// Verdict of a reply.
const deny = "deny"
