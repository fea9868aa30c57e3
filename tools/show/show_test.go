// SPDX-License-Identifier: Apache-2.0

package show

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/tools/exit"
)

// fake is a dataplane that always says the same.
type fake struct {
	api.UnimplementedDataplaneServer
	balanced bool
}

func (fake) Status(context.Context, *api.StatusRequest) (*api.StatusReply, error) {
	return &api.StatusReply{
		Version: "v1", Node: "lab", Epoch: 7, Kernel: "6.18", ApplyNanoseconds: 1500000, Routes: 3, Policies: 2,
		FlowTable: &api.FlowTable{Flows: 30, Capacity: 1000, HalfOpen: 7, Evicted: 4, RefusedTable: 1, RefusedPort: 2,
			RefusedSource: 3},
		Offload: &api.Offload{On: true, Records: 20, Capacity: 500, Pairs: 2, Entered: 90, Removed: 70, Evicted: 4,
			Refused: 5, RefusedPort: 4, EvictedPort: 3, Walks: 3, LastWalkFlows: 19, LastWalkNanoseconds: 1234567},
		Ports: []*api.Port{{Name: "a", Offload: &api.PortOffload{Records: 9}},
			{Name: "b", Offload: &api.PortOffload{Records: 8, Evicted: 1}},
			{Name: "c", Offload: &api.PortOffload{Records: 7, Evicted: 2, Refused: 4}}},
		StartedUnixNanoseconds: time.Now().Add(-time.Minute).UnixNano(),
		TablesFrom:             "state file",
		StateFile:              &api.StateFile{Path: "/s/snapshot.pb", Trouble: "torn"},
		ControlLink: &api.ControlLink{Error: "no such socket",
			SinceUnixNanoseconds: time.Now().Add(-time.Minute).UnixNano()},
		LastNack: &api.Refusal{Epoch: 8, Object: "Route a", Field: "spec.via", Reason: "unknown port"},
		Workers:  []*api.Worker{{Cpu: -1, Frames: 4096, Queues: []*api.WorkerQueue{{Device: "v0", Queue: 1}}}},
		Features: []*api.Feature{{Name: "AF_XDP multi-buffer", Found: true, Since: "6.6"}},
		Degraded: []*api.Degradation{{Subject: "port left", Reason: "generic XDP"}},
	}, nil
}

func (fake) Ports(_ context.Context, r *api.PortsRequest) (*api.PortsReply, error) {
	if r.Name == "nope" {
		return nil, grpcstatus.Error(codes.NotFound, `no port is named "nope"`)
	}
	return &api.PortsReply{Epoch: 7, Ports: []*api.Port{
		{Id: 1, Name: "left", Device: "v0", State: api.PortState_PORT_STATE_UP, Mtu: 60000, Mac: "02:00:00:00:00:01",
			Addresses: []string{"10.1.0.1/24"}, XdpMode: "native", OuterVlan: 5, InnerVlan: 6,
			Queues: []*api.PortQueue{{Queue: 0}, {Queue: 1, ZeroCopy: true}}},
		{Id: 12, Name: "right", Device: "lab10", Trunk: true, Station: []string{"10.244.1.7"},
			State: api.PortState_PORT_STATE_GONE, Reason: "no link"},
	}}, nil
}

func (fake) Routes(r *api.RoutesRequest, s grpc.ServerStreamingServer[api.RoutesReply]) error {
	for _, route := range []*api.Route{
		{Destination: "10.2.0.0/16", Kind: "forward", Origin: "Route a", Hops: []*api.NextHop{
			{Port: "left", Via: "10.1.0.2", Weight: 1}, {Port: "right", Weight: 2, Mtu: 1400}}},
		{Destination: "10.3.0.0/16", Kind: "blackhole"},
	} {
		if r.Prefix != "" && r.Prefix != route.Destination {
			continue
		}
		if err := s.Send(&api.RoutesReply{Epoch: 7, Routes: []*api.Route{route}}); err != nil {
			return err
		}
	}
	return nil
}

