// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// Any of the two is killed at any moment, under traffic and while the source changes. What is in force goes on, and
// in the end it is what the source says.
func TestKills(t *testing.T) {
	for name, bin := range map[string]string{"plain": programs.plain, "race": programs.race} {
		t.Run(name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			s := newSite(t, bin)
			k := &killing{
				site: s, chance: rand.New(rand.NewPCG(seed, 0)), want: newDesired(),
			}
			s.put(k.want)
			k.control, k.dataplane = s.startControl(), s.startDataplane()
			k.dataplane.ready()
			s.converges(k.want)
			k.traffic = s.startTraffic()
			s.flows(k.traffic)

			k.controlDies(kills * 4 / 10)
			k.dataplaneDies(kills * 3 / 10)
			k.anyDies(kills - kills*4/10 - kills*3/10)

			k.control.stop()
			k.dataplane.stop()
			s.nothingLeft()
		})
	}
}

// killing is a site whose programs are killed.
type killing struct {
	*site
	chance             *rand.Rand
	want               *desired
	control, dataplane *daemon
	traffic            traffic
}

// whileChanging runs do at some moment of a burst of changes; during some of these the dataplane refuses all of it.
func (k *killing) whileChanging(do func()) {
	k.t.Helper()
	ports := k.want.ports
	if k.chance.IntN(4) == 0 {
		k.want.ports = append(ports[:1:1], port{ports[1].device, ports[1].addresses, "7"})
		k.put(k.want, "node")
	}
	n := 2 + k.chance.IntN(5)
	at := k.chance.IntN(n)
	for i := range n {
		k.put(k.want, k.want.change(k.chance)...)
		if i == at {
			do()
		}
	}
	k.want.ports = ports
	k.put(k.want, "node")
}

// controlDies: while only control is killed not one datagram is lost, and the dataplane gathers nothing.
func (k *killing) controlDies(times int) {
	k.t.Helper()
	before := k.settled(k.dataplane)
	k.lossless(k.traffic, "control was killed", func() {
		for range times {
			k.whileChanging(func() {
				k.pauseSome()
				k.control.kill()
				k.control = k.startControl()
			})
			k.converges(k.want)
		}
	})
	k.noGrowth(k.dataplane, before)
}

// dataplaneDies: the dataplane starts from its state file, from when on it loses nothing, and control gathers nothing.
func (k *killing) dataplaneDies(times int) {
	k.t.Helper()
	before := k.settled(k.control)
	for range times {
		k.whileChanging(func() {
			k.pauseSome()
			k.dataplane.kill()
			k.dataplane = k.startDataplane()
		})
		k.dataplane.ready()
		k.lossless(k.traffic, "the dataplane had started again", func() {
			k.flows(k.traffic)
			k.converges(k.want)
		})
	}
	k.noGrowth(k.control, before)
}

// anyDies: either or both, in any order, and back in any order. A dataplane without control forwards.
func (k *killing) anyDies(times int) {
	k.t.Helper()
	for killed := 0; killed < times; {
		switch order := k.chance.IntN(4); order {
		case 0:
			k.whileChanging(func() { k.control.kill() })
			k.flows(k.traffic)
			k.control = k.startControl()
			killed++
		case 1:
			k.whileChanging(func() { k.dataplane.kill() })
			k.dataplane = k.startDataplane()
			killed++
		default:
			k.whileChanging(func() { k.killBoth(order == 2) })
			k.startBoth()
			killed += 2
		}
		k.dataplane.ready()
		k.flows(k.traffic)
		k.converges(k.want)
	}
}

func (k *killing) killBoth(controlFirst bool) {
	k.t.Helper()
	first, second := k.control, k.dataplane
	if !controlFirst {
		first, second = second, first
	}
	first.kill()
	k.pauseSome()
	second.kill()
}

func (k *killing) startBoth() {
	k.t.Helper()
	if k.chance.IntN(2) == 0 {
		k.control, k.dataplane = k.startControl(), k.startDataplane()
		return
	}
	k.dataplane = k.startDataplane()
	k.dataplane.ready()
	k.lossless(k.traffic, "the dataplane forwarded by its state file", func() {
		k.flows(k.traffic)
		k.control = k.startControl()
	})
}

// pauseSome lets the other side come to any point of what it does.
func (k *killing) pauseSome() { time.Sleep(time.Duration(k.chance.IntN(150)) * time.Millisecond) }

// settled is what a process has once it has nothing left to do.
func (s *site) settled(d *daemon) usage {
	s.t.Helper()
	var last usage
	s.eventually(d.name+" to settle", func() error {
		was := last
		last = d.usage()
		time.Sleep(50 * time.Millisecond)
		if was.descriptors != last.descriptors {
			return fmt.Errorf("%d descriptors, then %d", was.descriptors, last.descriptors)
		}
		return nil
	})
	return last
}

// noGrowth checks that a process that lived through many deaths of the other has kept nothing of them.
func (s *site) noGrowth(d *daemon, before usage) {
	s.t.Helper()
	// KiB: the collector's, twice as much with the race detector's shadow, and the conntrack table's arrays that only
	// flows touch that are translated or carried, the first of which takes a huge page of each shard.
	const slack = 96 << 10
	var after usage
	s.eventually(d.name+" to let go", func() error {
		if after = d.usage(); after.descriptors > before.descriptors {
			return fmt.Errorf("%d descriptors, %d before:\n%s", after.descriptors, before.descriptors, d.links())
		}
		return nil
	})
	s.t.Logf("%s: %+v before, %+v after", d.name, before, after)
	if after.resident > before.resident+slack {
		s.t.Errorf("%s: %d KiB resident, %d before", d.name, after.resident, before.resident)
	}
	if after.threads > before.threads+10 {
		s.t.Errorf("%s: %d threads, %d before", d.name, after.threads, before.threads)
	}
}
