// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"testing"

	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// carryRig is a rig with a table of flows that the kernel would carry, by which it may lead to every port.
func carryRig(t testing.TB, change func(*api.Snapshot)) (*rig, *offload.Table) {
	t.Helper()
	r := newRig(t, func(s *api.Snapshot) {
		podNode(s)
		s.Node = &api.NodeSettings{Offload: true}
		if change != nil {
			change(s)
		}
	})
	clock := func() int64 { return r.now }
	table, err := offload.New(offload.Config{Memory: offload.NewMemory(64), Clock: clock, Kernel: clock})
	if err != nil {
		t.Fatal(err)
	}
	for id := packet.PortID(1); id < 10; id++ {
		if err := table.SetEgress(id, offload.Egress{Kind: offload.Pod, IfIndex: int(id)}); err != nil {
			t.Fatal(err)
		}
	}
	r.worker.flows = conntrack.New(conntrack.Config{Flows: 64, Offload: table})
	r.worker.pipeline.Init(r.worker.flows, names.NewStore(4, 4))
	return r, table
}

// ways are those of all carried flows.
func ways(r *rig) (list []offload.Way) {
	for f := range r.worker.flows.Carried() {
		list = append(list, f.Ways[0])
	}
	return list
}

// toPort has UDP over IPv4 go to another port.
func toPort(port layers.UDPPort) func([]byte) []byte {
	return func(data []byte) []byte {
		at := 14 + 20
		data[at+2], data[at+3] = byte(port>>8), byte(port)
		data[at+6], data[at+7] = 0, 0 // no checksum
		return data
	}
}

// domains is policy that speaks of names.
func domains(s *api.Snapshot) {
	isolate(s)
	s.PeerSets = append(s.PeerSets, &api.PeerSet{Id: 2, Domains: []string{"example.com"}})
	s.Policies[0].Egress = true
	s.Policies[0].Rules = append(s.Policies[0].Rules, &api.PolicyRule{Name: "spec.egress[0]",
		Direction: api.PolicyRule_DIRECTION_EGRESS, Action: api.PolicyRule_ACTION_ALLOW, Peers: []uint32{1, 2},
		AnyPort: true})
}

// What is carried of a flow whose opener has sent three packets: what became of them.
func TestWhatIsCarried(t *testing.T) {
	toB := []offload.Way{{In: podA, Out: podB, MAC: hostMACs[0], MTU: 1500}}
	for _, row := range []struct {
		name     string
		change   func(*api.Snapshot)
		src, dst string
		from     packet.PortID
		packet   func([]byte) []byte
		want     []offload.Way
	}{
		{name: "pods", src: "10.244.1.7", dst: "10.244.1.8", from: podA, want: toB},
		{name: "pods, IPv6", src: "fd00:244::7", dst: "fd00:244::8", from: podA, want: toB},
		{name: "to the world", src: "10.244.1.7", dst: "8.8.8.8", from: podA,
			want: []offload.Way{{In: podA, Out: theHost, MAC: portMACs[0], MTU: 1500}}},
		{name: "from the world", src: "8.8.8.8", dst: "10.244.1.8", from: theHost,
			want: []offload.Way{{In: theHost, Out: podB, MAC: hostMACs[0], MTU: 1500}}},
		{name: "a way of its own MTU", src: "10.244.1.7", dst: "10.244.1.8", from: podA,
			change: func(s *api.Snapshot) { s.Groups[2].Hops[0].Mtu = 900 },
			want:   []offload.Way{{In: podA, Out: podB, MAC: hostMACs[0], MTU: 900}}},
		{name: "offload is off", src: "10.244.1.7", dst: "10.244.1.8", from: podA,
			change: func(s *api.Snapshot) { s.Node.Offload = false }},
		{name: "one of the ports says no", src: "10.244.1.7", dst: "10.244.1.8", from: podA,
			change: func(s *api.Snapshot) { s.Ports[2].NoOffload = true }},
		{name: "a limit", src: "10.244.1.7", dst: "10.244.1.8", from: podA,
			change: func(s *api.Snapshot) { s.Limits = []*api.Limit{{Port: podB, ToPortBitsPerSecond: 1e9}} }},
		{name: "a direct port", src: "10.244.1.7", dst: "10.244.1.5", from: podA},
		{name: "names, and no policy of them", src: "10.244.1.7", dst: "10.244.1.8", from: podA, packet: toPort(53),
			want: toB},
		{name: "names", src: "10.244.1.7", dst: "10.244.1.8", from: podA, packet: toPort(53), change: domains},
		{name: "policy of names, and others", src: "10.244.1.7", dst: "10.244.1.8", from: podA, change: domains, want: toB},
	} {
		t.Run(row.name, func(t *testing.T) {
			r, table := carryRig(t, row.change)
			for range 3 {
				data := udp(t, 1, row.src, row.dst, 100, nil)
				if row.packet != nil {
					data = row.packet(data)
				}
				r.inject(1, onTrunk(row.from, data))
				r.poll()
			}
			got := ways(r)
			if len(got) != len(row.want) || len(got) > 0 && got[0] != row.want[0] {
				t.Errorf("carried %+v, want %+v", got, row.want)
			}
			if n := int(table.Stats().Records); n != len(row.want) {
				t.Errorf("%d records", n)
			}
		})
	}
}

