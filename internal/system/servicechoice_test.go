// SPDX-License-Identifier: Apache-2.0

package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shown is what `viaduct services` says of shop/echo by TCP and IPv4.
type shown struct {
	Name, Protocol, Algorithm string
	IPv6                      bool
	Backends                  []struct {
		Address, State                    string
		Failed, Ejections, Active, Opened uint64
	}
}

func (s *serviceStage) shown() (shown, error) {
	s.t.Helper()
	text, _ := s.cli("services", "shop/echo:tcp", "-o", "json")
	var reply struct{ Services []shown }
	if err := json.Unmarshal([]byte(text), &reply); err != nil {
		return shown{}, fmt.Errorf("%w: %s", err, text)
	}
	for _, service := range reply.Services {
		if !service.IPv6 {
			return service, nil
		}
	}
	return shown{}, errors.New(text)
}

// backendOf is the state of a pod as one of the service's backends.
func (v *shown) backendOf(address string) (state string, failed, ejections uint64) {
	for _, b := range v.Backends {
		if b.Address == address {
			return b.State, b.Failed, b.Ejections
		}
	}
	return "", 0, 0
}

// TestServiceAlgorithms: the algorithm changes under connections, which stay where they are; what begins follows it.
func TestServiceAlgorithms(t *testing.T) {
	const held, asked = 40, 100
	s := newServiceStage(t)
	both := []string{"web", "db"}
	at := frontends(4)["cluster address"]
	calls, names := make([]*call, 0, held), make([]string, 0, held)
	for _, algorithm := range []string{"random", "round-robin", "weighted-round-robin", "least-connections", "two-choices",
		"source-hash", "maglev", "maglev-bounded", "random"} {
		s.service(fmt.Sprintf("viaduct.dev/algorithm: %s, viaduct.dev/weights: %q", algorithm,
			s.address("web", 4).String()+"=3"), both)
		s.eventually(algorithm+" to be in force", func() error {
			v, err := s.shown()
			if err == nil && v.Algorithm != algorithm {
				err = fmt.Errorf("it is %q", v.Algorithm)
			}
			return err
		})
		if len(calls) == 0 {
			for range held {
				c, err := dial(s.of("spy"), "tcp", at)
				s.must(err)
				defer c.Close()
				name, _, err := c.ask(patient)
				s.must(err)
				calls, names = append(calls, c), append(names, name)
			}
		}
		counts := map[string]int{}
		for range asked {
			name, _, err := who(s.of("spy"), "tcp", at)
			s.must(err)
			counts[name]++
		}
		t.Log(algorithm, counts)
		low, high := 55, 90 // web has three of four
		switch algorithm {
		case "round-robin":
			low, high = 49, 51 // weights are none of its
		case "two-choices":
			low, high = 0, asked // by the times of handshakes
		case "weighted-round-robin":
			low, high = 74, 76
		case "least-connections": // by the connections that are held alone
			low, high = leastOf(names)
		case "maglev-bounded": // by the flows that are there, too
			low, high = 30, 100
		case "source-hash":
			low, high = 0, asked
			if counts["web"]*counts["db"] > 0 {
				t.Errorf("%s sends one client to both: %v", algorithm, counts)
			}
		}
		if counts["web"] < low || counts["web"] > high || counts["web"]+counts["db"] != asked {
			t.Errorf("%s: %v of %d, want web %d to %d", algorithm, counts, asked, low, high)
		}
		for i, c := range calls {
			if name, _, err := c.ask(patient); err != nil || name != names[i] {
				t.Fatalf("%s: a connection to %s is answered by %s, %v", algorithm, names[i], name, err)
			}
		}
	}
	s.balanced()
}

// leastOf is how many of a hundred short connections web gets by least connections, which has three times db's weight.
// Those that ended within a millisecond or so may be counted while the next begins, so what is nearly even may go to
// both.
func leastOf(held []string) (low, high int) {
	web, db := 1, 1 // the one to come included
	for _, name := range held {
		if name == "web" {
			web++
		} else {
			db++
		}
	}
	switch {
	case web+6 < 3*db:
		return 90, 100
	case web > 3*(db+2):
		return 0, 10
	default:
		return 0, 100
	}
}

