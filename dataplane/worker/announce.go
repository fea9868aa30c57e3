// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

const (
	// announceTimes is how often the link is told of an address: MAX_NEIGHBOR_ADVERTISEMENT of RFC 4861 10, and once
	// more than RFC 5227 asks for IPv4.
	announceTimes = 3
	// announceEvery is the time between two of them, in nanoseconds: RetransTimer of RFC 4861 10.
	announceEvery = int64(1e9)
	// announceBatch bounds how many leave in one tick: packets wait meanwhile.
	announceBatch = 64
)

// announcement is an address that a link is told to be at a MAC.
type announcement struct {
	port packet.PortID
	mac  packet.MAC
	addr packet.Addr
}

// announcer tells links of addresses when they begin to be announced there, as far as these tables say.
type announcer struct {
	by  *tables.Tables
	of  map[announcement]bool // that are in force
	due []dueAnnouncement     // in order of time
}

type dueAnnouncement struct {
	announcement
	at   int64
	left int
}

// announce tells links of addresses that are new there, and of those that are due again.
func (w *Worker) announce() {
	a := &w.announcer
	if a.by != w.tables {
		if !w.tables.SameAnnouncements(a.by) {
			a.look(w.tables, w.now)
		}
		a.by = w.tables
	}
	for range announceBatch {
		if len(a.due) == 0 || a.due[0].at > w.now {
			return
		}
		d := a.due[0]
		a.due = a.due[1:]
		if !a.of[d.announcement] {
			continue
		}
		port := w.tables.Port(d.port)
		w.tell(port, func(frame []byte) (end int) {
			if d.addr.Is4() {
				return packet.BuildARPRequest(frame, headroom, d.mac, d.addr, packet.BroadcastMAC, d.addr)
			}
			return packet.BuildUnsolicitedNA(frame, headroom, d.mac, d.addr)
		})
		if d.left--; d.left > 0 {
			d.at = w.now + announceEvery
			a.due = append(a.due, d)
		}
	}
}

// look finds out what is announced by tables, and where; what was not before is due at once.
func (a *announcer) look(t *tables.Tables, now int64) {
	was := a.of
	a.of = make(map[announcement]bool)
	list := t.Announcements()
	if len(list) == 0 {
		a.due = nil
		return
	}
	var due []dueAnnouncement
	for i := range t.Ports {
		p := &t.Ports[i]
		if p.ID == 0 || !p.Uplink || !p.Up {
			continue
		}
		for _, addr := range list {
			if !t.Answers(p, addr) {
				continue
			}
			one := announcement{p.ID, p.MAC, addr}
			if a.of[one] = true; !was[one] {
				due = append(due, dueAnnouncement{one, now, announceTimes})
			}
		}
	}
	a.due = append(due, a.due...)
}