// A fragment that is sent on behind a packet of a carried flow says nothing of one.
func TestFragmentsAreNotCarried(t *testing.T) {
	r, table := carryRig(t, nil)
	for range 4 {
		for i := range 2 {
			r.inject(1, onTrunk(podA, udp(t, 1, "10.244.1.7", "10.244.1.8", 64, func(h *layers.IPv4) {
				h.FragOffset = uint16(9 * i)
				if i == 0 {
					h.Flags = layers.IPv4MoreFragments
				}
			})))
		}
		r.poll()
	}
	if n := table.Stats().Records; n != 0 {
		t.Errorf("%d records of fragments", n)
	}
}

// What a carried flow becomes under other tables is what its next packet would.
func TestReview(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*api.Snapshot)
		want   pipeline.Review
	}{
		{"nothing", nil, pipeline.Stays},
		{"policy that lets it", isolate, pipeline.Stays},
		{"policy that denies it", func(s *api.Snapshot) { isolate(s); s.Policies[0].Rules = nil }, pipeline.Denied},
		{"another MAC", func(s *api.Snapshot) { s.Ports[2].Station.Mac = hostMACs[1][:] }, pipeline.Anew},
		{"another MTU", func(s *api.Snapshot) { s.Groups[2].Hops[0].Mtu = 900 }, pipeline.Anew},
		{"another way", func(s *api.Snapshot) { s.Groups[2].Hops[0].Port = theHost }, pipeline.Anew},
		{"no way", func(s *api.Snapshot) {
			s.Groups[2] = &api.NextHopGroup{Id: podB, Kind: api.NextHopGroup_KIND_BLACKHOLE}
		}, pipeline.Anew},
		{"a limit", func(s *api.Snapshot) { s.Limits = []*api.Limit{{Port: podA, FromPortBitsPerSecond: 1e9}} },
			pipeline.Anew},
		{"its port says no", func(s *api.Snapshot) { s.Ports[1].NoOffload = true }, pipeline.Anew},
		{"offload is off", func(s *api.Snapshot) { s.Node.Offload = false }, pipeline.Anew},
	} {
		t.Run(row.name, func(t *testing.T) {
			r, _ := carryRig(t, nil)
			for range 3 {
				r.talk(podA, "10.244.1.7", "10.244.1.8")
			}
			r.apply(func(s *api.Snapshot) {
				podNode(s)
				s.Node = &api.NodeSettings{Offload: true}
				if row.change != nil {
					row.change(s)
				}
			})
			reviewer := pipeline.Reviewer{Tables: r.tables.Load(), Now: r.now, Fresh: r.now}
			flows := 0
			for f := range r.worker.flows.Carried() {
				is, asked, v := reviewer.Review(&f)
				denied := v.Reason != verdict.None
				if flows++; is != row.want || denied != (is == pipeline.Denied) || denied && !asked {
					t.Errorf("review %d, asked %t, %v; want %d", is, asked, v, row.want)
				}
			}
			if flows != 1 {
				t.Errorf("%d flows are carried", flows)
			}
			if denied := len(reviewer.Log.List()); (denied > 0) != (row.want == pipeline.Denied) {
				t.Errorf("%d denials are noted", denied)
			}
		})
	}
}

// A resolver's flow that was carried before policy spoke of names comes to userspace once it does, whose answers are to
// be learned from; others stay.
func TestReviewOfNames(t *testing.T) {
	for port, want := range map[layers.UDPPort]pipeline.Review{53: pipeline.Anew, 54: pipeline.Stays} {
		r, _ := carryRig(t, nil)
		for range 3 {
			r.inject(1, onTrunk(podA, toPort(port)(udp(t, 1, "10.244.1.7", "10.244.1.8", 100, nil))))
			r.poll()
		}
		r.apply(func(s *api.Snapshot) {
			podNode(s)
			s.Node = &api.NodeSettings{Offload: true}
			domains(s)
		})
		reviewer := pipeline.Reviewer{Tables: r.tables.Load(), Names: names.NewStore(4, 4), Now: r.now, Fresh: r.now}
		flows := 0
		for f := range r.worker.flows.Carried() {
			flows++
			if is, _, _ := reviewer.Review(&f); is != want {
				t.Errorf("port %d: review %d, want %d", port, is, want)
			}
		}
		if flows != 1 {
			t.Errorf("%d flows are carried", flows)
		}
	}
}
