// SPDX-License-Identifier: Apache-2.0

package system

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// hooked is how many packets of a pod's its hook has counted under a name.
func (s *stage) hooked(pod, name string) uint64 {
	s.t.Helper()
	r, err := s.ledger(cast[pod].namespace + "/" + pod)
	s.must(err)
	if len(r.Ports) != 1 {
		s.t.Fatalf("%d ports of %s", len(r.Ports), pod)
	}
	return r.Ports[0].Hook[name]
}

// TestAbsence: once the dataplane has been silent for a while, what is not carried is dropped, or led on by the host's
// own stack where that is wanted: what pods ask of the world, of each other and of the node, and are asked. What is
// carried goes on all the while. When the dataplane gets on again it tells what became of the rest.
func TestAbsence(t *testing.T) {
	for name, pass := range map[string]bool{"drop": false, "pass": true} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, "onAbsence: "+name)
			b := s.bulkTo(s.of("spy"), s.of("web"), netip.AddrPortFrom(s.address("web", 4), 6000), 6000)
			s.carried("before", b, "spy", "web")
			counted, patience := "absent_dropped", briefly
			if pass {
				counted, patience = "absent_passed", patient
			}
			asked := []way{{"spy", "world", "udp"}, {"spy", "world", "tcp"}, {"spy", "world", "icmp"}, {"spy", "web", "udp"},
				{"spy", "node", "udp"}, {"node", "spy", "tcp"}, {"world", "spy", "udp"}}
			for f := range families {
				for _, w := range asked {
					if !s.passes(w, f, patient) { // neighbours are known then
						t.Fatalf("IPv%d, %v does not pass", f, w)
					}
				}
			}
			s.dataplane.signal(syscall.SIGSTOP)
			t.Cleanup(func() { s.dataplane.signal(syscall.SIGCONT) })
			time.Sleep(time.Second) // what comes earlier waits for the dataplane
			for f := range families {
				for _, w := range asked {
					if passed := s.passes(w, f, patience); passed != pass {
						t.Errorf("IPv%d, %v: passed %v", f, w, passed)
					}
				}
			}
			for _, ends := range [][2]net.Conn{{b.near, b.far}, {b.far, b.near}} {
				s.must(b.moves(ends[0], ends[1]))
			}
			s.dataplane.signal(syscall.SIGCONT)
			s.is("the dataplane to be back", everything)
			if n := s.hooked("spy", counted); n < uint64(len(asked)) {
				t.Errorf("%d packets %s", n, counted)
			}
			if n := s.hooked("spy", "absent_passed"); n != 0 && !pass {
				t.Errorf("%d packets passed", n)
			}
			s.carried("after", b, "spy", "web")
			s.balanced()
		})
	}
}

// briefly is for how long an answer is waited for that is not to come.
const briefly = 300 * time.Millisecond
