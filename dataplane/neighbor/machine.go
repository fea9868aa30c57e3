// SPDX-License-Identifier: Apache-2.0

package neighbor

import (
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// How says in what way a neighbour's MAC was heard. The flags mean what they do in a neighbour advertisement
// (RFC 4861 4.4); Create says that the entry may be made.
type How uint8

// The flags of How.
const (
	Solicited How = 1 << iota // an answer to our solicitation: the neighbour is reachable
	Override                  // replaces a MAC that differs
	Create                    // makes the entry when there is none
)

// The ways of hearing that ARP and ND have.
const (
	// RequestSeen is an ARP request for, or a solicitation of, an address of ours, with the sender's MAC: RFC 826's
	// "add the triplet", RFC 4861 7.2.3. So is a router solicitation that carries a MAC (6.2.6).
	RequestSeen = Create | Override
	// SolicitedOverride is an ARP reply to us, and an advertisement with both flags.
	SolicitedOverride = Solicited | Override
	// SolicitedReply is an advertisement that is solicited and says not to override, as an anycast's does.
	SolicitedReply = Solicited
	// UnsolicitedOverride is an announcement: gratuitous ARP and any other ARP that is not for an address of ours
	// (RFC 826's merge), and an unsolicited advertisement with the override flag.
	UnsolicitedOverride = Override
	// Unsolicited is an advertisement with neither flag.
	Unsolicited How = 0
)

const (
	// throttledRetry is how long a solicitation waits that the rate limits withheld, in nanoseconds.
	throttledRetry = int64(100 * time.Millisecond)
	// advanceTimers and advanceScan bound the work of one Advance: timers fired and entries looked at.
	advanceTimers = 512
	advanceScan   = 4096
)

// Learn notes that addr at port was heard to have mac, and returns whether a MAC or its usability changed by it. The
// caller has checked the message (addresses on-link, RFC 4861 7.1) and that addr is unicast and not our own. What is
// no unicast MAC is ignored.
func (t *Table) Learn(port packet.PortID, addr packet.Addr, mac packet.MAC, how How, now int64) (changed bool) {
	if !unicast(mac) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.Lookup(port, addr)
	if e == nil {
		if how&Create == 0 {
			return false
		}
		if e = t.create(port, addr, now); e == nil {
			return false
		}
	}
	return t.hear(e, mac, how, now)
}

// Confirm notes a solicited advertisement without a MAC, which says that the MAC we used is right (RFC 4861 7.2.5),
// or any other proof that the neighbour receives what we send it (7.3.1).
func (t *Table) Confirm(port packet.PortID, addr packet.Addr, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.Lookup(port, addr)
	if e != nil && e.State().Usable() {
		t.hear(e, e.mac(), Solicited, now)
	}
}

// hear is RFC 4861 7.2.5, and 7.2.3 where how has Create.
func (t *Table) hear(e *Entry, mac packet.MAC, how How, now int64) (changed bool) {
	state, same := e.State(), e.mac() == mac
	switch {
	case state == Permanent:
		return false
	case !state.Usable():
		t.settle(e, mac, how, now)
		t.generation.Add(1)
		return true
	case !same && how&Override == 0:
		if state == Reachable {
			t.enter(e, e.mac(), Stale, now, int64(t.cfg.StaleTime))
		}
		return false
	case !same || how&Solicited != 0:
		t.settle(e, mac, how, now)
		if !same {
			t.generation.Add(1)
		}
		return !same
	}
	return false
}

// settle enters Reachable after an answer, Stale after anything less.
func (t *Table) settle(e *Entry, mac packet.MAC, how How, now int64) {
	e.backoff = 0
	if how&Solicited != 0 {
		e.confirmed = now
		t.enter(e, mac, Reachable, now, int64(t.cfg.ReachableTime))
		return
	}
	t.enter(e, mac, Stale, now, int64(t.cfg.StaleTime))
}

func (t *Table) enter(e *Entry, mac packet.MAC, s State, now, timeout int64) {
	e.since, e.probes = now, 0
	e.set(mac, s)
	t.setTimer(e, now+timeout)
}

type solicitation struct {
	entry     *Entry
	mac       packet.MAC
	isUnicast bool
}

// Advance fires the timers that are due at now and calls solicit for each solicitation to be sent: to unicast where
// isUnicast, else by broadcast or to the solicited-node group. One worker calls it about every 100 ms. Its work is
// bounded; what is left over is done by the next call. solicit may call back into the table, but not Advance.
func (t *Table) Advance(now int64, solicit func(e *Entry, unicast packet.MAC, isUnicast bool)) {
	t.advancing.Lock()
	defer t.advancing.Unlock()
	t.advance(now)
	for _, s := range t.due {
		solicit(s.entry, s.mac, s.isUnicast)
	}
	clear(t.due)
	t.due = t.due[:0]
}

func (t *Table) advance(now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.scan(now)
	for range advanceTimers {
		if len(t.timers) == 0 || t.timers[0].deadline > now {
			return
		}
		t.fire(t.timers[0], now)
	}
}

// scan looks for stale entries that are in use, which readers only mark, and starts to verify them.
func (t *Table) scan(now int64) {
	for range min(advanceScan, len(t.entries)) {
		t.hand = (t.hand + 1) % len(t.entries)
		e := t.entries[t.hand]
		if e.touch(now) && e.State() == Stale {
			t.enter(e, e.mac(), Delay, now, int64(t.cfg.DelayFirstProbe))
		}
	}
}

// fire handles the timer of one entry: the right-hand side of RFC 4861 appendix C's table.
func (t *Table) fire(e *Entry, now int64) {
	e.touch(now)
	switch e.State() {
	case Incomplete:
		t.retry(e, now)
	case Failed:
		t.fireFailed(e, now)
	case Reachable:
		t.enter(e, e.mac(), Stale, now, int64(t.cfg.StaleTime))
	case Stale:
		t.fireStale(e, now)
	case Delay:
		t.enter(e, e.mac(), Probe, now, 0)
		t.probe(e, now)
	case Probe:
		t.probe(e, now)
	default:
		t.stopTimer(e)
	}
}

// retry solicits an incomplete entry once more, or gives it up. A neighbour that was never solicited, because of the
// rate limits, is given up after twice the usual time.
func (t *Table) retry(e *Entry, now int64) {
	patience := 2 * int64(t.cfg.MaxMulticastSolicit) * int64(t.cfg.RetransTimer)
	if e.probes >= t.cfg.MaxMulticastSolicit || now-e.since >= patience {
		t.stats.Failures++
		e.backoff = int64(t.cfg.RetransTimer)
		t.enter(e, packet.MAC{}, Failed, now, e.backoff)
		t.generation.Add(1)
		return
	}
	if !t.multicast(e, now) {
		t.setTimer(e, now+throttledRetry)
		return
	}
	e.probes++
	t.setTimer(e, now+int64(t.cfg.RetransTimer))
}

// fireFailed solicits a failed entry again when it was asked for since the last time, and forgets it when not.
func (t *Table) fireFailed(e *Entry, now int64) {
	if now-e.lastUsed > e.backoff {
		t.forget(e)
		return
	}
	if !t.multicast(e, now) {
		t.setTimer(e, now+throttledRetry)
		return
	}
	e.backoff = min(2*e.backoff, int64(t.cfg.MaxBackoff))
	t.setTimer(e, now+e.backoff)
}

func (t *Table) fireStale(e *Entry, now int64) {
	expiry := max(e.lastUsed, e.since) + int64(t.cfg.StaleTime)
	if e.lastUsed == now {
		t.enter(e, e.mac(), Delay, now, int64(t.cfg.DelayFirstProbe))
	} else if now < expiry {
		t.setTimer(e, expiry)
	} else {
		t.forget(e)
	}
}

// probe asks by unicast whether the MAC is still right. When it is not answered the neighbour is resolved from the
// start, if it is still asked for: its MAC may have changed (RFC 7048 3).
func (t *Table) probe(e *Entry, now int64) {
	if e.probes < t.cfg.MaxUnicastSolicit {
		e.probes++
		t.stats.Solicited++
		t.due = append(t.due, solicitation{e, e.mac(), true})
		t.setTimer(e, now+int64(t.cfg.RetransTimer))
		return
	}
	if e.lastUsed < e.since {
		t.forget(e)
		return
	}
	t.enter(e, packet.MAC{}, Incomplete, now, 0)
	t.retry(e, now)
}

// forget removes an entry, or what is known of it when it is pinned.
func (t *Table) forget(e *Entry) {
	if e.pins == 0 {
		t.remove(e)
		return
	}
	t.stopTimer(e)
	e.set(packet.MAC{}, Unresolved)
	t.generation.Add(1)
}

// multicast asks for a solicitation to all, within the rate limits.
func (t *Table) multicast(e *Entry, now int64) bool {
	if !t.allow(e.port, now) {
		return false
	}
	t.stats.Solicited++
	t.due = append(t.due, solicitation{entry: e})
	return true
}

// allow takes one solicitation from the port's allowance and from that of all ports.
func (t *Table) allow(p *portEntries, now int64) bool {
	if p.bucket.fill(now) && t.bucket.fill(now) {
		p.bucket.take()
		t.bucket.take()
		return true
	}
	t.stats.Throttled++
	return false
}

// bucket is a token bucket that holds up to a quarter of a second's worth.
type bucket struct {
	cost  int64 // nanoseconds of credit that one token costs
	most  int64
	level int64 // nanoseconds of credit
	last  int64
}

func newBucket(rate int) bucket {
	cost := int64(time.Second) / int64(rate)
	most := max(int64(time.Second/4), cost)
	return bucket{cost: cost, most: most, level: most}
}

// fill credits the time since the last call and returns whether there is a token.
func (b *bucket) fill(now int64) bool {
	if now > b.last {
		b.level = min(b.level+now-b.last, b.most)
		b.last = now
	}
	return b.level >= b.cost
}

func (b *bucket) take() { b.level -= b.cost }
