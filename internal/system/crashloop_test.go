// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestCrashLoop: the dataplane is killed ten times in a row, in the midst of its start or a moment after, while data
// flow. Of what was carried nothing is lost; connections that were opened in between go on; and nothing gathers.
func TestCrashLoop(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	s := newStage(t)
	all := s.podTraffic(s.pods["web"], s.pods["spy"])
	s.flows(all)
	at := netip.AddrPortFrom(s.address("web", 4), 6000)
	open := []*bulk{s.bulkTo(s.of("spy"), s.of("web"), at, at.Port())}
	s.carried("before", open[0], "spy", "web")
	before, pins := s.settled(s.dataplane), s.pinned()
	s.lossless(all, "the dataplane was killed again and again", func() {
		for round := range 10 {
			s.dataplane.kill()
			s.must(open[0].moves(open[0].near, open[0].far))
			s.dataplane = s.startDataplane()
			if round%2 == 0 {
				time.Sleep(time.Duration(chance.IntN(400)) * time.Millisecond) // at any point of its start
				continue
			}
			s.dataplane.ready()
			b := s.bulkTo(s.of("spy"), s.of("web"), netip.AddrPortFrom(at.Addr(), at.Port()+uint16(round)),
				at.Port()+uint16(round))
			s.carried(fmt.Sprint("opened in round ", round), b, "spy", "web")
			open = append(open, b)
		}
		s.dataplane.ready()
		for i, b := range open {
			if err := errors.Join(b.chats(), b.moves(b.far, b.near)); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		}
	})
	for i, b := range open {
		s.carried(fmt.Sprint("connection ", i, " afterwards"), b, "spy", "web")
	}
	s.noGrowth(s.dataplane, before)
	if now := s.pinned(); now != pins {
		t.Errorf("%d pins became %d", pins, now)
	}
	s.balanced()
}

// pinned counts what is pinned.
func (s *site) pinned() (n int) {
	s.t.Helper()
	s.must(filepath.WalkDir(s.bpf, func(_ string, _ fs.DirEntry, err error) error {
		n++
		return err
	}))
	return n
}

// TestDomainNamesOverRestart: what a pod was told of names holds, and what it has opened by that goes on, when the
// dataplane is killed, stopped, or hands over; what it was not told does not.
func TestDomainNamesOverRestart(t *testing.T) {
	s := newStage(t)
	s.namedWorld()
	s.write("policy.yaml", clusterPolicy("names", "", "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: ["+
		"{action: Accept, to: [{networks: [192.0.2.2/32, '2001:db8::2/128']}], "+
		"protocols: [{udp: {destinationPort: {number: 53}}}]}, "+
		"{action: Accept, to: [{domainNames: [www.example.test, '*.wild.test', shop.example.test]}]}, "+
		"{action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}]}"))
	s.hasPolicies(1)
	var open []*bulk
	for f := range families {
		s.eventually("the name to be of use", func() error {
			if err := s.resolve("web", f, "www.example.test."); err != nil {
				return err
			}
			_, err := askWithin(s.of("web"), "tcp", netip.AddrPortFrom(named(f, 1), peerPort), chatTime)
			return err
		})
		const listen = 6000
		b := s.bulkTo(s.of("web"), s.of("world"), netip.AddrPortFrom(named(f, 1), listen), listen)
		s.carried("by a name", b, "web")
		open = append(open, b)
	}
	for _, way := range []struct {
		name    string
		restart func()
	}{
		{"was killed", func() {
			s.eventually("names to be in the file", s.namesSaved)
			s.dataplane.kill()
			s.dataplane = s.startDataplane()
		}},
		{"was stopped", func() {
			s.dataplane.stop()
			s.dataplane = s.startDataplane()
		}},
		{"handed over", func() {
			before := s.dataplane
			s.dataplane = s.startDataplane("--take-over")
			<-before.process.Done()
		}},
	} {
		way.restart()
		s.dataplane.ready()
		s.eventually("the walk", func() error {
			status, err := s.dataplaneStatus()
			if err == nil && status.GetOffload().GetWalks() == 0 {
				err = errors.New("there was none")
			}
			return err
		})
		for i, b := range open {
			if err := errors.Join(b.moves(b.near, b.far), b.chats()); err != nil {
				t.Errorf("when the dataplane %s, connection %d: %v", way.name, i, err)
			}
		}
		for f := range families {
			s.reachesNamed("web", f, true, 1)
			s.reachesNamed("web", f, false, 2, 3)
			s.reachesNamed("db", f, false, 1)
		}
	}
	s.balanced()
}

// namesSaved says whether the file of what was learned has the addresses of the name.
func (s *stage) namesSaved() error {
	b, err := os.ReadFile(filepath.Join(s.state, "learned.bin"))
	for f := range families {
		if a := named(f, 1).As16(); err == nil && !bytes.Contains(b, a[:]) {
			err = fmt.Errorf("%v is not in it", named(f, 1))
		}
	}
	return err
}
