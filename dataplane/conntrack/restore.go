// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Saved is a flow for another table: a successor's, or the one that there is after a restart.
type Saved struct {
	// Near are the ends of what the opener sends, Far of what the other end gets; of ICMP queries both ports are the
	// identifier. They differ where the flow is translated.
	Near, Far packet.Ends
	Proto     packet.IPProto
	Timestamp bool          // ICMP: it asks for timestamps, not for echoes
	In, Out   packet.PortID // the opener is behind In, the other end behind Out
	State     string        // as in Flow, but that of a revoked flow is what it would be otherwise
	// Generation of policy that let it in, and by which rule.
	Generation, Rule uint32
	// Revoked is why policy has taken it back; None: it has not.
	Revoked verdict.Reason
	// Translated: there is a translation, though it may leave the ends as they are.
	Translated bool
	// Backend is the Translation's; 0: none. Numbers are of one process: who restores says what the backend's is
	// there.
	Backend uint32
	// Direct: Far's destination answers the packets, which keep their ends.
	Direct        bool
	Sent, Replied Traffic
	Age           time.Duration // since it was opened
	Expires       time.Duration // from now, if no packet keeps it
	TCP           SavedTCP      // of TCP; of SCTP, Ends are the tags
	record        offload.Ref   // of Recorded, or that Restore found
}

// Record is the flow's in the kernel's table, of a flow that Recorded told of or Restore has put in; 0: none.
func (s *Saved) Record() offload.Ref { return s.record }

// SavedTCP is what is known of both ends of a TCP connection, the opener first. All zero: nothing.
type SavedTCP struct {
	Ends    [2]uint32 // one past the highest sequence number sent
	Limits  [2]uint32 // up to where the other end lets this one send
	Acks    [2]uint32 // the highest acknowledgement sent, or the lowest that could be
	Windows [2]uint16 // the largest that was offered, before scaling; 0: the end has sent nothing
	Scales  [2]uint8  // of windows, and flags (see entry.go)
	// Adrift, Unknown and Fin are bits of directions: see carriage.go.
	Adrift, Unknown, Fin uint8
	Forged               bool // as well
}

// Closed says that the flow is over, and its backend's no longer. Config.Left is not told of it.
func (s *Saved) Closed() bool { return stateOf(s.State).closed() }

func stateOf(name string) state {
	for i := range states {
		if states[i].name == name {
			return state(i)
		}
	}
	return free
}

// Export iterates over the flows at time now, in monotonic nanoseconds. What the kernel carries of them stays carried;
// Sent and Replied are without that, for Restore finds the records.
func (t *Table) Export(now int64) iter.Seq[Saved] { return exported(t.shards, now) }

// ExportParts is Export in n parts or fewer, which may be iterated over at the same time.
func (t *Table) ExportParts(now int64, n int) []iter.Seq[Saved] {
	var parts []iter.Seq[Saved]
	for some := range slices.Chunk(t.shards, (len(t.shards)+n-1)/n) {
		parts = append(parts, exported(some, now))
	}
	return parts
}

func exported(shards []shard, now int64) iter.Seq[Saved] {
	return func(yield func(Saved) bool) {
		for i := range shards {
			if !shards[i].export(tickOf(now), yield) {
				return
			}
		}
	}
}

func (sh *shard) export(tick uint32, yield func(Saved) bool) bool {
	var some [16]Saved
	for at := 0; at < len(sh.entries); at += len(some) {
		copied := 0
		sh.lock.Lock()
		for i := at; i < min(at+len(some), len(sh.entries)); i++ {
			n := uint32(i + 1)
			if e := &sh.entries[i]; e.state != free && !sh.expired(n, tick) && e.flags&unlinked == 0 {
				some[copied] = sh.saved(n, tick)
				copied++
			}
		}
		sh.lock.Unlock()
		for i := range copied {
			if !yield(some[i]) {
				return false
			}
		}
	}
	return true
}

func (sh *shard) saved(n, tick uint32) Saved {
	e := &sh.entries[n-1]
	if e.flags&offloaded != 0 {
		sh.catchUp(n)
	}
	u := e.tuple()
	s := Saved{
		Far: packet.Ends{Src: u.Src, Dst: u.Dst, SrcPort: u.SrcPort, DstPort: u.DstPort}, Proto: u.Proto,
		Timestamp: e.key.kind() == kindTimestamp,
		In:        packet.PortID(uint32(e.ports)), Out: packet.PortID(e.ports >> 32),
		State: states[e.state].name, Generation: e.generation, Rule: e.rule,
		Sent: Traffic{e.packets[0], e.bytes[0]}, Replied: Traffic{e.packets[1], e.bytes[1]},
		Age: time.Duration(duration(tick - e.opened)), Expires: time.Duration(duration(e.expires - tick)),
		TCP: SavedTCP{Ends: e.end, Limits: e.limit, Acks: e.ack, Windows: e.window, Scales: e.shift},
	}
	s.Near = s.Far
	if e.flags&revoked != 0 {
		s.Revoked = e.denied()
	}
	if e.flags&offloaded != 0 {
		c := &sh.carriages[n-1]
		s.TCP.Forged = c.forged
		if s.TCP.Adrift, s.TCP.Unknown, s.TCP.Fin = c.adrift, c.unknown, c.fin; c.ref == 0 {
			s.TCP.Unknown = c.blind()
		}
	}
	if e.flags&translated != 0 {
		r := &sh.records[n-1]
		s.Translated, s.Backend = true, r.answerer()
		if s.Near = r.ends; e.flags&oneWay != 0 {
			s.Direct, s.Near, s.Far = true, s.Far, r.ends
		}
	}
	return s
}

