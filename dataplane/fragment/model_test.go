// SPDX-License-Identifier: Apache-2.0

package fragment

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// model is the table without a thought for its cost: every byte on its own, every list a slice.
type model struct {
	limits  limits
	now     int64
	verdict verdict.Reason
	all     []*naive // in the order in which they were begun
	settles int
	came    int
	hostOf  []byte // by the order in which fragments came
	out     []pass
}

type naive struct {
	host    byte
	id      uint32
	state   state
	reason  verdict.Reason
	since   int64
	settled int // in which place it was settled
	bytes   map[int]bool
	size    int // -1: not known
	waits   []int
}

func (m *model) find(host byte, id uint32) *naive {
	for _, d := range m.all {
		if d.host == host && d.id == id {
			return d
		}
	}
	return nil
}

func (m *model) remove(d *naive) {
	m.all = slices.DeleteFunc(m.all, func(o *naive) bool { return o == d })
}

func (m *model) settle(d *naive, s state, r verdict.Reason) {
	if d.state == waiting {
		m.settles++
		d.since, d.settled = m.now, m.settles
		for _, number := range d.waits {
			m.out = append(m.out, pass{number, r})
		}
		d.waits = nil
	}
	d.state, d.reason = s, r
}

// oldest is the first that match, by the time at which they began or were settled. Of those settled and those that wait
// at one time it is one that is settled, since that one began before.
func (m *model) oldest(matches func(*naive) bool) (old *naive) {
	for _, d := range m.all {
		if !matches(d) {
			continue
		}
		if old == nil || d.since < old.since || d.since == old.since && d.state != waiting &&
			(old.state == waiting || d.settled < old.settled) {
			old = d
		}
	}
	return old
}

func (m *model) open(host byte, id uint32) *naive {
	mine := func(d *naive) bool { return d.host == host }
	first := slices.IndexFunc(m.all, mine)
	count := 0
	for _, d := range m.all {
		if mine(d) {
			count++
		}
	}
	var out *naive
	switch {
	case count == m.limits.datagramsPort:
		out = m.all[first]
	case len(m.all) == m.limits.datagrams:
		out = m.oldest(func(*naive) bool { return true })
	}
	if out != nil {
		m.settle(out, lost, verdict.FragmentQueueFull)
		m.remove(out)
	}
	d := &naive{host: host, id: id, since: m.now, bytes: map[int]bool{}, size: -1}
	m.all = append(m.all, d)
	return d
}

// fit enters a piece byte by byte.
func (d *naive) fit(a piece) fit {
	if d.size >= 0 && (a.to > d.size || !a.more && a.to != d.size) {
		return contrary
	}
	was := d.size
	if was < 0 && !a.more {
		for at := range d.bytes {
			if at >= a.from {
				return contrary
			}
		}
		d.size = a.to
	}
	there := 0
	for at := a.from; at < a.to; at++ {
		if d.bytes[at] {
			there++
		}
	}
	switch {
	case there == a.to-a.from && (there > 0 || was >= 0):
		return repeated
	case there > 0:
		return contrary
	}
	for at := a.from; at < a.to; at++ {
		d.bytes[at] = true
	}
	if runs := d.runs(); runs > maxSpans {
		return contrary
	}
	return fresh
}

func (d *naive) runs() (n int) {
	for at := range d.bytes {
		if !d.bytes[at-1] {
			n++
		}
	}
	return n
}

func (m *model) enter(host byte, id uint32, a piece) []pass {
	m.came++
	m.hostOf = append(m.hostOf, host)
	m.out = []pass{{number: m.came}}
	m.out[0].reason = m.judge(host, id, a)
	return m.out
}

func (m *model) judge(host byte, id uint32, a piece) verdict.Reason {
	d, first := m.find(host, id), a.from == 0
	if d != nil && d.state == lost && first {
		m.remove(d)
		d = nil
	}
	if d == nil {
		d = m.open(host, id)
	}
	if d.state == lost || d.state == spoiled {
		return d.reason
	}
	switch d.fit(a) {
	case repeated:
		return verdict.FragmentOverlap
	case contrary:
		m.settle(d, spoiled, verdict.FragmentOverlap)
		return verdict.FragmentOverlap
	}
	switch {
	case first:
		m.settle(d, judged, m.verdict)
	case d.state == waiting:
		return m.hold(d)
	}
	if len(d.bytes) == d.size {
		m.remove(d)
	}
	return d.reason
}

func (m *model) hold(d *naive) verdict.Reason {
	all, mine := 0, 0
	for _, o := range m.all {
		all += len(o.waits)
		if o.host == d.host {
			mine += len(o.waits)
		}
	}
	// Those pushed out for this one have not been taken out yet, and count.
	pushed := len(m.out) - 1
	for _, p := range m.out[1:] {
		if m.hostOf[p.number-1] == d.host {
			mine++
		}
	}
	if all+pushed == m.limits.held || mine == m.limits.heldPort {
		return verdict.FragmentQueueFull
	}
	d.waits = append(d.waits, m.came)
	return verdict.WaitingForFragment
}