// TestServiceEjection: a backend that refuses gets no flows after some failures, and is back when it answers.
func TestServiceEjection(t *testing.T) {
	s := newServiceStage(t)
	pair := []string{"web", "spy"} // nobody listens at spy
	s.service("viaduct.dev/algorithm: round-robin, viaduct.dev/ejection: \"3\"", pair)
	at, spy := frontends(4)["cluster address"], s.address("spy", 4).String()
	ask := func() (string, error) { name, _, err := who(s.of("db"), "tcp", at); return name, err }
	s.eventually("spy to be ejected", func() error {
		if _, err := ask(); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		v, err := s.shown()
		state, failed, ejections := v.backendOf(spy)
		if err == nil && (state != "ejected" || ejections != 1 || failed != 3) {
			err = fmt.Errorf("it is %q after %d failures and %d ejections", state, failed, ejections)
		}
		return err
	})
	for i := range 30 {
		if name, err := ask(); name != "web" {
			t.Fatalf("question %d: %s answers, %v", i, name, err)
		}
	}
	refused := 0
	for range 24 { // 12 s: it is tried
		if _, err := ask(); err != nil {
			refused++
		}
		time.Sleep(time.Second / 2)
	}
	if v, err := s.shown(); err != nil || refused != 1 {
		t.Errorf("%d were refused while it was tried, want 1: %+v, %v", refused, v, err)
	}
	s.backendIn(s.of("spy"), "spy")
	s.eventually("spy to be back", func() error {
		name, err := ask()
		if err != nil || name != "spy" {
			return fmt.Errorf("%s answers, %w", name, cmpError(err))
		}
		v, err := s.shown()
		if state, _, ejections := v.backendOf(spy); err == nil && (state != "ready" || ejections != 2) {
			err = fmt.Errorf("it is %q after %d ejections", state, ejections)
		}
		return err
	})
	answered := map[string]bool{}
	for range 10 {
		name, err := ask()
		s.must(err)
		answered[name] = true
	}
	if len(answered) != len(pair) {
		t.Errorf("%v answer", answered)
	}
}

// TestServiceAffinityTimeout: a client keeps its backend until it has been silent for the time.
func TestServiceAffinityTimeout(t *testing.T) {
	s := newServiceStage(t)
	s.service("", []string{"web", "db"}, "sessionAffinity: ClientIP",
		"sessionAffinityConfig: {clientIP: {timeoutSeconds: 2}}")
	at := frontends(6)["cluster address"]
	s.eventually("the service", func() error { _, _, err := who(s.of("spy"), "tcp", at); return err })
	seen := map[string]bool{}
	for range 12 {
		first, _, err := who(s.of("spy"), "tcp", at)
		s.must(err)
		seen[first] = true
		for range 15 { // longer than the timeout in all
			time.Sleep(200 * time.Millisecond)
			if name, _, err := who(s.of("spy"), "tcp", at); err != nil || name != first {
				t.Fatalf("%s answers after %s, %v", name, first, err)
			}
		}
		if len(seen) == 2 {
			return
		}
		time.Sleep(2200 * time.Millisecond)
	}
	t.Errorf("%v alone answered in twelve sessions", seen)
}

// TestServiceAtNodeAddress: an external address and a load balancer's may be the node's own; all reach it, the node's
// processes too.
func TestServiceAtNodeAddress(t *testing.T) {
	s := newServiceStage(t)
	for _, kind := range []string{"external", "balancer"} {
		s.service("", []string{"web", "db"})
		text := s.text("service.yaml")
		for f, of := range families {
			was := map[string]string{"external": serviceAddresses[f].external, "balancer": serviceAddresses[f].balancer}[kind]
			text = strings.ReplaceAll(text, was, of.uplink.String())
		}
		s.write("service.yaml", text)
		for f, of := range families {
			at := netip.AddrPortFrom(of.uplink, servicePort)
			for _, from := range []string{"spy", "world", "node"} {
				seen := map[string]bool{s.address(from, f).String(): true}
				if from == "node" {
					seen = map[string]bool{of.node.String(): true, of.uplink.String(): true}
				}
				for _, network := range []string{"tcp", "udp"} {
					s.everyBackend(from, network, kind, at, seen)
				}
			}
		}
	}
	s.balanced()
}
