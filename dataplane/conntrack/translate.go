// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// A translated flow has two pairs of ends: those that its opener sends, and those that the other end gets. Its entry
// is found by the latter, an alias leads there from the former (alias.go), and its record has both (record.go). A
// packet is thus one of four kinds:
//
//   - as the opener sends it: found by the alias, and becomes what the other end gets;
//   - as the other end answers: found by the entry, and becomes the answer to what the opener sent;
//   - as the other end gets it, but it came so: somebody sends to the backend himself, from the ends that the flow was
//     given, be it the opener without the service or the owner of the address that it was translated to. He is another
//     flow, which the entry says nothing of; Open gives it another source port, so that the answers are told apart;
//   - as the opener gets answers, but it came so: somebody speaks from the frontend's address, or a host of the world
//     to a pod's own address and port of which a masqueraded flow comes. That is no answer. It may open nothing either
//     (NATCollision), for its answers would be the flow's own packets.
//
// So no two flows have the same ends on either side. On the way to the backend that is so by the choice of the source
// port. On the opener's side a flow that is closed, revoked or expired makes way, and of two workers that open one at
// once the slower gives in.

// Translation is what the packets that a flow's opener sends become; its answers become the reverse.
type Translation struct {
	// Dst and DstPort are where they go instead; a zero Dst: where they are sent.
	Dst     packet.Addr
	DstPort uint16
	// Src is where they come from instead; zero: where they are sent from.
	Src packet.Addr
	// FirstPort and LastPort bound the source ports that a flow may take, both included, where it cannot keep its own or
	// is not to; 0 and 0: 1024 to 65535.
	FirstPort, LastPort uint16
	// Random says that the source port is chosen at random; else the opener's own is kept where no other flow has it.
	Random bool
	// Direct says that the packets keep their ends, and that Dst and DstPort answer them without this table seeing it:
	// Seen.Direct says so of them. Of TCP and UDP alone. Backend has to be said, and all else is not looked at.
	Direct bool
	// Backend is whom Config.Left is told of; 0: nobody.
	Backend uint32
}

// taken is no reason: the ends on the way to the other end are another flow's.
const taken = verdict.NumReasons

// OpenTranslated is Open for a flow whose packets are translated. It chooses a source port so that no two flows have
// the same ends on either side, and sets s.Ends to those that p is to have. NATPortsExhausted: there is none left.
// NATCollision: another worker has opened the flow meanwhile, who may have chosen otherwise.
//
// Of ICMP echoes the identifier is the source port. What has no ports, and timestamps, can only keep what it has. A
// segment in mid-stream may be given another source, for that is likely to be the one it had, and no other destination.
func (t *Table) OpenTranslated(s *Seen, p *packet.Packet, in, out packet.PortID, now int64,
	generation, rule uint32, tr *Translation) verdict.Reason {
	if s.Status != NewFlow {
		return verdict.None
	}
	if tr.Backend == 0 && !tr.Random && tr.keeps(p) {
		return t.Open(s, p, in, out, now, generation, rule)
	}
	o := opening{s: s, p: p, now: now, tick: tickOf(now), generation: generation, rule: rule, tr: tr}
	o.begin(in, out)
	if o.state == tcpPickedUp && tr.Dst != (packet.Addr{}) {
		return verdict.TCPWithoutFlow
	}
	return t.openTranslated(&o)
}

// keeps: the ends remain as they are, if the source port may.
func (tr *Translation) keeps(p *packet.Packet) bool {
	none := packet.Addr{}
	return (tr.Dst == none || tr.Dst == p.Dst && tr.DstPort == p.DstPort) && (tr.Src == none || tr.Src == p.Src)
}

