// SPDX-License-Identifier: Apache-2.0

package push

import (
	"math"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/source/memory"
)

func hello(h *api.Hello) *api.FromDataplane {
	return &api.FromDataplane{Message: &api.FromDataplane_Hello{Hello: h}}
}

func ack(epoch uint64) *api.FromDataplane {
	return &api.FromDataplane{Message: &api.FromDataplane_Ack{Ack: &api.Ack{Epoch: epoch}}}
}

// TestHostile: a stream that does not keep to the protocol ends and says why, and the next dataplane is served.
func TestHostile(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a"), blackhole("a", "10.0.0.0/8")))
	c := startNew(t, &s)
	long := strings.Repeat("x", longest+1)
	for _, test := range []struct {
		name string
		code codes.Code
		says []*api.FromDataplane
	}{
		{"empty message", codes.InvalidArgument, []*api.FromDataplane{{}}},
		{"ack first", codes.InvalidArgument, []*api.FromDataplane{ack(1)}},
		{"long version", codes.InvalidArgument, []*api.FromDataplane{hello(&api.Hello{Version: long})}},
		{"another node", codes.FailedPrecondition, []*api.FromDataplane{hello(&api.Hello{Node: "elsewhere"})}},
		{"epoch 0", codes.InvalidArgument, []*api.FromDataplane{hello(&api.Hello{InForce: &api.Snapshot{}})}},
		{"last epoch", codes.InvalidArgument,
			[]*api.FromDataplane{hello(&api.Hello{InForce: &api.Snapshot{Epoch: math.MaxUint64}})}},
		{"two hellos", codes.InvalidArgument, []*api.FromDataplane{hello(&api.Hello{}), hello(&api.Hello{})}},
		{"neither ack nor nack", codes.InvalidArgument, []*api.FromDataplane{hello(&api.Hello{}), {}}},
		{"ack of another epoch", codes.InvalidArgument, []*api.FromDataplane{hello(&api.Hello{}), ack(77)}},
		{"ack of epoch 0", codes.InvalidArgument, []*api.FromDataplane{hello(&api.Hello{}), ack(0)}},
		{"long nack", codes.InvalidArgument, []*api.FromDataplane{hello(&api.Hello{}),
			{Message: &api.FromDataplane_Nack{Nack: &api.Nack{Epoch: 1, Reason: long}}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := c.dial(t)
			for _, m := range test.says {
				_ = d.stream.Send(m) // it may have ended already
			}
			if end := d.ended(); end.Code() != test.code || end.Message() == "" {
				t.Errorf("ended with %v, want %v", end, test.code)
			}
		})
	}
	if got, _ := c.follow(t, nil).take(); routes(got) != "a" {
		t.Errorf("the next dataplane has %q", routes(got))
	}
}

// TestStrangeSnapshot: whatever a dataplane says that it has in force, it gets what is meant.
func TestStrangeSnapshot(t *testing.T) {
	for name, inForce := range map[string]*api.Snapshot{
		"numbers that cannot be": {
			Ports:      []*api.Port{{Id: 0, Name: "on-a"}, {Id: math.MaxUint32, Name: "x"}, {Id: 3}, {Id: 3}},
			Groups:     []*api.NextHopGroup{{Id: 0}, {Id: math.MaxUint32, Kind: 99}, {Id: 1, Hops: []*api.NextHop{{}}}},
			Routes:     []*api.Route{{Prefix: []byte{1}, Bits: 999, Group: 7}, {Group: math.MaxUint32, Origin: 1 << 30}},
			Identities: []*api.Identity{{Id: 0}, {Id: math.MaxUint32, Kind: 77, Labels: []string{"", "="}}},
		},
		"one number for two": {
			Ports:  []*api.Port{{Id: 2, Name: "on-a"}, {Id: 2, Name: "on-b"}},
			Groups: []*api.NextHopGroup{{Id: 1, Kind: 1}, {Id: 1, Kind: 1}, {Id: 2, Kind: 1}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s memory.Source
			s.Replace(objects(t, node("a", "b"), blackhole("a", "10.0.0.0/8")))
			inForce.Epoch = 5
			got, _ := startNew(t, &s).follow(t, inForce).take()
			seen := map[uint32]bool{0: true}
			for _, p := range got.Ports {
				if seen[p.Id] || p.Id >= 1<<24 {
					t.Errorf("port %v", p)
				}
				seen[p.Id] = true
			}
			if routes(got) != "a" || len(got.Ports) != 2 {
				t.Errorf("snapshot %v", got)
			}
		})
	}
}

// TestAnswersUnread: acks of epochs that were never read do not hold control up.
func TestAnswersUnread(t *testing.T) {
	var s memory.Source
	text := make([]string, 0, 3001)
	text = append(text, node("a"))
	for i := range 3000 {
		text = append(text, blackhole("long-name-"+strings.Repeat("x", 100)+string(rune('a'+i%26))+
			string(rune('a'+i/26%26))+string(rune('a'+i/676)), "10."+strconv.Itoa(i/256)+"."+strconv.Itoa(i%256)+".0/24"))
	}
	all := objects(t, text...)
	s.Replace(all)
	c := startNew(t, &s)
	d := c.follow(t, nil)
	eventually(t, "the first epoch is on its way", func() bool {
		f := c.status(t).Dataplane
		return f != nil && f.Snapshots == 1
	})
	for epoch := uint64(1); epoch < 50; epoch++ {
		if d.stream.Send(ack(epoch)) != nil {
			break
		}
		s.Remove(all[epoch].Key)
	}
	if got, _ := c.follow(t, nil).next(); got.Epoch == 0 {
		t.Error("nothing for the next dataplane")
	}
}
