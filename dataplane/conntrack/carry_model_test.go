// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// conversation is a connection between two ends that follow RFC 9293: nothing is lost, and each segment acknowledges
// all that has come.
type conversation struct {
	near, far packet.Ends // far: as the server has it; what is sent by it becomes the reverse of near
	next      [2]uint32   // the sequence number that each end sends next
	fin       [2]bool
	step      int // of the handshake: 3 when it is open
	over      bool
}

// The scale of windows, and windows in its units, but for those of SYNs: more than anybody sends at once.
const (
	talkScale  = 7
	talkWindow = 0x2000
)

// say has an end send a segment, and returns what became of it.
func (c *conversation) say(r *carryRig, d int, flags uint8, payload int) string {
	e := c.near
	if d != 0 {
		e = c.far.Reverse()
	}
	s := tcpSegment{
		src: e.SrcPort, dst: e.DstPort, seq: c.next[d], ack: c.next[1-d], flags: flags, window: talkWindow, scale: -1,
		payload: payload,
	}
	if flags&tcpSYN != 0 {
		s.scale, s.window = talkScale, 0xffff
	}
	if flags&tcpACK == 0 {
		s.ack = 0
	}
	c.next[d] += uint32(payload) + uint32(flags&tcpSYN)>>1 + uint32(flags&tcpFIN)
	p := parse(r.t, ipPacket(e.Src, e.Dst, packet.ProtoTCP, s.bytes()))
	seen, outcome := r.send(p)
	if d == 0 && seen.Translated {
		c.far = seen.Ends
	}
	return outcome
}

// talk is what one of the ends does next.
func (c *conversation) talk(rt *rapid.T, r *carryRig) {
	d := rapid.IntRange(0, 1).Draw(rt, "end")
	var outcome string
	what := "data"
	switch {
	case c.step < 3:
		what = []string{"SYN", "SYN-ACK", "ACK"}[c.step]
		outcome = c.say(r, c.step&1, []uint8{tcpSYN, tcpSYN | tcpACK, tcpACK}[c.step], 0)
		c.step++
	default:
		kind := rapid.IntRange(0, 19).Draw(rt, "what")
		switch {
		case c.fin[d]:
			what = "ACK"
			outcome = c.say(r, d, tcpACK, 0)
		case kind == 0:
			what = "FIN"
			outcome = c.say(r, d, tcpFIN|tcpACK, rapid.IntRange(0, 100).Draw(rt, "rest"))
			c.fin[d] = true
		case kind == 1:
			what = "RST"
			outcome = c.say(r, d, tcpRST|tcpACK, 0)
			c.over = true
		case kind < 5:
			what = "ACK"
			outcome = c.say(r, d, tcpACK, 0)
		default:
			outcome = c.say(r, d, tcpACK, rapid.IntRange(1, 30000).Draw(rt, "bytes"))
			c.say(r, 1-d, tcpACK, 0)
		}
	}
	if outcome != "known" && outcome != "carried" && (what != "SYN" || outcome != "new") {
		rt.Fatalf("%s of %+v: %s", what, c, outcome)
	}
}

// end has both ends close.
func (c *conversation) end(rt *rapid.T, r *carryRig) {
	for !c.over && c.step < 3 {
		c.talk(rt, r)
	}
	for d := range 2 {
		if !c.over && !c.fin[d] {
			if outcome := c.say(r, d, tcpFIN|tcpACK, 0); outcome != "known" && outcome != "carried" {
				rt.Fatalf("FIN of %+v: %s", c, outcome)
			}
			c.say(r, 1-d, tcpACK, 0)
		}
	}
}

// TestConversations: whatever is entered, withdrawn, makes way, is judged, handed over or lost with the process, no
// segment of a connection is refused, what is carried is what entries say, and nothing is left of what is over.
func TestConversations(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		cfg := Config{Flows: 256}
		rapid.Check(t, func(rt *rapid.T) {
			r := newCarryRig(t, v6, cfg, rapid.IntRange(1, 6).Draw(rt, "records"))
			defer func() { r.tab.left = nil }()

			r.frontends[r.front(1)] = &Translation{Src: r.snat, Dst: r.b, DstPort: 80, Backend: 1, Random: true}
			r.frontends[r.front(2)] = &Translation{Dst: r.b, DstPort: 80, Backend: 2}
			var all []*conversation
			port, spent := uint16(40000), 0
			for range rapid.IntRange(10, 120).Draw(rt, "steps") {
				switch kind := rapid.IntRange(0, 29).Draw(rt, "step"); {
				case kind < 3 && len(all) < 6 || len(all) == 0:
					port++
					c := &conversation{near: packet.Ends{Src: r.a, Dst: r.b, SrcPort: port, DstPort: 80}}
					if n := rapid.IntRange(0, 2).Draw(rt, "front"); n != 0 {
						c.near.Dst = r.front(n)
					}
					c.far = c.near
					c.next = [2]uint32{rapid.Uint32().Draw(rt, "seq"), rapid.Uint32().Draw(rt, "seq")}
					all = append(all, c)
				case kind == 3 && spent < 15:
					s := rapid.IntRange(1, 10).Draw(rt, "seconds")
					spent += s
					r.now += int64(s) * second
					r.tab.Sweep(r.now, 0, 1)
				case kind == 4:
					for f := range r.tab.Carried() {
						if rapid.Bool().Draw(rt, "uncarry") {
							r.tab.Uncarry(f.ID)
						} else {
							r.tab.Judge(f.ID, verdict.None, r.now, 1, 9)
						}
					}
				case kind == 5:
					r.handOver(cfg)
				case kind == 6:
					r.restart(cfg)
					all = r.survivors(all)
				case kind == 7:
					r.idle, r.early = rapid.Bool().Draw(rt, "idle"), rapid.Bool().Draw(rt, "early")
				case kind == 8:
					r.tab.TakeNews()
				default:
					if c := rapid.SampledFrom(all).Draw(rt, "who"); !c.over && (!c.fin[0] || !c.fin[1]) {
						c.talk(rt, r)
					}
				}
				r.soundCarried()
			}
			for _, c := range all {
				c.end(rt, r)
			}
			r.tab.TakeNews()
			r.now += int64(3 * time.Minute)
			for range 2 * (sweepShare + 1) {
				r.tab.Sweep(r.now, 0, 1)
			}
			r.soundCarried()
			if st := r.tab.Stats(); st.Entries != 0 || st.Aliases != 0 || r.kernel.Stats().Records != 0 {
				rt.Fatalf("left over: %+v %v", st, r.kernel.Stats())
			}
		})
	})
}

// survivors are the conversations that a killed process has left in the kernel.
func (r *carryRig) survivors(all []*conversation) (still []*conversation) {
	for _, c := range all {
		if ref, _ := r.kernel.Find(c.near, packet.ProtoTCP, portA); ref != 0 {
			still = append(still, c)
		} else if ref, _ := r.kernel.Find(c.far.Reverse(), packet.ProtoTCP, portB); ref != 0 {
			still = append(still, c)
		}
	}
	return still
}
