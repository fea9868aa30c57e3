// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"strings"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/offload/offloadtest"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// carryRig is a natRig before which a hook carries packets.
type carryRig struct {
	*natRig
	mem    offload.Memory
	kernel *offload.Table
	hook   offloadtest.Hook
	way    offload.Way // but for its ports
	idle   bool        // nothing is entered
	early  bool        // connections are entered as they begin
}

const (
	uptime   = int64(time.Hour) // of the kernel, when the dataplane's clock began
	someMTU  = 0xffff
	noRecord = offload.Ref(0)
)

func newCarryRig(t testing.TB, v6 bool, cfg Config, records int) *carryRig {
	r := &carryRig{mem: offload.NewMemory(records), way: offload.Way{MTU: someMTU, MAC: packet.MAC{2}}}
	r.natRig = &natRig{rig: &rig{now: start}} // for the clocks
	r.kernel = r.takeOver(t)
	for _, port := range []packet.PortID{portA, portB} {
		if err := r.kernel.SetEgress(port, offload.Egress{Kind: offload.Pod, IfIndex: 1}); err != nil {
			t.Fatal(err)
		}
	}
	r.kernel.SetCarry(true)
	cfg.Offload = r.kernel
	r.natRig = newNATRig(t, v6, cfg)
	r.hook = offloadtest.Hook{Memory: r.mem, Kernel: func() int64 { return r.now + uptime }}
	return r
}

// takeOver is another table over the memory.
func (r *carryRig) takeOver(t testing.TB) *offload.Table {
	t.Helper()
	kernel, err := offload.New(offload.Config{
		Memory: r.mem, Clock: func() int64 { return r.now }, Kernel: func() int64 { return r.now + uptime },
	})
	if err != nil {
		t.Fatal(err)
	}
	return kernel
}

// hooked is what a hook reads of a packet.
func hooked(p *packet.Packet, in packet.PortID) offloadtest.Packet {
	h := offloadtest.Packet{Ends: p.Ends(), Proto: p.Proto, In: in, Len: p.L3Len}
	if p.Proto == packet.ProtoTCP && p.L4 != 0 {
		b := p.Frame[p.L4:]
		var g segment
		g.read(p)
		h.Flags, h.Seq, h.Ack = b[13], g.seq, g.ack
		h.Payload = p.L3 + p.L3Len - p.L4 - int(b[12]>>4)*4
		h.Scale, h.Scaled = scaleOf(p)
	}
	return h
}

// ports are those by which a packet comes and leaves.
func (r *carryRig) ports(p *packet.Packet) (in, out packet.PortID) {
	if p.Src == r.b {
		return portB, portA
	}
	return portA, portB
}

// send has a packet come: what the hook does not carry is tracked, and its flow opened when it is a new one.
func (r *carryRig) send(p *packet.Packet) (Seen, string) {
	in, out := r.ports(p)
	if p.L4 != 0 && p.Flags&packet.Fragment == 0 && p.Proto != packet.ProtoICMP && p.Proto != packet.ProtoICMPv6 {
		if _, ok := r.hook.Carry(hooked(p, in)); ok {
			return Seen{}, "carried"
		}
	}
	s := r.tab.seen(p, in, r.now, 1)
	reason := s.Reason
	if tr := r.frontends[p.Dst]; s.Status == NewFlow && tr != nil {
		reason = r.tab.OpenTranslated(&s, p, in, out, r.now, 1, 42, tr)
	} else if s.Status == NewFlow {
		reason = r.tab.Open(&s, p, in, out, r.now, 1, 42)
	}
	if s.Carry && !r.idle {
		w := r.way
		w.In, w.Out = in, out
		r.tab.Carry(&s, &w)
	}
	if s.Begins && r.early && !r.idle {
		ways := [2]offload.Way{r.way, r.way}
		from := uint8(0)
		if s.Reply {
			from = 1
		}
		ways[from].In, ways[from].Out, ways[1-from].In, ways[1-from].Out = in, out, out, in
		r.tab.CarryBoth(&s, &ways)
	}
	if reason != verdict.None {
		return s, reason.String()
	}
	return s, s.Status.String()
}

// speak is a dialogue's line: see tcp_test.go. What is carried is so.
func (r *carryRig) speak(text string) {
	r.t.Helper()
	for line := range strings.Lines(strings.TrimSpace(text)) {
		say, want, _ := strings.Cut(strings.TrimSpace(line), ": ")
		_, outcome := r.send(r.segment(say))
		if got := outcome + " " + r.state(); got != want {
			r.t.Fatalf("%s: %s, want %s", say, got, want)
		}
		r.soundCarried()
	}
}

func (r *carryRig) flow() Flow {
	r.t.Helper()
	for f := range r.tab.All(r.now) {
		return f
	}
	r.t.Fatal("no flow")
	return Flow{}
}

// soundCarried checks that the kernel carries what entries say, as they say, and nothing else.
func (r *carryRig) soundCarried() {
	r.t.Helper()
	r.sound()
	told := make(map[offload.Ref]bool)
	for i := range r.tab.shards {
		sh := &r.tab.shards[i]
		for j := range sh.carriages {
			e, c := &sh.entries[j], &sh.carriages[j]
			if e.state == free || e.flags&offloaded == 0 {
				if c.ref != 0 && e.state == free {
					r.t.Fatalf("entry %d is free, and has a record", j+1)
				}
				continue
			}
			r.soundCarriage(sh, uint32(j+1), told)
		}
	}
	for ref := range r.kernel.All() {
		if f, ways, ok := r.kernel.Flow(ref); ok && !told[ref] && !f.Pair && !r.tab.claimsFar(ref, &f, &ways) {
			r.t.Fatalf("a record of no flow: %+v %+v", f, ways)
		}
	}
}

func (r *carryRig) soundCarriage(sh *shard, n uint32, told map[offload.Ref]bool) {
	r.t.Helper()
	e, c := &sh.entries[n-1], &sh.carriages[n-1]
	near, far := sh.ends(n, 0)
	f, ways, ok := r.kernel.Flow(c.ref)
	told[c.ref] = true
	switch {
	case !ok && c.ref == 0 && c.entered != 0:
		r.t.Fatalf("entry %d is carried without a record", n)
	case !ok: // it had to make way
		return
	case f.Near != near || f.Far != far || f.Proto != e.key.proto():
		r.t.Fatalf("a record of %+v, the flow is of %+v and %+v", f, near, far)
	case c.entered != 0 && (e.flags&(revoked|oneWay) != 0 || e.state.closed() || e.state.handshake() && !f.Young.Is):
		r.t.Fatalf("a flow in state %s, %x is carried", states[e.state].name, e.flags)
	case f.Generation != e.generation:
		r.t.Fatalf("of generation %d, the record of %d", e.generation, f.Generation)
	}
	for d, w := range ways {
		if w.Out != 0 && c.entered>>d&1 == 0 {
			r.t.Fatalf("entry %d: direction %d is carried unknown", n, d)
		}
	}
}