func (m *model) advance(now int64) []pass {
	m.now, m.out = now, nil
	for {
		d := m.oldest(func(d *naive) bool { return d.state == waiting && now-d.since >= waitTime })
		if d == nil {
			break
		}
		m.settle(d, lost, verdict.FragmentTimeout)
	}
	m.all = slices.DeleteFunc(m.all, func(d *naive) bool { return d.state != waiting && now-d.since >= keepTime })
	return m.out
}

func (m *model) again(host byte, id uint32, first bool) verdict.Reason {
	d := m.find(host, id)
	if d != nil && (d.state == spoiled || d.state == judged && !first) {
		return d.reason
	}
	return verdict.None
}

// source draws what happens: rapid.T, or a fuzzer's bytes.
type source interface {
	number(label string, least, most int) int
}

type drawn struct{ *rapid.T }

func (d drawn) number(label string, least, most int) int {
	return rapid.IntRange(least, most).Draw(d.T, label)
}

type read struct{ b []byte }

func (r *read) number(_ string, least, most int) int {
	if len(r.b) == 0 {
		return least
	}
	n := int(r.b[0])
	r.b = r.b[1:]
	return least + n%(most-least+1)
}

// compare has the same happen to a table and to the model, and compares all that becomes of it.
func compare(t *testing.T, fatal func(string, ...any), s source, steps int) {
	l := limits{datagrams: 7, datagramsPort: 3, held: 6, heldPort: 4}
	r := newRig(t, l)
	m := &model{limits: l, now: r.now}
	for step := range steps {
		host, id := byte(s.number("host", 1, 3)), uint32(s.number("id", 1, 4))
		var got, want []pass
		a := drawPiece(s)
		switch s.number("what", 0, 9) {
		case 0:
			now := r.now + []int64{1, second / 3, waitTime, keepTime / 2}[s.number("time", 0, 3)]
			r.Advance(now)
			got, want = r.left(), m.advance(now)
		case 1:
			n, reason := r.Again(craft(t, true, host, id, a))
			got, want = []pass{{0, reason}}, []pass{{0, m.again(host, id, a.from == 0)}}
			if d := m.find(host, id); d != nil && d.state == judged && a.from == 0 {
				d.reason = verdict.IngressDenied
				r.JudgeAgain(n, d.reason, Addresses{})
			}
		default:
			reason := []verdict.Reason{verdict.None, verdict.EgressDenied}[s.number("verdict", 0, 1)]
			r.verdict, m.verdict = reason, reason
			got, want = r.enter(craft(t, true, host, id, a)), m.enter(host, id, a)
		}
		if !slices.Equal(got, want) || r.inUse != len(m.all) {
			fatal("step %d, %d/%d %+v: %v and %d datagrams, want %v and %d",
				step, host, id, a, got, r.inUse, want, len(m.all))
		}
		r.check()
	}
}

// drawPiece draws a fragment: mostly of equal size, so that datagrams become whole, and else any.
func drawPiece(s source) piece {
	from, size := 16*s.number("at", 0, 4), 16
	if s.number("odd", 0, 3) == 0 {
		from, size = 8*s.number("from", 0, 9), 8*s.number("size", 1, 4)
	}
	a := piece{from, from + size, s.number("last", 0, 3) != 0 || from == 0}
	if !a.more {
		a.to -= s.number("short", 0, size)
	}
	return a
}

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		compare(t, rt.Fatalf, drawn{rt}, rapid.IntRange(1, 200).Draw(rt, "steps"))
	})
}

func FuzzAgainstModel(f *testing.F) {
	f.Add([]byte("first, second, third"))
	f.Add([]byte{1, 1, 0, 1, 3, 9, 0, 1, 1, 1, 1, 3, 9, 0, 1, 1, 2, 1, 3, 9, 0})
	f.Fuzz(func(t *testing.T, b []byte) { compare(t, t.Fatalf, &read{b}, min(len(b)/5, 400)) })
}

// FuzzPieces: whatever comes in whatever frames, what is let on of a datagram never has two copies of a byte.
func FuzzPieces(f *testing.F) {
	for _, a := range []piece{a, b, last} {
		for _, v6 := range []bool{false, true} {
			f.Add(craft(f, v6, 1, 7, a).Frame, craft(f, v6, 1, 7, piece{8, 24, true}).Frame)
		}
	}
	f.Fuzz(func(t *testing.T, one, other []byte) {
		var table Table
		var pieces []packet.Piece
		for _, b := range [][]byte{one, other} {
			p := &packet.Packet{Frame: b, End: len(b)}
			if p.Parse() != verdict.None || p.Flags&packet.Fragment == 0 {
				return
			}
			if _, r := table.Enter(p); r == verdict.None || r == verdict.WaitingForFragment {
				pieces = append(pieces, p.Piece())
			}
		}
		if table.inUse != 1 || len(pieces) < 2 {
			return // of two datagrams, or refused
		}
		x, y := pieces[0], pieces[1]
		if x.Offset < y.Offset+y.Len && y.Offset < x.Offset+x.Len {
			t.Errorf("%+v and %+v are both let on", x, y)
		}
	})
}
