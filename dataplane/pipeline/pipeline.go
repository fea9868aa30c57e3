// SPDX-License-Identifier: Apache-2.0

// Package pipeline judges packets: parse, ingress checks, local delivery, route, rewrite. It does no I/O and keeps no
// packet; what it decides, the worker carries out.
//
// The file order is the packet's: pipeline.go (the steps), ingress.go (may it come in), arp.go and nd.go (neighbours),
// track.go (of which flow it is), fragment.go (the same for fragments), service.go (who answers for a service),
// route.go (where to), local.go (addressed to us), police.go (may it go there), nat.go (with which addresses),
// direct.go (to be answered by another node, or for one), carry.go, pair.go and untracked.go (what the kernel does with
// those that follow), icmp.go (what the sender is told). review.go asks the same of what the kernel carries, when
// tables change.
package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/denial"
	"github.com/viaduct-net/viaduct/dataplane/fragment"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/route"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Decision is what becomes of a packet.
type Decision struct {
	// Reason, and by it the verdict, of the packet as received.
	Reason verdict.Reason
	// Send says that the frame leaves by the packet's Out port, rewritten: as the packet itself when the verdict
	// is Forwarded, as an answer of our own when it is Consumed.
	Send bool
	// Wait is the neighbour to wait for before the frame can leave, nil for none.
	Wait *neighbor.Entry
	// Until is when the frame may leave, in monotonic nanoseconds, for ports' bandwidth limits; 0: at once. Judged
	// then, and Paid, it is not held up again.
	Until int64
	// Datagram is the one whose first fragment the frame waits for, to be given to Fragments' Hold; 0: it does not.
	Datagram fragment.Datagram
	// Rule is what of policy decided, where policy was asked; of a packet of a flow, when the flow was let in.
	Rule policy.RuleID
	// Solicit says that Wait has to be asked for its address at once.
	Solicit bool
	// Cut says that the packet that is to be sent is larger than MTU, in bytes of IP packet, and how to make it fit.
	Cut Cut
	MTU int
}

// Cut is a way to make a packet fit an MTU.
type Cut uint8

const (
	// Whole: it fits.
	Whole Cut = iota
	// Fragment cuts an IPv4 packet without DF into fragments (RFC 791).
	Fragment
	// Segment cuts a TCP superframe, which a sending stack's segmentation offload or a receive offload made, into
	// segments, as the device would have.
	Segment
)

// Answer says that the frame no longer holds the packet received but an answer of our own to it.
func (d *Decision) Answer() bool { return d.Reason.Verdict() == verdict.Consumed }

// Pipeline judges the packets of one worker. It is not safe for concurrent use.
type Pipeline struct {
	t      *tables.Tables
	now    int64 // nanoseconds, monotonic
	limits limits
	asked  *neighbor.Entry // see nextHop
	paid   bool            // see Paid
	again  bool            // see Again

	flows   *conntrack.Table
	names   *names.Store // of addresses, as stations' DNS answers say; may be nil
	seen    conntrack.Seen
	opening opening
	way     way
	others  fragment.Addresses // of way.judged
	choice  service.Choice     // of way.chosen
	dice    service.Dice
	denials denial.Log

	// decision is filled in field by field where it lies: copying it whole would stall on its small fields.
	decision Decision

	kernel   *offload.Table // nil: it carries nothing
	glimpses glimpses
	begun    uint32 // connections to backends

	merging   []bool // by device: see SetMerging
	fragments fragment.Table

	foreseen struct {
		to    packet.Addr
		group *route.Group
		opens bool
	}
}

// Init sets what all workers share: the flows, and the names of addresses, which may be nil. It is called once, before
// all else.
func (l *Pipeline) Init(flows *conntrack.Table, names *names.Store) {
	l.flows, l.names, l.kernel = flows, names, flows.Kernel()
	if l.kernel != nil {
		l.glimpses.sets = make([][4]uint32, glimpsed)
	}
}

