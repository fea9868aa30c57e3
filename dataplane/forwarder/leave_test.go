// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
)

// pinnedSite is a site whose hooks outlive its forwarder, and carry.
func pinnedSite(t *testing.T, cfg Config) *site {
	t.Helper()
	name := strings.ReplaceAll(t.Name(), "/", "-")
	cfg.Pins = filepath.Join("/sys/fs/bpf", fmt.Sprintf("viaduct-test-%d-%s", os.Getpid(), name))
	s := newSite(t, cfg)
	t.Cleanup(func() {
		s.f.cfg.Cleanup = true
		s.must(s.middle.Do(s.f.Close))
		_ = os.RemoveAll(cfg.Pins)
	})
	s.wired()
	return s
}

// restart closes the forwarder and starts another with a snapshot.
func (s *site) restart(snapshot *api.Snapshot, change func(*Config)) {
	s.t.Helper()
	s.must(s.middle.Do(s.f.Close))
	cfg := s.f.cfg
	if change != nil {
		change(&cfg)
	}
	s.f = New(cfg)
	s.must(s.apply(snapshot))
}

// hooked lists the devices of the middle that have an XDP program.
func (s *site) hooked() (list []string) {
	s.t.Helper()
	links, err := s.middle.Links().LinkList()
	s.must(err)
	for _, l := range links {
		if x := l.Attrs().Xdp; x != nil && x.Attached {
			list = append(list, l.Attrs().Name)
		}
	}
	slices.Sort(list)
	return list
}

// steady is numbered datagrams of one flow from the left to the right, one every 200 µs.
type steady struct {
	s       *site
	stream  *wireStream
	end     chan struct{}
	running sync.WaitGroup
	sent    int
	arrived []bool
	failed  error
}

func (s *site) steady(to string) *steady {
	s.t.Helper()
	x := &steady{s: s, stream: s.stream(to), end: make(chan struct{})}
	for range 3 {
		x.stream.send(8)
	}
	s.eventually("a flow to be carried", func() bool {
		before := s.carriedBy("l0")
		x.stream.send(8)
		return s.carriedBy("l0") > before
	})
	s.must(x.stream.to.SetReadDeadline(time.Time{}))
	x.running.Go(x.send)
	x.running.Go(x.receive)
	return x
}

func (x *steady) send() {
	for {
		select {
		case <-x.end:
			return
		case <-time.After(200 * time.Microsecond):
		}
		if _, err := x.stream.from.Write(binary.BigEndian.AppendUint32(nil, uint32(x.sent))); err != nil {
			x.failed = errors.Join(x.failed, err)
		}
		x.sent++
	}
}

func (x *steady) receive() {
	b := make([]byte, 64)
	for {
		n, err := x.stream.to.Read(b)
		if err != nil {
			return
		}
		if n == 4 {
			number := int(binary.BigEndian.Uint32(b))
			for len(x.arrived) <= number {
				x.arrived = append(x.arrived, false)
			}
			x.arrived[number] = true
		}
	}
}

// whole ends it, and says what has not arrived.
func (x *steady) whole() error {
	close(x.end)
	time.Sleep(300 * time.Millisecond)
	_ = x.stream.to.Close()
	x.running.Wait()
	for i := range x.sent {
		if i >= len(x.arrived) || !x.arrived[i] {
			return errors.Join(x.failed, fmt.Errorf("datagram %d of %d has not arrived", i, x.sent))
		}
	}
	return x.failed
}

// Flows between two wires go on while no forwarder runs that was stopped, and lose nothing when the next one comes; a
// flow that begins meanwhile meets what onAbsence says, and is counted.
func TestWiresOutliveTheForwarder(t *testing.T) {
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			s := pinnedSite(t, Config{XDP: mode})
			s.must(s.apply(s.offloaded()))
			for round := range 3 {
				v4, v6 := s.steady("10.2.0.2"), s.steady("fd00:2::2")
				s.must(s.middle.Do(s.f.Close))
				if list := s.hooked(); !slices.Equal(list, []string{"l0", "r0"}) {
					t.Fatalf("hooks are at %v", list)
				}
				s.strangers("10.2.0.2", 5)
				s.f = New(s.f.cfg)
				s.must(s.apply(s.offloaded()))
				if n := s.countedBy("l0", "no_socket_dropped", "absent_dropped"); n < 5*uint64(round+1) {
					t.Errorf("%d packets were counted that nobody took", n)
				}
				s.must(s.echo("10.2.0.2:7000", 1<<16))
				s.must(errors.Join(v4.whole(), v6.whole()))
			}
			s.f.cfg.Cleanup = true
			s.must(s.middle.Do(s.f.Close))
			s.nothingAttached()
			if _, err := os.Stat(s.f.cfg.Pins); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("pins stay: %v", err)
			}
		})
	}
}

