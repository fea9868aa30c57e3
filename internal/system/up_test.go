// SPDX-License-Identifier: Apache-2.0

package system

import (
	"strings"
	"syscall"
	"testing"
)

// One command on one machine: it starts, says so, reads again when told, and leaves nothing.
func TestUp(t *testing.T) {
	for name, bin := range map[string]string{"plain": programs.plain, "race": programs.race} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, bin)
			s.ending = nil // devices are given back without being told to
			want := newDesired()
			s.put(want)
			up := s.startUp()
			up.ready()
			s.must(s.inForce(want))
			all := s.startTraffic()
			s.flows(all)
			s.well()
			s.lossless(all, "manifests were read again", func() {
				want.steer(2)
				s.put(want)
				up.signal(syscall.SIGHUP)
				s.converges(want)
			})
			second := s.startUp()
			if status := second.status(); status != 2 || strings.Count(second.stderr.text(), "\n") != 1 ||
				!strings.Contains(second.stderr.text(), "runs already") {
				t.Errorf("a second one: status %d, %s", status, second.stderr.text())
			}
			s.flows(all)
			up.stop()
			if text := up.stdout.text(); text != "ready\n" {
				t.Errorf("standard output: %q", text)
			}
			s.nothingLeft()

			up = s.startUp() // on what the other left
			up.ready()
			s.flows(all)
			up.kill()
			up = s.startUp() // on what the killed one left
			up.ready()
			s.flows(all)
			up.signal(syscall.SIGINT)
			if status := up.status(); status != 0 {
				t.Errorf("status %d after SIGINT\n%s", status, up.stderr.last(20))
			}
			s.nothingLeft()
		})
	}
}

// Two instances, each with directories and a network namespace of its own, do not know of each other.
func TestTwoUp(t *testing.T) {
	a, b := newSite(t, programs.plain), newSite(t, programs.plain)
	var up []*daemon
	var all []traffic
	want := newDesired()
	for _, s := range []*site{a, b} {
		s.put(want)
		up = append(up, s.startUp())
	}
	for i, s := range []*site{a, b} {
		up[i].ready()
		all = append(all, s.startTraffic())
		s.flows(all[i])
	}
	other := newDesired()
	other.routes["other"] = route{"10.66.0.0/16", "blackhole", nil}
	b.lossless(all[1], "the other instance was changed and stopped", func() {
		a.put(other)
		a.converges(other)
		b.must(b.inForce(want))
		up[0].stop()
		a.nothingLeft()
	})
	up[1].stop()
	b.nothingLeft()
}

// What cannot start says why in one line, and exits with 2.
func TestUpThatCannotStart(t *testing.T) {
	s := newSite(t, programs.plain)
	s.manifests += "/nowhere"
	up := s.startUp()
	if status := up.status(); status != 2 || !strings.HasPrefix(up.stderr.last(2), "viaduct: --source dir:") {
		t.Errorf("status %d, %s", status, up.stderr.text())
	}
}