// Denials is what policy has denied lately. Any goroutine may read it.
func (l *Pipeline) Denials() *denial.Log { return &l.denials }

// Begin sets the tables in force and the time, in monotonic nanoseconds, for the packets judged until the next call.
func (l *Pipeline) Begin(t *tables.Tables, now int64) {
	l.t = t
	l.now = now
	l.fragments.Advance(now)
	l.Foresee(packet.Addr{}, nil, false)
}

// SetMerging says whether packets of a device may be superframes, merged by offloads before the hook sees them, as they
// are on a generic hook. TCP of it that is too large for its way is then cut, since its sender sent smaller packets.
func (l *Pipeline) SetMerging(device int, is bool) {
	for len(l.merging) <= device {
		l.merging = append(l.merging, false)
	}
	l.merging[device] = is
}

func (l *Pipeline) merges(device int) bool { return device < len(l.merging) && l.merging[device] }

// Foresee says that the tables in force lead packets for an address to a group, nil for none: Judge need not look that
// up again. opens says that what a flow that the next packet may open needs has been fetched ahead.
func (l *Pipeline) Foresee(to packet.Addr, group *route.Group, opens bool) {
	l.foreseen.to, l.foreseen.group, l.foreseen.opens = to, group, opens
}

// ForeseeServices has what Choose will read fetched ahead, of packets that may open flows.
func (l *Pipeline) ForeseeServices(guesses []service.Guess) { l.t.Services.Foresee(guesses, &l.dice) }

// Paid says that the packets judged until the next call have waited already for their ports' limits.
func (l *Pipeline) Paid(is bool) { l.paid = is }

// lookup is the longest prefix match.
func (l *Pipeline) lookup(to packet.Addr) *route.Group {
	if l.foreseen.to == to {
		return l.foreseen.group
	}
	return l.t.FIB.Lookup(to)
}

// Judge decides about the packet received by device (an index as Tables.Demux takes). The caller has set Frame,
// Start, End and Tail; Judge sets In, and Out where something is to be sent. The decision is valid until the next call.
func (l *Pipeline) Judge(p *packet.Packet, device int) *Decision {
	l.decision, l.way, l.opening.is = Decision{}, way{}, false
	l.seen.Carry, l.seen.Begins = false, false
	l.decision.Reason = l.judge(p, device)
	if l.way.first { // it came to no verdict of police's
		l.judgeFragments(l.decision.Reason, fragment.Addresses{})
	}
	return &l.decision
}

// judge is the pipeline: the first step with a reason ends it. Beside the reason a step may set the rest of
// l.decision, by send and wait.
func (l *Pipeline) judge(p *packet.Packet, device int) verdict.Reason {
	r := p.Parse()
	p.In = l.t.Demux(device, p.VLANs, source(p))
	if r != verdict.None {
		return r
	}
	port := l.t.Port(p.In)
	if r := admit(p, port); r != verdict.None {
		return r
	}
	if p.EtherType == packet.EtherTypeARP {
		return l.arp(p, port)
	}
	if r := martian(p, port); r != verdict.None {
		return r
	}
	if r := spoofed(p, port); r != verdict.None {
		return r
	}
	if p.IsND() {
		return l.nd(p, port)
	}
	return l.route(p, port)
}

// send says that the frame leaves by the port.
func (l *Pipeline) send(p *packet.Packet, out packet.PortID, r verdict.Reason) verdict.Reason {
	p.Out = out
	l.decision.Send = true
	return r
}

// wait says that the frame has to wait for l.asked, which is to be solicited or has been.
func (l *Pipeline) wait(s standing, r verdict.Reason) verdict.Reason {
	l.decision.Wait, l.decision.Solicit = l.asked, s == solicit
	return r
}

// Resume judges again an answer of our own that was waiting for a neighbour.
func (l *Pipeline) Resume(p *packet.Packet, reason verdict.Reason) *Decision {
	l.decision = Decision{}
	l.decision.Reason = l.answer(p, reason)
	return &l.decision
}