// openTranslated tries ports until one is free. The flow's entry comes first, so that the port is taken; it is nobody's
// until the alias leads to it.
func (t *Table) openTranslated(o *opening) verdict.Reason {
	if o.s.Reply {
		return verdict.TCPWithoutFlow
	}
	u, tr := o.k.tuple(o.from), o.tr
	o.sent = o.aim
	o.ends = packet.Ends{Src: u.Src, Dst: u.Dst, SrcPort: u.SrcPort, DstPort: u.DstPort}
	want := tr.apply(o.ends)
	ports := tr.ports(o)
	n, r := uint32(0), taken
	for r == taken && ports.next(o.ends.SrcPort) {
		want.SrcPort = ports.port
		if o.s.kind != 0 {
			want.DstPort = want.SrcPort
		}
		n, r = t.place(o, want)
	}
	switch r {
	case verdict.None:
		if r = t.link(o, n); r != verdict.None {
			return r
		}
	case taken:
		t.count(o.sent.hash, verdict.NATPortsExhausted)
		return verdict.NATPortsExhausted
	default:
		return r
	}
	if o.s.kind == kindTimestamp {
		want.SrcPort, want.DstPort = 0, 0
	}
	o.s.Translated, o.s.Ends, o.s.Backend = true, want, tr.Backend
	if tr.Direct {
		o.s.Direct = tr.Dst
	}
	t.claimEnds(o, want)
	return verdict.None
}

// apply is the ends that packets with these are to have, but for the source port.
func (tr *Translation) apply(e packet.Ends) packet.Ends {
	if tr.Direct {
		return e
	}
	if tr.Dst != (packet.Addr{}) {
		e.Dst, e.DstPort = tr.Dst, tr.DstPort
	}
	if tr.Src != (packet.Addr{}) {
		e.Src = tr.Src
	}
	return e
}

func (t *Table) count(hash uint64, r verdict.Reason) {
	sh := t.shard(hash)
	sh.lock.Lock()
	sh.count.refuse(r)
	sh.lock.Unlock()
}

// place enters the flow with these ends on the other end's side, if they are nobody's.
func (t *Table) place(o *opening, ends packet.Ends) (uint32, verdict.Reason) {
	o.from = o.k.set(ends.Src, ends.Dst, ends.SrcPort, ends.DstPort, o.proto, o.s.kind, false)
	same := o.k.is(&o.sent.k)
	switch {
	case same && o.from != o.sent.from, !same && ends == ends.Reverse():
		return 0, taken // answers would look as what the opener sends, or as what the other end gets
	case same && o.tr.Backend == 0:
		return 0, taken // Open has found it so
	}
	o.hash = t.keys.hash(&o.k)
	sh := t.shard(o.hash)
	sh.lock.Lock()
	defer sh.lock.Unlock()
	if same && sh.aliases.used != 0 && !t.cede(sh, &o.sent, o) {
		sh.count.refuse(verdict.NATCollision)
		return 0, verdict.NATCollision
	}
	n := sh.find(o.hash, &o.k)
	if n != 0 && (sh.keepsQuiet(n, o) || !sh.gives(n, o.from^sh.entries[n-1].opener(), o)) {
		if same && sh.entries[n-1].flags&aliased == 0 {
			sh.count.refuse(verdict.NATCollision)
			return 0, verdict.NATCollision
		}
		return 0, taken
	}
	if sh.aliases.used != 0 {
		if a := sh.aliases.find(o.hash, &o.k); a != 0 && sh.aliases.all[a-1].from != o.from {
			return 0, taken // answers would look as what another opener sends
		}
	}
	n, r := sh.admit(t, o)
	sh.count.refuse(r)
	if n != 0 {
		sh.fill(n, o)
		sh.start(n, o, unknownScale)
		o.stamp = sh.records[n-1].stamp
		if !same {
			t.join(sh, o, n)
		}
	}
	return n, r
}

// join is link for a flow that was placed in a shard just now, if the alias's is not busy and nobody there has its
// ends: nobody has seen the flow without it.
func (t *Table) join(at *shard, o *opening, n uint32) {
	if !t.aliases.Load() {
		t.aliases.Store(true)
	}
	sh, x := t.shard(o.sent.hash), &o.sent
	if sh != at && !sh.lock.TryLock() {
		return
	}
	if sh.aliases.find(x.hash, &x.k) == 0 && sh.find(x.hash, &x.k) == 0 && sh.aliases.add(x, &o.aim, n, o.stamp) {
		at.entries[n-1].flags &^= unlinked
		o.bound = true
	}
	if sh != at {
		sh.lock.Unlock()
	}
}

