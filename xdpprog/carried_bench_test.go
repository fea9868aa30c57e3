// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// bareRedirect is the least that a program can do to redirect packets by a map of devices: exchange the MAC addresses'
// first bytes, and redirect.
func bareRedirect(t testing.TB, wires *ebpf.Map) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "bare", Type: ebpf.XDP, License: "GPL",
		Flags: 1 << 5, // BPF_F_XDP_HAS_FRAGS
		Instructions: asm.Instructions{
			asm.LoadMapPtr(asm.R1, wires.FD()),
			asm.Mov.Imm(asm.R2, 1),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnRedirectMap.Call(),
			asm.Return(),
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// What a hook takes for a packet that it carries, beside the least that there is.
func BenchmarkCarried(b *testing.B) {
	l := newCarriedLab(b, Owned)
	const most = 250 // that a TTL lives through
	timed := func(b *testing.B, p *ebpf.Program, frame []byte) {
		var total float64
		for range b.N {
			_, took, err := p.Benchmark(frame, most, nil)
			if err != nil {
				b.Fatal(err)
			}
			total += float64(took.Nanoseconds())
		}
		b.ReportMetric(total/float64(b.N), "ns/packet")
	}
	loop := offload.Egress{Kind: offload.Wire, IfIndex: 1, MAC: senders}
	if err := l.table.SetEgress(toRight, loop); err != nil {
		b.Fatal(err)
	}
	for name, ends := range map[string]packet.Ends{
		"ipv4": endsOf("10.1.0.1:1001", "10.9.0.9:53"), "ipv6": endsOf("[fd00:1::1]:1001", "[fd00:9::9]:53"),
	} {
		f := &carriedFlow{near: ends, far: ends, proto: packet.ProtoUDP, in: fromLeft, out: toRight}
		l.table.Enter(0, &offload.Flow{Near: ends, Far: ends, Proto: f.proto}, 0,
			&offload.Way{In: f.in, Out: f.out, MAC: leftMAC, MTU: 1500})
		p := f.packet()
		p.ttl, p.payload = 255, 18
		b.Run(name, func(b *testing.B) { timed(b, l.port.program, p.craft()) })
	}
	bare := bareRedirect(b, l.port.maps["wires"])
	b.Run("bare", func(b *testing.B) { timed(b, bare, make([]byte, 60)) })
}