// Recorded is the flow of a record in the kernel's table that another process has left, as far as the record tells:
// TCP is open. It returns false for a pair's, for what a flow claims beside its own, and for one that is not tracked.
func (t *Table) Recorded(ref offload.Ref, now int64) (Saved, bool) {
	f, ways, ok := t.kernel.Flow(ref)
	if !ok || f.Pair || f.Untracked || t.claimsFar(ref, &f, &ways) {
		return Saved{}, false
	}
	s := Saved{
		Near: f.Near, Far: f.Far, Proto: f.Proto, State: states[tcpEstablished].name, Generation: f.Generation,
		Translated: f.Near != f.Far, In: ways[0].In, Out: ways[0].Out,
		TCP:    SavedTCP{Unknown: 3, Adrift: 3, Scales: [2]uint8{unknownScale, unknownScale}},
		record: ref,
	}
	if f.Young.Is && f.Proto == packet.ProtoTCP { // what has come of it since the record tells: see adopt
		s.State, s.TCP = states[tcpSynSent].name, youngTCP(&f.Young)
	}
	if s.In == 0 {
		s.In = ways[1].Out
	}
	if ways[1].In != 0 {
		s.Out = ways[1].In
	}
	for d, closed := range f.Closed {
		if closed && !f.Young.Is {
			s.State = states[tcpFinWait].name
			s.TCP.Fin |= 1 << d
		}
	}
	if f.Proto == packet.ProtoUDP {
		s.State = states[udpUnreplied].name
		if ways[1].In != 0 {
			s.State = states[udpReplied].name
		}
	}
	s.Expires = states[stateOf(s.State)].timeout
	if k, ok := t.kernel.Read(ref); ok && k.Used != 0 {
		s.Age = time.Duration(max(now-k.Used, 0))
		if !f.Young.Is || k.Traffic[0].Bytes == 0 { // else its handshake is over, and adopt finds out when it expires
			s.Expires -= s.Age
		}
	}
	return s, true
}

// youngTCP is what a young record tells of a connection whose SYN was the last that userspace has seen, or a SYN-ACK.
// Of the opener's window nothing is known but that it may have been the largest.
func youngTCP(y *offload.Young) (s SavedTCP) {
	s.Scales, s.Windows[0] = [2]uint8{unknownScale | dirScaled}, 0xffff
	if y.Answered {
		s.Unknown, s.Adrift = bothWays, bothWays
		s.Scales[1] = unknownScale | dirScaled
		return s
	}
	s.Ends[0], s.Limits[0], s.Acks[1] = y.Expects, y.Expects, y.Expects
	return s
}

// What Restore returns.
var (
	errTaken     = errors.New("restore flow: its ends are another flow's")
	errNoRoom    = errors.New("restore flow: there is no room")
	errSenseless = errors.New("restore flow: it makes no sense")
	errExpired   = errors.New("restore flow: it has expired")
)

// Restore puts in a flow at time now, and has its record in the kernel's table be its own. Errors: its ends are
// another's, there is no room, it has expired, or it makes no sense; a record of the flow is the caller's to remove
// then.
func (t *Table) Restore(s *Saved, now int64) error {
	o, err := t.restoring(s, now)
	if err != nil {
		return err
	}
	sh := t.shard(o.hash)
	sh.lock.Lock()
	n, err := sh.restore(s, o)
	sh.lock.Unlock()
	if err != nil {
		return err
	}
	if s.Translated && t.link(o, n) != verdict.None {
		return errTaken
	}
	sh.lock.Lock()
	if e := &sh.entries[n-1]; e.state != free && t.keys.hash(&e.key) == o.hash {
		sh.adopt(n, s)
	}
	sh.lock.Unlock()
	return nil
}

