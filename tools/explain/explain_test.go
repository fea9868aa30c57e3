// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/tools/exit"
	"github.com/viaduct-net/viaduct/tools/show"
)

var update = flag.Bool("update", false, "rewrite testdata/*.txt")

func execute(t *testing.T, run, output string, args ...string) (string, error) {
	t.Helper()
	root := &cobra.Command{Use: "viaduct", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(Command(&show.Flags{Run: run, Output: output}))
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// transcript runs each command of a file again, whose lines "$ …" are the arguments, and compares all that it says.
func transcript(t *testing.T, path, run string, more ...string) {
	t.Helper()
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
		out, err := execute(t, run, "text", append(append([]string{"explain"}, more...), strings.Fields(args)...)...)
		fmt.Fprintf(&got, "$ %s%s= %d", args, out, exit.Status(err))
		if err != nil {
			fmt.Fprintf(&got, ": %v", err)
		}
		got.WriteString("\n\n")
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

func TestOffline(t *testing.T) {
	transcript(t, "testdata/offline.txt", "", "--manifests", "testdata/manifests")
}

func TestOnline(t *testing.T) {
	transcript(t, "testdata/online.txt", serve(t))
}

// TestJSON: the fields at the top are those of the family that is denied, and none is ever left out.
func TestJSON(t *testing.T) {
	out, err := execute(t, serve(t), "json", strings.Fields("explain --from shop/client --to shop/web --port 80")...)
	if exit.Status(err) != exit.Failed {
		t.Errorf("status %d: %v", exit.Status(err), err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]any{
		"verdict": "deny", "reason": "ingress_denied", "rule": "NetworkPolicy shop/v4 spec.ingress[0]", "family": "ipv6",
		"source": "fd00::1", "destination": "fd00::2", "from": "shop/client", "to": "shop/web", "protocol": "tcp",
		"port": 80.0, "epoch": 7.0, "staged_verdict": "", "staged_rule": "",
	} {
		if is, there := got[field]; !there || is != want {
			t.Errorf("%s: %v, want %v", field, is, want)
		}
	}
	if list, is := got["backends"].([]any); !is || len(list) != 0 || got["service"] != "" {
		t.Errorf("got %s", out)
	}
	families := got["families"].([]any)
	if len(families) != 2 || len(got["steps"].([]any)) != 3 {
		t.Fatalf("got %s", out)
	}
	if first := families[0].(map[string]any); first["family"] != "ipv4" || first["verdict"] != "allow" ||
		first["staged_verdict"] != "deny" || first["staged_rule"] != "NetworkPolicy shop/staged" || first["epoch"] != 7.0 {
		t.Errorf("IPv4: %v", first)
	}
}

// A service's backends are in the json, each with what decides.
func TestServiceJSON(t *testing.T) {
	out, err := execute(t, serve(t), "json", strings.Fields("explain --from shop/client --to 10.96.0.10 --port 80")...)
	if err != nil {
		t.Error(err)
	}
	var got struct {
		Verdict, Service string
		Backends         []Backend
	}
	want := Backend{Address: "10.0.0.2", Port: 8080, Verdict: "allow", Rule: "NetworkPolicy shop/v4 spec.ingress[0]"}
	if err := json.Unmarshal([]byte(out), &got); err != nil || got.Verdict != "allow" || got.Service != "shop/web:http" ||
		!slices.Equal(got.Backends, []Backend{want}) {
		t.Errorf("error %v, got %s", err, out)
	}
}

// fake is a dataplane that lets IPv4 alone, and explains to whoever asks for it nothing else.
type fake struct {
	api.UnimplementedDataplaneServer
}

func (fake) Explain(_ context.Context, r *api.ExplainRequest) (*api.ExplainReply, error) {
	if r.Port == 9 {
		return nil, grpcstatus.Error(codes.InvalidArgument, "no such thing")
	}
	reply := &api.ExplainReply{Verdict: "allow", Rule: "NetworkPolicy shop/v4 spec.ingress[0]", Epoch: 7, Steps: []string{
		"from " + r.Source + ": identity 3", "to " + r.Destination + ": identity 4",
		fmt.Sprintf("asked about %s %d", r.Protocol, r.Port),
	}, StagedVerdict: "deny", StagedRule: "NetworkPolicy shop/staged"}
	if r.Protocol != "tcp" {
		reply.Uncarried = "no packet of " + r.Protocol
	}
	if r.Destination == "10.96.0.10" {
		reply.Service, reply.Steps[1] = "shop/web:http", "to 10.96.0.10: service shop/web:http, its cluster-ip"
		if r.Port == 81 {
			reply = &api.ExplainReply{Verdict: "deny", Reason: "service_refused", Steps: append(reply.Steps[:1:1],
				"to 10.96.0.10: an address of services alone, none of which has the port", "nobody answers")}
		} else {
			reply.Backends = []*api.ExplainedBackend{{Address: "10.0.0.2", Port: 8080, Verdict: "allow", Rule: reply.Rule}}
		}
	}
	if a, err := netip.ParseAddr(r.Source); err != nil || a.Is6() {
		reply.Verdict, reply.Reason, reply.StagedVerdict, reply.StagedRule = "deny", "ingress_denied", "", ""
	}
	return reply, nil
}

func (fake) Identities(_ *api.IdentitiesRequest, s grpc.ServerStreamingServer[api.IdentitiesReply]) error {
	return s.Send(&api.IdentitiesReply{Identities: []*api.Identity{
		{Kind: "pod", Prefixes: []*api.IdentityPrefix{{Prefix: "10.0.0.66/32", Origin: "Node n1"}}},
		{Kind: "node", Prefixes: []*api.IdentityPrefix{
			{Prefix: "192.0.2.10/32", Origin: "Node n10 (n.yaml:1)"}, {Prefix: "192.0.2.1/32", Origin: "Node n1 (n.yaml:9)"},
			{Prefix: "192.0.2.2/32", Origin: "Node n1 (n.yaml:9)"}, {Prefix: "192.0.2.3/32", Origin: "Node n2"}}},
	}})
}

func (fake) Ports(context.Context, *api.PortsRequest) (*api.PortsReply, error) {
	return &api.PortsReply{Ports: []*api.Port{{Name: "left"}, {Name: "host", Station: []string{"10.0.0.9"}},
		{Name: "shop/web", Station: []string{"10.0.0.2"}}}}, nil
}

type fakeControl struct {
	controlapi.UnimplementedControlServer
}

func (fakeControl) Pod(_ context.Context, r *controlapi.PodRequest) (*controlapi.PodReply, error) {
	pods := map[string][]string{
		"client": {"10.0.0.1", "fd00::1"}, "web": {"10.0.0.2", "fd00::2"}, "four": {"10.0.0.4", "10.0.0.5"}, "new": {},
	}
	addresses, known := pods[r.Name]
	if !known || r.Namespace != "shop" {
		return nil, grpcstatus.Errorf(codes.NotFound, "no pod %s/%s is known", r.Namespace, r.Name)
	}
	reply := &controlapi.PodReply{Node: "n1", Ports: []*controlapi.NamedPort{
		{Name: "dns", Protocol: controlapi.Protocol_PROTOCOL_UDP, Port: 53},
		{Name: "http", Protocol: controlapi.Protocol_PROTOCOL_TCP, Port: 8080}}}
	for _, a := range addresses {
		reply.Addresses = append(reply.Addresses, netip.MustParseAddr(a).AsSlice())
	}
	return reply, nil
}

// serve runs the fakes and returns their run directory.
func serve(t *testing.T) string {
	t.Helper()
	run := t.TempDir()
	s := grpc.NewServer()
	api.RegisterDataplaneServer(s, fake{})
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

// TestWithoutControl: addresses need nobody to look them up.
func TestWithoutControl(t *testing.T) {
	run := serve(t)
	if err := os.Remove(filepath.Join(run, "control.sock")); err != nil {
		t.Fatal(err)
	}
	if _, err := execute(t, run, "text", strings.Fields("explain --from 10.0.0.1 --to 10.0.0.2 --port 1")...); err != nil {
		t.Error(err)
	}
	_, err := execute(t, run, "text", strings.Fields("explain --from shop/web --to 10.0.0.2 --port 1")...)
	if err == nil || !strings.HasPrefix(err.Error(), "--from: no control answers on ") {
		t.Errorf("got %v", err)
	}
	_, err = execute(t, t.TempDir(), "text", strings.Fields("explain --from 10.0.0.1 --to 10.0.0.2 --port 1")...)
	if err == nil || !strings.HasPrefix(err.Error(), "no dataplane answers on ") {
		t.Errorf("got %v", err)
	}
}

func TestCompletion(t *testing.T) {
	run := serve(t)
	for _, tt := range []struct{ args, want string }{
		{"--protocol |", "tcp udp sctp icmp icmpv6"},
		{"--from |", "shop/web"},
		{"--manifests testdata/manifests --to |",
			"shop/client shop/db shop/lost shop/old shop/web watch/agent watch/scraper"},
	} {
		args := append([]string{"__complete", "explain"}, strings.Fields(strings.TrimSuffix(tt.args, "|"))...)
		out, err := execute(t, run, "text", append(args, "")...)
		words, _, _ := strings.Cut(out, "\n:")
		if got := strings.Fields(words); err != nil || !slices.Equal(got, strings.Fields(tt.want)) {
			t.Errorf("%s: got %v, %v", tt.args, got, err)
		}
	}
}

// TestNode: as to viaduct-control, a node that is named has not the NodeConfig of another.
func TestNode(t *testing.T) {
	dir := t.TempDir()
	const text = "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: lab}\nspec: {}\n"
	if err := os.WriteFile(filepath.Join(dir, "node.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for node, want := range map[string]int{"": exit.OK, "lab": exit.OK, "lap": exit.SetUp} {
		_, err := execute(t, "", "text", "explain", "--manifests", dir, "--node", node, "--from", "10.0.0.1",
			"--to", "10.0.0.2", "--port", "80")
		if exit.Status(err) != want || err != nil && !strings.Contains(err.Error(), `--node is "lap"`) {
			t.Errorf("%q: %v", node, err)
		}
	}
}
