// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// TestChangesUnderLoad: while policies, labels of pods and of namespaces change 50 times a second, nothing is lost to
// policy of what all of them let, and nothing passes that none of them lets.
func TestChangesUnderLoad(t *testing.T) {
	const lasting, pace = 4 * time.Second, 20 * time.Millisecond
	s := newStage(t)
	for _, name := range []string{"shop-own", "web-asks"} {
		s.write(name+".yaml", variants[name](0))
	}
	s.write("spies.yaml", namespaceManifest("spies", 0))
	s.hasPolicies(2)
	s.is("policies to be in force", func(w way) bool {
		return w.from == "node" || cast[w.to].namespace != "shop" || cast[w.from].namespace == "shop"
	})
	allowed := s.podTraffic(s.pods["web"], s.pods["db"])
	s.flows(allowed)
	stop := s.transfers("web", "db")
	var denied traffic
	for _, f := range []int{4, 6} {
		denied = append(denied, s.startFlowTo(fmt.Sprintf("spy to db, IPv%d", f), s.of("spy"), s.of("db"),
			netip.AddrPortFrom(s.address("db", f), 7001)))
	}
	before, err := s.dataplaneStatus()
	s.must(err)
	policed := s.policed("web", "db")
	from := allowed.marks()
	changes := 0
	next := time.NewTicker(pace)
	defer next.Stop()
	for begin := time.Now(); time.Since(begin) < lasting; changes++ {
		s.changeSomething(changes)
		<-next.C
	}
	to := allowed.marks()
	moved := stop()
	after, err := s.dataplaneStatus()
	s.must(err)
	t.Logf("%d changes in %d epochs; %d MB moved meanwhile", changes, after.Epoch-before.Epoch, moved>>20)
	if after.Epoch-before.Epoch < 20 {
		t.Error("too few changes came into force")
	}
	s.lostOnlyWhatIsTold(allowed, from, to)
	if now := s.policed("web", "db"); now != policed {
		t.Errorf("policy dropped of what it lets: %s, before %s", now, policed)
	}
	for _, f := range denied {
		if lost, _ := f.missing(0, f.mark()); lost != f.mark() || lost == 0 {
			t.Errorf("%s: of %d datagrams that are denied %d were dropped", f.name, f.mark(), lost)
		}
	}
	s.balanced()
}

// variants are documents that may be so or so, without a difference for who may speak to whom among the cast.
var variants = map[string]func(i int) string{
	"shop-own": func(i int) string {
		return networkPolicy("shop", "own", fmt.Sprintf("{podSelector: {}, ingress: [{from: [{podSelector: {}}, "+
			"{namespaceSelector: {matchLabels: {team: t%d}}}]}]}", 10+i%3))
	},
	"web-asks": func(i int) string {
		return clusterPolicy("asks", "", fmt.Sprintf("{tier: Admin, priority: %d, subject: {namespaces: {matchLabels: "+
			"{kubernetes.io/metadata.name: shop}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: "+
			"{kubernetes.io/metadata.name: spies}}}]}, {action: Pass, from: [{namespaces: {}}]}]}", 1+i%5))
	},
	"pod-web": func(i int) string { return podManifest("shop", "web", fmt.Sprintf("app: web, turn: 't%d'", i%7)) },
	"pod-db":  func(i int) string { return podManifest("shop", "db", fmt.Sprintf("app: db, turn: 't%d'", i%5)) },
	"pod-spy": func(i int) string { return podManifest("spies", "spy", fmt.Sprintf("app: spy, turn: 't%d'", i%3)) },
	"shop":    func(i int) string { return namespaceManifest("shop", i%4) },
	"spies":   func(i int) string { return namespaceManifest("spies", i%4) },
}

func namespaceManifest(name string, team int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {team: t%d}}\n", name, team)
}

// changeSomething makes the i-th change.
func (s *stage) changeSomething(i int) {
	s.t.Helper()
	names := []string{"shop-own", "pod-web", "shop", "web-asks", "pod-db", "spies", "pod-spy"}
	name := names[i%len(names)]
	s.write(name+".yaml", variants[name](i/len(names)+1))
	if i%3 == 0 { // and one that comes and goes
		if i%2 == 0 {
			s.write("more.yaml", networkPolicy("shop", "more", "{podSelector: {matchLabels: {app: db}}, ingress: "+
				"[{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{protocol: TCP}]}]}"))
		} else {
			s.remove("more.yaml")
		}
	}
}

// policed is what policy and the table of flows dropped of pods' packets.
func (s *stage) policed(pods ...string) (text string) {
	s.t.Helper()
	for _, pod := range pods {
		for _, reason := range []string{"ingress_denied", "egress_denied", "tcp_out_of_window", "tcp_without_flow",
			"bad_tcp_flags", "flow_limit", "source_limit", "flow_table_full"} {
			n, err := s.dropped(pod, reason)
			s.must(err)
			text += fmt.Sprintf("%s %s %d, ", pod, reason, n)
		}
	}
	return text
}

// transfers has a pod send what another one sends back, on a connection of each family, and checks every byte; what is
// returned ends that and says how many bytes came back.
func (s *stage) transfers(from, to string) (stop func() (bytes int64)) {
	s.t.Helper()
	at := s.echoIn(s.of(to))
	end := make(chan struct{})
	var sending sync.WaitGroup
	var mu sync.Mutex
	var moved int64
	for f := range families {
		var c net.Conn
		s.must(s.of(from).Do(func() (err error) {
			c, err = net.DialTimeout("tcp", netip.AddrPortFrom(s.address(to, f), at).String(), patient)
			return err
		}))
		sending.Go(func() {
			defer c.Close()
			n, err := rounds(c, end)
			mu.Lock()
			defer mu.Unlock()
			moved += n
			if err != nil {
				s.t.Errorf("a connection by IPv%d: %v", f, err)
			}
		})
	}
	return func() int64 {
		close(end)
		sending.Wait()
		return moved
	}
}

// rounds sends and gets back a block, again and again until it is to end.
func rounds(c net.Conn, end chan struct{}) (moved int64, err error) {
	block, back := make([]byte, 256<<10), make([]byte, 256<<10)
	for turn := byte(0); ; turn++ {
		select {
		case <-end:
			return moved, nil
		default:
		}
		for i := range block {
			block[i] = byte(i>>8) ^ byte(i) ^ turn
		}
		if err := c.SetDeadline(time.Now().Add(patient)); err != nil {
			return moved, err
		}
		sent := make(chan error, 1)
		go func() { _, err := c.Write(block); sent <- err }()
		_, err = io.ReadFull(c, back)
		if sendErr := <-sent; err == nil {
			err = sendErr
		}
		if err == nil && !bytes.Equal(block, back) {
			err = errors.New("other bytes came back")
		}
		if err != nil {
			return moved, err
		}
		moved += int64(len(block))
	}
}
