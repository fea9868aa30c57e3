// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// frontends of the service, by name, in a family.
func frontends(family int) map[string]netip.AddrPort {
	a, of := serviceAddresses[family], families[family]
	return map[string]netip.AddrPort{
		"cluster address":      netip.AddrPortFrom(netip.MustParseAddr(a.cluster), servicePort),
		"external address":     netip.AddrPortFrom(netip.MustParseAddr(a.external), servicePort),
		"load balancer":        netip.AddrPortFrom(netip.MustParseAddr(a.balancer), servicePort),
		"node port":            netip.AddrPortFrom(of.uplink, nodePort),
		"node port, pod CIDR":  netip.AddrPortFrom(of.node, nodePort),
		"node port, loopback4": netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), nodePort),
	}
}

// TestServices: everybody reaches a service by every frontend, and is seen with his own address.
func TestServices(t *testing.T) {
	s := newServiceStage(t, "workers: 2")
	s.service("", []string{"web", "db"})
	for f, of := range families {
		for what, at := range frontends(f) {
			for _, from := range []string{"spy", "web", "node", "world"} {
				loopback := at.Addr().IsLoopback()
				if loopback && (from != "node" || f != 4) {
					continue
				}
				if what == "node port, pod CIDR" && from == "world" {
					continue
				}
				seen := map[string]bool{s.address(from, f).String(): true}
				if from == "node" { // by whichever of its addresses, and where it speaks to itself by the dataplane's
					seen = map[string]bool{of.node.String(): true, of.uplink.String(): true}
				}
				for _, network := range []string{"tcp", "udp"} {
					s.everyBackend(from, network, what, at, seen)
				}
			}
		}
	}
	s.balanced()
}

// everyBackend asks until all backends have answered, each of which has to see one of the addresses, or, where a pod
// reaches itself, the frontend's.
func (s *serviceStage) everyBackend(from, network, what string, at netip.AddrPort, seen map[string]bool) {
	s.t.Helper()
	answered := map[string]bool{}
	s.eventually(fmt.Sprintf("%s to reach %s, %v, by %s", from, what, at, network), func() error {
		name, saw, err := who(s.of(from), network, at)
		if err != nil {
			return err
		}
		answered[name] = true
		if name != from && !seen[saw.String()] {
			s.t.Errorf("%s by %s to %s, %v: %s saw %v, want one of %v", from, network, what, at, name, saw, seen)
		}
		if name == from && saw != at.Addr() {
			s.t.Errorf("%s by %s to %s, %v reached itself as %v", from, network, what, at, saw)
		}
		if len(answered) < len(s.backends) {
			return fmt.Errorf("only %v answered", answered)
		}
		return nil
	})
}

// TestServiceEndpoints: backends come and go; without any the client is told at once.
func TestServiceEndpoints(t *testing.T) {
	s := newServiceStage(t)
	s.service("", []string{"web", "db"})
	at := frontends(4)["cluster address"]
	s.everyBackend("spy", "tcp", "the service", at, map[string]bool{s.address("spy", 4).String(): true})
	stays, err := dial(s.of("spy"), "udp", at)
	s.must(err)
	defer stays.Close()
	goes, _, err := stays.ask(patient)
	s.must(err)
	other := map[string]string{"web": "db", "db": "web"}[goes]
	s.service("", []string{other})
	s.eventually("a UDP flow to follow", func() error {
		name, _, err := stays.ask(time.Second)
		if err == nil && name != other {
			err = fmt.Errorf("%s answers", name)
		}
		return err
	})
	for range 20 {
		if name, _, err := who(s.of("spy"), "tcp", at); err != nil || name != other {
			t.Errorf("%s answered, %v; %s is alone", name, err, other)
		}
	}
	s.service("", nil)
	for f := range families {
		for what, at := range frontends(f) {
			for _, from := range []string{"spy", "node", "world"} {
				if at.Addr().IsLoopback() && from != "node" || from == "world" && strings.Contains(what, "pod CIDR") {
					continue
				}
				s.eventually(fmt.Sprintf("%s to be refused by %s, %v", from, what, at), func() error {
					begin := time.Now()
					_, _, err := who(s.of(from), "tcp", at)
					if !errors.Is(err, syscall.ECONNREFUSED) {
						return fmt.Errorf("tcp: %w", cmpError(err))
					}
					if took := time.Since(begin); took > time.Second {
						return fmt.Errorf("tcp was refused after %v", took)
					}
					if _, _, err = who(s.of(from), "udp", at); !errors.Is(err, syscall.ECONNREFUSED) {
						return fmt.Errorf("udp: %w", cmpError(err))
					}
					return nil
				})
			}
		}
	}
	s.balanced()
}

// cmpError makes an error of none.
func cmpError(err error) error {
	if err == nil {
		return errors.New("somebody answered")
	}
	return err
}