func (fake) Neighbors(context.Context, *api.NeighborsRequest) (*api.NeighborsReply, error) {
	return &api.NeighborsReply{Neighbors: []*api.Neighbor{{Port: "left", Address: "10.1.0.2", Mac: "02:00:00:00:00:02",
		State: "reachable", AgeNanoseconds: 1500000000},
		{Port: "left", Address: "10.1.0.9", State: "incomplete", Waiting: 3}}}, nil
}

func (fake) Identities(r *api.IdentitiesRequest, s grpc.ServerStreamingServer[api.IdentitiesReply]) error {
	if r.Address == "x" {
		return grpcstatus.Error(codes.InvalidArgument, `address "x"`)
	}
	return s.Send(&api.IdentitiesReply{Epoch: 7, Identities: []*api.Identity{
		{Id: 3, Kind: "pod", Namespace: "shop", Labels: []string{"app=web", "tier=1"}, Prefixes: []*api.IdentityPrefix{
			{Prefix: "10.244.1.7/32", Origin: "Pod shop/web-0"}, {Prefix: "fd00::7/128", Origin: "Pod shop/web-0"}}},
		{Id: 4, Kind: "node"}}})
}

func (f fake) Ledger(context.Context, *api.LedgerRequest) (*api.LedgerReply, error) {
	left := &api.PortLedger{Name: "left", Received: 10, Forwarded: 8, Dropped: 2, Transmitted: 1, Hook: map[string]uint64{
		"no_socket": 4, "passed": 0}, Sockets: &api.SocketStatistics{RxRingFull: 5},
		Reasons: []*api.ReasonCount{{Verdict: "dropped", Reason: "no_frame", Packets: 2, Meaning: "no free frame"}}}
	r := &api.LedgerReply{Ports: []*api.PortLedger{left}, Balanced: f.balanced,
		Total: &api.PortLedger{Name: "total", Received: 10, Forwarded: 8, Dropped: 2}}
	if !f.balanced {
		r.Difference = 3
	}
	return r, nil
}

func (fake) Policies(r *api.PoliciesRequest, s grpc.ServerStreamingServer[api.PoliciesReply]) error {
	return s.Send(&api.PoliciesReply{Epoch: 7, Policies: []*api.Policy{
		{Name: "Cluster top", Tier: "admin", Priority: 5, Staged: true, Subjects: []uint32{3, 4},
			Rules: []*api.PolicyRule{
				{Name: "egress[0]", Action: "deny", Peers: []string{"10.0.0.0/8", "*.example.com"}},
				{Name: "egress[1]", Action: "pass", Ports: []string{"TCP 80-90"}}}},
		{Name: "Local " + r.Address, Tier: "namespace", Isolates: []string{"ingress"}, Subjects: []uint32{3}}}})
}