// keepsQuiet: the entry is another flow's that was revoked. To begin anew is its own ends' affair.
func (sh *shard) keepsQuiet(n uint32, o *opening) bool {
	e := &sh.entries[n-1]
	own := e.flags&oneWay != 0 || e.flags&translated != 0 && sh.records[n-1].ends == o.ends
	return e.flags&revoked != 0 && !own && !sh.expired(n, o.tick)
}

// link has an alias lead to the flow that was placed, unless join did. Where it cannot, the flow is withdrawn.
func (t *Table) link(o *opening, n uint32) verdict.Reason {
	if o.bound || o.k.is(&o.sent.k) {
		return verdict.None
	}
	sh := t.shard(o.sent.hash)
	sh.lock.Lock()
	r := t.addAlias(sh, o, n)
	sh.count.refuse(r)
	sh.lock.Unlock()

	at := t.shard(o.hash)
	at.lock.Lock()
	e := &at.entries[n-1]
	switch {
	case e.state == free || e.flags&unlinked == 0 || at.records[n-1].stamp != o.stamp: // it had to make way already
		r = verdict.FlowTableFull
		at.count.refuse(r)
		sh.aliases.over.Store(true)
	case r != verdict.None:
		at.free(n, causeWithdrawn)
	default:
		e.flags &^= unlinked
	}
	at.lock.Unlock()
	return r
}

func (t *Table) addAlias(sh *shard, o *opening, n uint32) verdict.Reason {
	if !t.cede(sh, &o.sent, o) {
		return verdict.NATCollision
	}
	if m := sh.standing(&o.sent, o); m != 0 {
		if e := &sh.entries[m-1]; e.flags&aliased == 0 || e.opener() != o.sent.from {
			return verdict.NATCollision
		}
	}
	if !sh.aliases.add(&o.sent, &o.aim, n, o.stamp) {
		return verdict.FlowTableFull
	}
	return verdict.None
}

// cede has the flow whose packets come with the ends of x make way to the one that is about to be, and frees an alias
// of them that is left over. It returns false where the flow stands. sh's lock is held before and after, but not all
// the time.
func (t *Table) cede(sh *shard, x *aim, o *opening) bool {
	for {
		n := sh.aliases.find(x.hash, &x.k)
		if n == 0 {
			return true
		}
		a := sh.aliases.all[n-1]
		at := t.shard(a.hash)
		if at != sh {
			sh.lock.Unlock()
			at.lock.Lock()
		}
		gone := !at.holds(&a) || at.gives(a.n, x.from^a.from, o)
		if at != sh {
			at.lock.Unlock()
			sh.lock.Lock()
		}
		if !gone {
			return false
		}
		sh.aliases.remove(x.hash, &x.k, a.stamp)
	}
}

// trackAlias is Track for a packet that a translated flow's opener may have sent. sh is locked, and still is when there
// is no such flow.
func (t *Table) trackAlias(sh *shard, p *packet.Packet, in packet.PortID, k *key, from uint8, now int64,
	generation uint32, s *Seen) bool {
	n := sh.aliases.find(s.hash, k)
	if n == 0 || sh.aliases.all[n-1].from != from {
		return false
	}
	a, tick := sh.aliases.all[n-1], tickOf(now)
	at := t.shard(a.hash)
	if at != sh {
		sh.lock.Unlock()
		at.lock.Lock()
	}
	is, known := at.holds(&a), false
	if is && at.expired(a.n, tick) {
		at.free(a.n, causeExpired)
		is = false
	}
	if is {
		known = at.track(a.n, p, in, 0, tick, generation, s)
	}
	if known {
		s.hash = a.hash
		at.lock.Unlock()
		return true
	}
	if at != sh {
		at.lock.Unlock()
		sh.lock.Lock()
	}
	if !is {
		sh.aliases.remove(s.hash, k, a.stamp)
	}
	return false
}

// Drop forgets the flow of a Known packet.
func (t *Table) Drop(s *Seen) {
	if s.at == 0 || s.Status == NewFlow {
		return
	}
	sh := t.shard(s.hash)
	sh.lock.Lock()
	if e := &sh.entries[s.at-1]; e.state != free && t.keys.hash(&e.key) == s.hash {
		sh.free(s.at, causeForgotten)
	}
	sh.lock.Unlock()
}