// TestServiceChurn: endpoints change all the time under connections, of which none is broken that has its backend.
func TestServiceChurn(t *testing.T) {
	const connections, changes = 1000, 200
	s := newServiceStage(t, "workers: 2")
	third := s.backendIn(s.of("spy"), "spy")
	s.backends["spy"] = third
	all := []string{"web", "db", "spy"}
	s.service("", all)
	at := frontends(4)["cluster address"]
	s.everyBackend("world", "tcp", "the service", at, map[string]bool{s.address("world", 4).String(): true})
	calls, names := make([]*call, connections), make([]string, connections)
	s.must(each(connections, 32, func(i int) (err error) {
		if calls[i], err = dial(s.world, "tcp", at); err != nil {
			return err
		}
		names[i], _, err = calls[i].ask(patient)
		return err
	}))
	defer func() {
		for _, c := range calls {
			_ = c.Close()
		}
	}()
	var stop atomic.Bool
	var asked atomic.Int64
	var group errgroup.Group
	group.Go(func() error {
		for !stop.Load() {
			if err := each(connections, 16, func(i int) error {
				name, _, err := calls[i].ask(patient)
				if err == nil && name != names[i] {
					err = fmt.Errorf("%s answers", name)
				}
				if err != nil {
					return fmt.Errorf("connection %d to %s: %w", i, names[i], err)
				}
				asked.Add(1)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	begin := time.Now()
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	for i := range changes { // one of three leaves, and comes back
		s.service("", slices.Delete(slices.Clone(all), i%3, i%3+1))
		<-every.C
	}
	took := time.Since(begin)
	s.service("", all)
	stop.Store(true)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d changes in %v, %d questions answered", changes, took.Round(time.Millisecond), asked.Load())
	s.everyBackend("world", "tcp", "the service", at, map[string]bool{s.address("world", 4).String(): true})
	s.balanced()
}

// TestServiceRemovedBackend: what is set becomes of connections to a backend that is gone.
func TestServiceRemovedBackend(t *testing.T) {
	s := newServiceStage(t)
	at := frontends(4)["cluster address"]
	for _, removal := range []string{"drain", "reset"} {
		s.service("viaduct.dev/removed-backends: "+removal, []string{"web"})
		s.eventually("web alone", func() error {
			name, _, err := who(s.of("spy"), "tcp", at)
			if err == nil && name != "web" {
				err = fmt.Errorf("%s answers", name)
			}
			return err
		})
		c, err := dial(s.of("spy"), "tcp", at)
		s.must(err)
		defer c.Close()
		_, _, err = c.ask(patient)
		s.must(err)
		s.service("viaduct.dev/removed-backends: "+removal, []string{"db"})
		s.eventually("db alone", func() error {
			name, _, err := who(s.of("spy"), "tcp", at)
			if err == nil && name != "db" {
				err = fmt.Errorf("%s answers", name)
			}
			return err
		})
		switch name, _, err := c.ask(patient); {
		case removal == "drain" && (err != nil || name != "web"):
			t.Errorf("drain: %s answers, %v", name, err)
		case removal == "reset" && !errors.Is(err, syscall.ECONNRESET):
			t.Errorf("reset: %s answers, %v", name, err)
		}
	}
}

// TestServiceTraffic: traffic policies, source ranges and affinity.
func TestServiceTraffic(t *testing.T) {
	s := newServiceStage(t)
	at := frontends(4)
	refused := func(from string, at netip.AddrPort) error {
		_, _, err := func() (string, netip.Addr, error) {
			var c net.Conn
			err := s.of(from).Do(func() (err error) { c, err = net.DialTimeout("tcp", at.String(), time.Second/2); return err })
			if err == nil {
				_ = c.Close()
			}
			return "", netip.Addr{}, err
		}()
		var late net.Error
		if !errors.As(err, &late) || !late.Timeout() {
			return fmt.Errorf("%s to %v: %w", from, at, cmpError(err))
		}
		return nil
	}
	open := func(from string, at netip.AddrPort) error { _, _, err := who(s.of(from), "tcp", at); return err }

	s.service("", []string{"web"}, `loadBalancerSourceRanges: ["198.51.100.0/24"]`)
	s.eventually("the world to be no source that may come", func() error {
		return errors.Join(open("world", at["cluster address"]), refused("world", at["load balancer"]))
	})
	s.service("", []string{"web"}, `loadBalancerSourceRanges: ["192.0.2.0/24"]`)
	s.eventually("the world to be one", func() error { return open("world", at["load balancer"]) })

	s.service("", []string{"web", "db"}, "sessionAffinity: ClientIP")
	s.eventually("affinity", func() error {
		first, _, err := who(s.world, "tcp", at["node port"])
		for range 20 {
			name, _, again := who(s.world, "tcp", at["node port"])
			if err = errors.Join(err, again); name != first {
				err = errors.Join(err, fmt.Errorf("%s answers after %s", name, first))
			}
		}
		return err
	})
	s.service("", []string{"web", "db"}, "externalTrafficPolicy: Local", "internalTrafficPolicy: Local")
	s.eventually("backends here", func() error {
		return errors.Join(open("world", at["node port"]), open("spy", at["cluster address"]))
	})
	text := strings.ReplaceAll(s.text("service.yaml"), "nodeName: node", "nodeName: another")
	s.write("service.yaml", text)
	s.eventually("no backends here", func() error {
		return errors.Join(refused("world", at["node port"]), refused("world", at["load balancer"]),
			refused("spy", at["cluster address"]), open("spy", at["load balancer"]))
	})
}

// TestServicePolicy: policy judges who asks and who answers, whatever is between them.
func TestServicePolicy(t *testing.T) {
	s := newServiceStage(t)
	s.service("", []string{"web", "db"})
	for f := range families {
		at := frontends(f)["cluster address"]
		s.everyBackend("spy", "tcp", "the service", at, map[string]bool{s.address("spy", f).String(): true})
	}
	s.write("policy.yaml", networkPolicy("spies", "egress", "{podSelector: {}, policyTypes: [Egress], egress: "+
		"[{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}]}]}"))
	for f := range families {
		at := frontends(f)["cluster address"]
		s.eventually("web alone to be reached", func() error {
			reached := map[string]int{}
			for range 30 {
				c, err := dialWithin(s.of("spy"), "tcp", at, 200*time.Millisecond)
				if err != nil {
					reached["nobody"]++
					continue
				}
				name, _, _ := c.ask(patient)
				_ = c.Close()
				reached[name]++
			}
			if reached["db"] > 0 || reached["web"] == 0 || reached["nobody"] == 0 {
				return fmt.Errorf("reached %v", reached)
			}
			return nil
		})
	}
}