// Hooks that were left behind hear of the next forwarder before anybody else does: what comes from then on is not
// dropped for its absence.
func TestHooksHearFirst(t *testing.T) {
	s := pinnedSite(t, Config{})
	s.must(s.apply(s.offloaded()))
	began := monotonic()
	s.restart(s.offloaded(), nil)
	if heart := int64(binary.NativeEndian.Uint64(s.f.carrier.kernel.Memory().Control[16:])); heart < began {
		t.Errorf("the heart beat last %d ns before the forwarder began", began-heart)
	}
}

// strangers sends as many datagrams from the left that nobody has let in.
func (s *site) strangers(to string, n int) {
	s.t.Helper()
	s.must(s.left.Do(func() error {
		for range n {
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), 9)))
			if err != nil {
				return err
			}
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
			_ = c.Close()
		}
		return nil
	}))
}

// countedBy sums counters of a device's hook.
func (s *site) countedBy(device string, names ...string) (sum uint64) {
	s.t.Helper()
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	counters, err := s.f.devices[device].hook.Counters()
	s.must(err)
	for _, c := range counters {
		if slices.Contains(names, c.Name) {
			sum += c.Packets
		}
	}
	return sum
}

// With onAbsence: pass the host's own stack gets what comes without a socket, counted too.
func TestWiresLeftToTheHost(t *testing.T) {
	s := pinnedSite(t, Config{})
	snapshot := s.offloaded()
	snapshot.Node.OnAbsence = api.OnAbsence_ON_ABSENCE_PASS
	s.must(s.apply(snapshot))
	s.must(s.echo("10.2.0.2:7000", 1<<10)) // from here on the left knows its gateway
	s.must(s.middle.Do(s.f.Close))
	s.strangers("10.2.0.2", 5)
	s.f = New(s.f.cfg)
	s.must(s.apply(s.offloaded()))
	if n := s.countedBy("l0", "no_socket_passed", "absent_passed"); n < 5 {
		t.Errorf("%d packets were counted that the host got", n)
	}
}

// A start takes off the hooks of devices that are no port's any more, and those of another mode give way.
func TestHooksOfBeforeAreDropped(t *testing.T) {
	s := pinnedSite(t, Config{XDP: "native"})
	s.must(s.apply(s.offloaded()))
	one := s.offloaded()
	one.Ports = one.Ports[:1]
	s.restart(one, nil)
	if list := s.hooked(); !slices.Equal(list, []string{"l0"}) {
		t.Errorf("hooks are at %v", list)
	}
	s.restart(s.offloaded(), func(c *Config) { c.XDP = "generic" })
	if mode := s.f.devices["l0"].mode; mode != "generic" {
		t.Errorf("the hook is %s", mode)
	}
	s.must(s.echo("10.2.0.2:7000", 1<<16))
	shared := s.offloaded()
	shared.Node.Uplink = &api.Uplink{Device: "r0", Mode: api.Uplink_MODE_SHARED}
	s.restart(shared, nil)
	s.must(s.echo("10.2.0.2:7000", 1<<16))
	none := s.offloaded()
	none.Ports = nil
	s.restart(none, nil)
	s.nothingAttached()
}

// Nothing is carried where offload is off: then the devices are the kernel's when the forwarder closes.
func TestWiresWithoutOffloadAreGivenBack(t *testing.T) {
	s := pinnedSite(t, Config{})
	s.must(s.apply(s.snapshot()))
	s.must(s.middle.Do(s.f.Close))
	s.nothingAttached()
	if _, err := os.Stat(s.f.cfg.Pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins stay: %v", err)
	}
}

// The offload of a device with tagged ports is given back by whoever takes the hook off, not by who left it there.
func TestTagsAreGivenBackLater(t *testing.T) {
	s := pinnedSite(t, Config{})
	on := func(want bool, when string) {
		t.Helper()
		s.must(s.middle.Do(func() error {
			is, err := hasFeature("r0", rxVLAN)
			if err == nil && is != want {
				t.Errorf("%s the device takes tags away: %v", when, is)
			}
			return err
		}))
	}
	on(true, "at first")
	tagged := func() *api.Snapshot {
		n := s.offloaded()
		n.Ports[1].OuterVlan = 100
		return n
	}
	s.must(s.apply(tagged()))
	on(false, "with a tagged port")
	s.restart(tagged(), nil)
	on(false, "after a restart")
	s.restart(s.offloaded(), nil)
	on(true, "without tagged ports")
	s.restart(tagged(), nil)
	one := s.offloaded()
	one.Ports = one.Ports[:1]
	s.restart(one, nil)
	on(true, "when it is no port's")
}
