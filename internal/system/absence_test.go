// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
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

// TestAbsence: once the dataplane has been silent for a while, what pods send that is not carried is dropped, or left
// to the host's stack where that is wanted. What is carried goes on all the while. When the dataplane gets on again
// it tells what became of the rest.
func TestAbsence(t *testing.T) {
	for name, pass := range map[string]bool{"drop": false, "pass": true} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, "onAbsence: "+name)
			b := s.bulkTo(s.of("spy"), s.of("web"), netip.AddrPortFrom(s.address("web", 4), 6000), 6000)
			s.carried("before", b, "spy", "web")
			counted, other := "absent_dropped", "absent_passed"
			if pass {
				counted, other = other, counted
			}
			for f := range families {
				s.passes(way{"spy", "world", "udp"}, f, patient) // neighbours are known
			}
			s.dataplane.signal(syscall.SIGSTOP)
			t.Cleanup(func() { s.dataplane.signal(syscall.SIGCONT) })
			time.Sleep(time.Second) // what comes earlier waits for the dataplane
			for f := range families {
				arrived, err := s.oneWay("spy", "world", f)
				s.must(err)
				if arrived && !pass {
					t.Errorf("IPv%d: a datagram to the world arrived", f)
				}
			}
			for _, ends := range [][2]net.Conn{{b.near, b.far}, {b.far, b.near}} {
				s.must(b.moves(ends[0], ends[1]))
			}
			s.dataplane.signal(syscall.SIGCONT)
			s.is("the dataplane to be back", everything)
			if n, not := s.hooked("spy", counted), s.hooked("spy", other); n < 2 || not != 0 {
				t.Errorf("%d packets %s, %d %s", n, counted, not, other)
			}
			s.carried("after", b, "spy", "web")
			s.balanced()
		})
	}
}

// oneWay sends datagrams from a pod to an address of the world until one arrives, or some have not.
func (s *stage) oneWay(from, to string, family int) (bool, error) {
	var server net.PacketConn
	err := s.of(to).Do(func() (err error) {
		server, err = net.ListenPacket("udp", netip.AddrPortFrom(s.address(to, family), 0).String())
		return err
	})
	if err != nil {
		return false, err
	}
	defer server.Close()
	var client net.Conn
	err = s.of(from).Do(func() (err error) {
		client, err = net.Dial("udp", server.LocalAddr().String())
		return err
	})
	if err != nil {
		return false, err
	}
	defer client.Close()
	for i := range 20 {
		if _, err := fmt.Fprint(client, i); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			return false, err
		}
		if err := server.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			return false, err
		}
		if _, _, err := server.ReadFrom(make([]byte, 16)); err == nil {
			return true, nil
		}
	}
	return false, nil
}