// restoring is what is to be known of a flow before a place is found for it.
func (t *Table) restoring(s *Saved, now int64) (*opening, error) {
	o := &opening{
		s: &Seen{}, proto: s.Proto, state: stateOf(s.State), port: uint32(s.In), other: uint32(s.Out),
		now: now, tick: tickOf(now), generation: s.Generation, rule: s.Rule,
	}
	if o.state == free || !o.state.of(s.Proto) || s.Direct && !s.Translated || s.Translated && s.Backend >= left ||
		s.Near.Src.Is4() != s.Near.Dst.Is4() || s.Far.Src.Is4() != s.Far.Dst.Is4() {
		return nil, errSenseless
	}
	longest := states[o.state].timeout
	if s.Revoked != verdict.None {
		longest = revokedFor
	}
	switch {
	case s.Expires <= 0:
		return nil, errExpired
	case tickOf(int64(s.Expires)) > ticks(int64(longest)) || s.Age < 0:
		return nil, errSenseless
	}
	kind := s.kind()
	near, far := s.Near, s.Far
	if s.Direct {
		far = near
	}
	o.src = near.Src
	o.from = o.k.set(far.Src, far.Dst, far.SrcPort, far.DstPort, s.Proto, kind, false)
	o.hash = t.keys.hash(&o.k)
	o.sent, o.ends = o.aim, near
	if s.Translated {
		o.sent.from = o.sent.k.set(near.Src, near.Dst, near.SrcPort, near.DstPort, s.Proto, kind, false)
		o.sent.hash = t.keys.hash(&o.sent.k)
		o.tr = &Translation{Backend: s.Backend, Direct: s.Direct, Dst: s.Far.Dst, DstPort: s.Far.DstPort}
		if o.state.closed() && s.Backend != 0 {
			o.tr.Backend |= left
		}
	} else if near != far {
		return nil, errSenseless
	}
	return o, nil
}

func (s *Saved) kind() uint8 {
	switch {
	case s.Proto != packet.ProtoICMP && s.Proto != packet.ProtoICMPv6:
		return 0
	case s.Timestamp:
		return kindTimestamp
	}
	return kindEcho
}

// restore finds a place for the flow, and fills it.
func (sh *shard) restore(s *Saved, o *opening) (uint32, error) {
	if sh.find(o.hash, &o.k) != 0 || sh.aliases.used != 0 && sh.aliases.find(o.hash, &o.k) != 0 {
		return 0, errTaken
	}
	n := sh.take(ofDone, o.tick)
	if n == 0 {
		return 0, errNoRoom
	}
	if !sh.limits.portEnters(o.port) {
		sh.push(listFree, n)
		return 0, errNoRoom
	}
	sh.fill(n, o)
	e := &sh.entries[n-1]
	e.opened = o.tick - tickOf(int64(s.Age))
	e.packets, e.bytes = [2]uint64{s.Sent.Packets, s.Replied.Packets}, [2]uint64{s.Sent.Bytes, s.Replied.Bytes}
	e.end, e.limit, e.ack, e.window, e.shift = s.TCP.Ends, s.TCP.Limits, s.TCP.Acks, s.TCP.Windows, s.TCP.Scales
	if s.Revoked != verdict.None {
		e.flags |= revoked
		if s.Revoked == verdict.EgressDenied {
			e.flags |= revokedEgress
		}
	}
	e.expires = o.tick + tickOf(int64(s.Expires))
	if e.flags&translated != 0 {
		sh.records[n-1].asked = 0
		o.stamp = sh.records[n-1].stamp
	}
	return n, nil
}

// adopt has the flow's record in the kernel's table be the entry's.
func (sh *shard) adopt(n uint32, s *Saved) {
	e, kernel := &sh.entries[n-1], sh.table.kernel
	if s.TCP.Adrift|s.TCP.Unknown|s.TCP.Fin != 0 || s.TCP.Forged {
		e.flags |= offloaded
		sh.carriages[n-1] = carriage{
			adrift: s.TCP.Adrift & 3, unknown: s.TCP.Unknown & 3, fin: s.TCP.Fin & 3, forged: s.TCP.Forged,
		}
	}
	if kernel == nil {
		return
	}
	ref := s.record
	if ref == 0 {
		if ref, _ = kernel.Find(s.Near, s.Proto, s.In); ref == 0 {
			ref, _ = kernel.Find(s.Far.Reverse(), s.Proto, s.Out)
		}
	}
	f, ways, ok := kernel.Flow(ref)
	if !ok || f.Near != s.Near || f.Far != s.Far || f.Proto != s.Proto || f.Pair {
		return
	}
	if e.flags&offloaded == 0 {
		e.flags |= offloaded
		sh.carriages[n-1] = carriage{}
	}
	c := &sh.carriages[n-1]
	c.ref, s.record = ref, ref
	for d := range ways {
		if ways[d].Out != 0 {
			c.entered |= 1 << d
		}
	}
	if e.flags&revoked != 0 || e.state.closed() {
		sh.withdraw(n)
		return
	}
	sh.catchUp(n)
}