func (fake) Flows(r *api.FlowsRequest, s grpc.ServerStreamingServer[api.FlowsReply]) error {
	for _, f := range []*api.Flow{
		{Protocol: "tcp", State: "established", Source: "10.244.1.7", SourcePort: 40000, Destination: "10.244.1.8",
			DestinationPort: 80, InPort: "a", OutPort: "b", Packets: 5, Bytes: 500, ReplyPackets: 4, ReplyBytes: 9000,
			IdleNanoseconds: 1.25e9, ExpiresNanoseconds: 90e9, Rule: "web in[0]",
			Carried: true, CarriedPackets: 3, ReplyCarriedPackets: 4},
		{Protocol: "udp", State: "unreplied", Source: "fd00::7", SourcePort: 53, Destination: "fd00::8",
			DestinationPort: 5353, InPort: "b"},
		{Protocol: "tcp", State: "established", Source: "192.0.2.7", SourcePort: 40000, Destination: "192.0.2.1",
			DestinationPort: 30080, InPort: "c", OutPort: "d", Translation: &api.Translation{Source: "10.244.1.254",
				SourcePort: 1024, Destination: "10.244.2.8", DestinationPort: 8080, Service: "shop/web:http"}},
		{Protocol: "udp", State: "replied", Source: "fd00::7", SourcePort: 9, Destination: "fd00::a", DestinationPort: 53,
			InPort: "c", OutPort: "b", Translation: &api.Translation{Source: "fd00::7", SourcePort: 9,
				Destination: "fd00::8", DestinationPort: 5353, Service: "shop/dns"}},
	} {
		if f.InPort == r.Port || r.Port == "" {
			if err := s.Send(&api.FlowsReply{Flows: []*api.Flow{f}}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (fake) Services(r *api.ServicesRequest, s grpc.ServerStreamingServer[api.ServicesReply]) error {
	for _, service := range []*api.Service{
		{Name: "shop/dns", Ipv6: true, Protocol: "udp", Algorithm: "random", Origin: "Service shop/dns"},
		{Name: "shop/web:http", Protocol: "tcp", Algorithm: "maglev", AffinitySeconds: 10800, Opened: 70, Refused: 2,
			Origin: "Service shop/web (web.yaml:3)", Frontends: []*api.Frontend{
				{Kind: "cluster-ip", Address: "10.96.0.10", Port: 80, TrafficPolicy: "cluster"},
				{Kind: "load-balancer", Address: "192.0.2.80", Port: 80, TrafficPolicy: "local",
					Sources: []string{"198.51.100.0/24", "203.0.113.0/24"}},
				{Kind: "node-port", Port: 30080, TrafficPolicy: "local"}},
			Backends: []*api.Backend{
				{Address: "10.244.1.8", Port: 8080, Weight: 100, State: "ready", Active: 3, Opened: 40, Failed: 1,
					HandshakeNanoseconds: 123456},
				{Address: "10.244.2.8", Port: 8080, Weight: 100, State: "far", Active: 1, Opened: 20},
				{Address: "10.244.2.9", Port: 8080, Weight: 50, State: "ejected", Opened: 10, Failed: 9, Ejections: 2}}},
	} {
		if r.Name != "" && r.Name != strings.Split(service.Name, ":")[0] {
			continue
		}
		if err := s.Send(&api.ServicesReply{Services: []*api.Service{service}}); err != nil {
			return err
		}
	}
	return nil
}

func (fake) Denials(context.Context, *api.DenialsRequest) (*api.DenialsReply, error) {
	return &api.DenialsReply{Denials: []*api.Denial{
		{Protocol: "tcp", Source: "10.244.1.7", SourcePort: 40000, Destination: "10.244.1.8", DestinationPort: 80,
			InPort: "a", OutPort: "b", Reason: "ingress_denied", Rule: "web isolates",
			LastNanoseconds: 2e9, Packets: 3},
		{Protocol: "icmp", Source: "10.244.1.7", Destination: "10.244.1.9", InPort: "a", OutPort: "c", Staged: true,
			Rule: "top ingress[0]", LastNanoseconds: 61e9, Packets: 1},
	}}, nil
}

// fakeControl is a control that always says the same.
type fakeControl struct {
	controlapi.UnimplementedControlServer
}

func (fakeControl) Status(context.Context, *controlapi.StatusRequest) (*controlapi.StatusReply, error) {
	return &controlapi.StatusReply{
		Node: "lab", Epoch: 8, Objects: map[string]uint32{"Route": 2, "NodeConfig": 1},
		Source: &controlapi.Source{Name: "dir:/lab", InStep: true},
		Refused: []*controlapi.Refused{
			{Place: "r.yaml:3", Object: "Route b", Field: "spec.destination", Reason: "no prefix"}},
		Dataplane: &controlapi.Follower{Epoch: 7, RoundTripNanoseconds: 2000000, Snapshots: 1, Deltas: 3, Nacks: 1},
		Version:   "v2", Attachments: 230, Pools: []*controlapi.Pool{
			{Prefix: "10.244.1.0/24", Size: 253, Leased: 229}, {Prefix: "fd00::/64", Size: math.MaxUint64, Leased: 229},
			{Prefix: "10.9.0.0/24", Leased: 1, Retired: true}},
	}, nil
}

// serve runs the fakes and returns their run directory.
func serve(t *testing.T, f fake) string {
	t.Helper()
	run := t.TempDir()
	s := grpc.NewServer()
	api.RegisterDataplaneServer(s, f)
	controlapi.RegisterControlServer(s, fakeControl{})
	for _, name := range []string{"dataplane.sock", "control.sock"} {
		listener, err := net.Listen("unix", filepath.Join(run, name))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(listener) }()
		t.Cleanup(func() { s.Stop(); <-done })
	}
	return run
}

func execute(ctx context.Context, run, output string, args ...string) (string, error) {
	root := &cobra.Command{Use: "viaduct", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(Commands(&Flags{Run: run, Output: output})...)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return out.String(), err
}

func TestText(t *testing.T) {
	run := serve(t, fake{balanced: true})
	for _, tt := range []struct {
		args string
		want string
	}{
		{"ports", `
PORT   ID  STATE  DEVICE  VLAN    MTU  MAC                ADDRESSES    STATION     XDP     QUEUES              REASON
left    1  up     v0      5.6   60000  02:00:00:00:00:01  10.1.0.1/24  -           native  0:copy 1:zero-copy  -
right  12  gone   lab10   -         0  -                  -            10.244.1.7  trunk   -                   no link
`},
		{"routes", `
DESTINATION  KIND       VIA       PORT   WEIGHT   MTU  ORIGIN
10.2.0.0/16  forward    10.1.0.2  left        1     -  Route a
                        on-link   right       2  1400
10.3.0.0/16  blackhole  -         -           -     -  -
`},
		{"routes --within 10.3.0.0/16", `
DESTINATION  KIND       VIA  PORT  WEIGHT  MTU  ORIGIN
10.3.0.0/16  blackhole  -    -          -    -  -
`},
		{"neighbors left", `
PORT  ADDRESS   MAC                STATE       CONFIRMED  WAITING
left  10.1.0.2  02:00:00:00:00:02  reachable    1.5s ago        0
left  10.1.0.9  -                  incomplete          -        3
`},
		{"drops", `
PORT  VERDICT  REASON    PACKETS  MEANING
left  dropped  no_frame        2  no free frame

LEDGER  RECEIVED  FORWARDED  CONSUMED  DROPPED  HELD  ORIGINATED  TRANSMITTED  FAILED
left          10          8         0        2     0           0            1       0
total         10          8         0        2     0           0            0       0

BEFORE  COUNTED BY  COUNTER       PACKETS
left    hook        no_socket           4
left    socket      rx_ring_full        5

the ledger balances: received = forwarded + consumed + dropped + held
`},
		{"identities", `
ID  KIND  NAMESPACE  LABELS          ADDRESSES      ORIGIN
 3  pod   shop       app=web tier=1  10.244.1.7/32  Pod shop/web-0
                                     fd00::7/128    Pod shop/web-0
 4  node  -          -               -              -
`},
		{"policies --address 10.1.1.1", `
POLICY          TIER           PRIORITY  ISOLATES  JUDGES  RULE       ACTION  PEERS                      PORTS
Cluster top     admin, staged         5  -              2  egress[0]  deny    10.0.0.0/8, *.example.com  any
                                                           egress[1]  pass    any                        TCP 80-90
Local 10.1.1.1  namespace             -  ingress        1  -          -       -                          -
`},
		{"denials", `
 AGO  PROTOCOL  SOURCE            DESTINATION    FROM  TO  PACKETS  REASON          RULE
  2s  tcp       10.244.1.7:40000  10.244.1.8:80  a     b         3  ingress_denied  web isolates
1m1s  icmp      10.244.1.7        10.244.1.9     a     c         1  staged          top ingress[0]
`},
		{"status", `
health   degraded
node     lab
version  v1
kernel   6.18
up       1m0s
epoch    7, applied in 1.5ms
tables   3 ports, 3 routes, 0 next-hop groups, 0 neighbors, 0 identities, 2 policies
flows    30 of 1000, 7 not answered; 4 evicted, 6 refused
offload  20 of 500 flows, 2 of them pairs; 90 entered, 70 removed, 4 evicted, 5 refused; last walk 19 flows in 1.235ms
shares   c has 7, 2 evicted, 4 refused; b has 8, 1 evicted, 0 refused
from     state file
source   dir:/lab
objects  1 NodeConfig, 2 Route
pods     230 interfaces attached
leases   10.244.1.0/24: 229 of 253 leased
leases   fd00::/64: 229 leased
leases   10.9.0.0/24: 1 leased, and no more to lease
pushed   epoch 7 in 2ms: 1 snapshots, 3 deltas, 1 refused
refused: epoch 8: Route a: spec.via: unknown port
degraded: port left: generic XDP
state file: /s/snapshot.pb: torn
control: the dataplane is not connected for 1m0s: no such socket
refused: r.yaml:3: Route b: spec.destination: no prefix
leases: 10.244.1.0/24: 229 of 253 leased: nearly exhausted

WORKER  CPU  QUEUES  FRAMES  FREE  PACKETS  PASSES  BUSY  SLEEPS
0       any  v0:1      4096     0        0       0     0       0

FEATURE              FOUND  SINCE  DETAIL
AF_XDP multi-buffer  yes    6.6    -
`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got, err := execute(t.Context(), run, "text", strings.Fields(tt.args)...)
			if err != nil || got != tt.want[1:] {
				t.Errorf("error %v, got\n%swant%s", err, got, tt.want)
			}
		})
	}
}

var update = flag.Bool("update", false, "rewrite testdata/*.txt")

// TestTranscript runs each command of a file again, whose lines "$ …" are the arguments, and compares all that it says.
func TestTranscript(t *testing.T) {
	const path = "testdata/services.txt"
	run := serve(t, fake{balanced: true})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(string(text)) {
		args, is := strings.CutPrefix(line, "$ ")
		if !is {
			continue
		}
		out, err := execute(t.Context(), run, "text", strings.Fields(args)...)
		if err != nil {
			t.Errorf("%s: %v", args, err)
		}
		got.WriteString("$ " + args + out + "\n")
	}
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got.String() != string(text) {
		t.Errorf("got\n%s", got.String())
	}
}

// TestStatusWithoutDataplane: control says how it is, and the command fails all the same.
func TestStatusWithoutDataplane(t *testing.T) {
	run := serve(t, fake{})
	if err := os.Remove(filepath.Join(run, "dataplane.sock")); err != nil {
		t.Fatal(err)
	}
	got, err := execute(t.Context(), run, "text", "status")
	if err == nil || !strings.Contains(err.Error(), "no dataplane answers") || !strings.Contains(got, "dir:/lab") ||
		!strings.Contains(got, "Route b") {
		t.Errorf("error %v, got\n%s", err, got)
	}
	got, _ = execute(t.Context(), run, "json", "status")
	var status struct {
		Healthy bool
		Absence string `json:"dataplane_error"`
		Control struct{ Attachments int }
	}
	if err := json.Unmarshal([]byte(got), &status); err != nil || status.Healthy || status.Absence == "" ||
		status.Control.Attachments != 230 {
		t.Errorf("%v: %s", err, got)
	}
}

func TestJSON(t *testing.T) {
	run := serve(t, fake{balanced: true})
	out, err := execute(t.Context(), run, "json", "drops")
	if err != nil {
		t.Fatal(err)
	}
	var ledger struct {
		Balanced bool
		Total    struct{ Received, Consumed *uint64 }
		Ports    []struct {
			Hook    map[string]uint64
			Reasons []struct{ Reason string }
		}
	}
	if err := json.Unmarshal([]byte(out), &ledger); err != nil {
		t.Fatal(err)
	}
	if !ledger.Balanced || ledger.Total.Received == nil || *ledger.Total.Received != 10 || ledger.Total.Consumed == nil ||
		ledger.Ports[0].Hook["no_socket"] != 4 || ledger.Ports[0].Reasons[0].Reason != "no_frame" {
		t.Errorf("got %s", out)
	}
	out, err = execute(t.Context(), run, "json", "ports")
	if err != nil || !strings.Contains(out, `"state": "up"`) || !strings.Contains(out, `"outer_vlan": 5`) ||
		!strings.Contains(out, `"state": "gone"`) {
		t.Errorf("error %v, got %s", err, out)
	}
}

func TestUnbalancedIsFailure(t *testing.T) {
	out, err := execute(t.Context(), serve(t, fake{}), "text", "drops")
	if exit.Status(err) != exit.Failed || !strings.Contains(out, "does NOT balance: received differs by 3") {
		t.Errorf("status %d (%v), got %s", exit.Status(err), err, out)
	}
}

func TestErrors(t *testing.T) {
	run := serve(t, fake{balanced: true})
	for _, tt := range []struct{ run, args, want string }{
		{t.TempDir(), "ports", "no dataplane answers on "},
		{run, "ports nope", `no port is named "nope"`},
		{run, "ports a b", "accepts at most 1 arg(s)"},
		{run, "routes --within 10.0.0.0/8 --to 10.0.0.1", "none of the others can be"},
		{run, "ports --watch --interval 0s", "--interval 0s is not a positive time"},
	} {
		_, err := execute(t.Context(), tt.run, "text", strings.Fields(tt.args)...)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") ||
			exit.Status(err) != exit.SetUp {
			t.Errorf("%s: got %v, want %q", tt.args, err, tt.want)
		}
	}
}

func TestWatchPrintsUntilTheContextEnds(t *testing.T) {
	run := serve(t, fake{balanced: true})
	ctx, cancel := context.WithCancel(t.Context()) // as a signal does it
	defer cancel()
	time.AfterFunc(300*time.Millisecond, cancel)
	out, err := execute(ctx, run, "json", "neighbors", "--watch", "--interval", "20ms")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil || len(lines) < 3 {
		t.Fatalf("error %v, %d lines", err, len(lines))
	}
	for _, l := range lines {
		if !json.Valid([]byte(l)) {
			t.Fatalf("not one document a line: %s", l)
		}
	}
}

func TestServiceIsNotThere(t *testing.T) {
	out, err := execute(t.Context(), serve(t, fake{}), "text", "services", "shop/nope")
	if exit.Status(err) != exit.Failed || !strings.Contains(err.Error(), `no service is named "shop/nope"`) {
		t.Errorf("status %d (%v), got %s", exit.Status(err), err, out)
	}
}

func TestServiceNamesAreCompleted(t *testing.T) {
	out, err := execute(t.Context(), serve(t, fake{}), "text", "__complete", "services", "")
	if err != nil || !strings.HasPrefix(out, "shop/dns\nshop/web:http\n") {
		t.Errorf("error %v, got %s", err, out)
	}
}

func TestServicesJSON(t *testing.T) {
	out, err := execute(t.Context(), serve(t, fake{}), "json", "services", "shop/web")
	if err != nil {
		t.Fatal(err)
	}
	var reply struct {
		Services []struct {
			Name     string
			Opened   *uint64
			Backends []struct {
				State     string
				Ejections *uint64
			}
			Frontends []struct {
				Kind    string
				Traffic string `json:"traffic_policy"`
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &reply); err != nil {
		t.Fatal(err)
	}
	s := reply.Services
	if len(s) != 1 || s[0].Opened == nil || len(s[0].Backends) != 3 || s[0].Backends[0].Ejections == nil ||
		s[0].Frontends[2].Kind != "node-port" || s[0].Frontends[1].Traffic != "local" {
		t.Errorf("got %s", out)
	}
}

func TestPortNamesAreCompleted(t *testing.T) {
	run := serve(t, fake{balanced: true})
	out, err := execute(t.Context(), run, "text", "__complete", "drops", "")
	if err != nil || !slices.Contains(strings.Split(out, "\n"), "left") {
		t.Errorf("error %v, got %s", err, out)
	}
}
