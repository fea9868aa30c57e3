// SPDX-License-Identifier: Apache-2.0

package system

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"google.golang.org/grpc"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// TestProbes: a node asks its pods how they are, as kubelet does, also where nobody may speak to them, nor they to
// anybody.
func TestProbes(t *testing.T) {
	s := newStage(t)
	at := s.serveHTTP("web")
	s.write("policy.yaml", networkPolicy("shop", "deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}"))
	shop := func(name string) bool { return cast[name].namespace == "shop" }
	s.hasPolicies(1)
	s.is("only the node and its pods to speak", func(w way) bool {
		return w.from == "node" || w.to == "node" || !shop(w.from) && !shop(w.to)
	})
	for f := range families {
		to := netip.AddrPortFrom(s.address("web", f), at)
		for range 20 { // probes of TCP connect and hang up
			_, err := ask(s.node, "tcp", netip.AddrPortFrom(s.address("db", f), peerPort))
			s.must(err)
		}
		s.must(get(s.node, to))
		for _, who := range []string{"world", "spy"} {
			if err := get(s.of(who), to); err == nil {
				t.Errorf("%s may ask %v", who, to)
			}
		}
	}
	s.balanced()
}

// healthy is what a pod says that is asked how it is: more than a packet.
var healthy = string(make([]byte, 100_000))

// serveHTTP has a pod say that it is well, until the test ends.
func (s *stage) serveHTTP(pod string) (port uint16) {
	s.t.Helper()
	var l net.Listener
	s.must(s.of(pod).Do(func() (err error) { l, err = net.Listen("tcp", ":0"); return err }))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, healthy)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	s.t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// get asks by HTTP, on a connection of its own, which is given a moment to be made.
func get(from *netlab.Namespace, at netip.AddrPort) error {
	var c net.Conn
	err := from.Do(func() (err error) { c, err = net.DialTimeout("tcp", at.String(), 2*chatTime); return err })
	if err != nil {
		return err
	}
	defer c.Close()
	client := http.Client{Timeout: patient, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return c, nil },
	}}
	answer, err := client.Get("http://" + at.String() + "/healthz")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && string(text) != healthy {
		err = fmt.Errorf("%d bytes", len(text))
	}
	return err
}

// TestStagedPolicy: what is staged denies nothing, and is told. Enforced, it does as was told.
func TestStagedPolicy(t *testing.T) {
	s := newStage(t)
	deny := networkPolicy("shop", "deny", "{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}")
	staged := networkPolicy("shop", "deny, annotations: {viaduct.dev/staged: 'true'}",
		"{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}")
	s.write("policy.yaml", staged)
	s.eventually("the policy to be told of", func() error { return s.would("web", "db", "allow", "deny") })
	s.must(s.differs(everything))
	s.must(s.would("web", "spy", "allow", ""))
	s.must(s.would("node", "db", "allow", ""))
	s.write("policy.yaml", deny)
	s.is("what was staged to be denied", func(w way) bool { return w.to != "db" || w.from == "node" })
	s.must(s.would("web", "db", "deny", ""))
	s.write("policy.yaml", staged)
	s.eventually("the policy to be staged again", func() error { return s.would("web", "db", "allow", "deny") })
	s.must(s.differs(everything))
}

// would checks what is said of connections from one to another, and would be if staged policies were enforced.
func (s *stage) would(from, to, verdict, staged string) error {
	for f := range families {
		var reply *api.ExplainReply
		err := s.site.ask("dataplane.sock", func(ctx context.Context, c *grpc.ClientConn) (err error) {
			reply, err = api.NewDataplaneClient(c).Explain(ctx, &api.ExplainRequest{
				Source: s.address(from, f).String(), Destination: s.address(to, f).String(), Protocol: "tcp", Port: peerPort,
			})
			return err
		})
		if err != nil {
			return err
		}
		if reply.Verdict != verdict || reply.StagedVerdict != staged {
			return fmt.Errorf("from %s to %s by IPv%d: %v", from, to, f, reply)
		}
	}
	return nil
}
