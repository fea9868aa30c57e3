// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// occupy attaches another's XDP program to a device, which cannot be opened until release.
func (s *site) occupy(device string) (release func()) {
	s.t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
	})
	s.must(err)
	found, err := s.middle.Links().LinkByName(device)
	s.must(err)
	var attached link.Link
	s.must(s.middle.Do(func() (err error) {
		attached, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: found.Attrs().Index})
		return err
	}))
	return func() {
		s.must(attached.Close())
		s.must(program.Close())
	}
}

// twoWorkers is the site's snapshot for two workers.
func (s *site) twoWorkers() *api.Snapshot {
	snapshot := s.snapshot()
	snapshot.Node = &api.NodeSettings{Workers: 2}
	return snapshot
}

func (s *site) workers(n int, degraded string) {
	s.t.Helper()
	st := s.f.Status()
	said := ""
	for _, d := range st.Degraded {
		said += d.Subject + ": " + d.Reason + "\n"
	}
	if len(st.Workers) != n || (degraded == "") != (said == "") || !strings.Contains(said, degraded) {
		s.t.Errorf("%d workers, degraded: %q; want %d, %q", len(st.Workers), said, n, degraded)
	}
}

// A first snapshot that is refused leaves no workers behind that another one cannot do with.
func TestRefusedFirstSnapshotLeavesNoWorkers(t *testing.T) {
	s := newSiteOf(t, Config{}, 2)
	release := s.occupy("r0")
	wide := s.snapshot()
	wide.Node = &api.NodeSettings{Workers: 3}
	if err := s.apply(wide); err == nil {
		t.Fatal("taken")
	}
	s.workers(0, "")
	release()
	narrow := s.twoWorkers()
	narrow.Ports[1].Queues = []uint32{0}
	s.must(s.apply(narrow))
	s.workers(1, "a port has only 1 queues")
	s.must(s.ping("10.1.0.1"))
}

// Workers that are bound to CPUs start again after a refusal.
func TestRefusedFirstSnapshotLeavesCPUs(t *testing.T) {
	keepAffinity(t)
	s := newSite(t, Config{CPUs: []int{1}})
	release := s.occupy("r0")
	if err := s.apply(s.snapshot()); err == nil {
		t.Fatal("taken")
	}
	release()
	s.must(s.apply(s.snapshot()))
	s.must(s.echo("10.2.0.2:7000", 1<<20))
}

// Restored while the device with the fewest queues is absent: there are fewer workers when it is there, and control's
// own snapshot is taken.
func TestRestoredWithoutTheNarrowDevice(t *testing.T) {
	s := newSiteOf(t, Config{}, 2)
	r0, err := s.middle.Links().LinkByName("r0")
	s.must(err)
	s.must(s.middle.Links().LinkDel(r0))
	s.must(s.middle.Do(func() error { return s.f.Apply(t.Context(), s.twoWorkers()) }))
	s.follow()
	s.must(s.ping("10.1.0.1"))
	received := s.f.Report("").Total.Received
	s.queues = 1
	s.wire(s.right, "r0", "10.2.0.2/24", "fd00:2::2/64")
	s.eventually("the right port to open", func() bool {
		return s.f.Ports("right").Ports[0].State.String() == "PORT_STATE_UP"
	})
	s.workers(1, "a port has only 1 queues")
	if s.f.Report("").Total.Received < received {
		t.Error("the books of workers that ended are lost")
	}
	s.must(s.apply(s.twoWorkers()))
	for range 8 { // flows of other queues
		s.must(s.echo("10.2.0.2:7000", 1<<10))
	}
	s.checkLedger()
}

// A snapshot with a device of fewer queues than there are workers has fewer workers; when it is refused, what is in
// force goes on with them.
func TestNarrowDeviceIsAdded(t *testing.T) {
	s := newSiteOf(t, Config{}, 2)
	s.must(s.apply(s.twoWorkers()))
	s.workers(2, "")
	s.must(s.echo("10.2.0.2:7000", 1<<20))
	s.must(s.lab.Veth(netlab.End{In: s.right, Device: "n0"}, netlab.End{In: s.middle, Device: "n0"}))
	narrow := s.twoWorkers()
	narrow.Ports = append(narrow.Ports, &api.Port{Id: 3, Name: "narrow", Device: "n0"})
	release := s.occupy("n0")
	if err := s.apply(narrow); err == nil {
		t.Fatal("taken")
	}
	s.must(s.echo("10.2.0.2:7000", 1<<20))
	s.workers(1, "restart to change that")
	release()
	s.must(s.apply(narrow))
	s.workers(1, "a port has only 1 queues")
	s.must(s.echo("10.2.0.2:7000", 1<<20))
	s.checkLedger()
}
