// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/viaduct-net/viaduct/perf/bpf"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// testpmd is DPDK's forwarder over its af_xdp driver, in io mode: it moves frames from one port to the other and looks
// at nothing. The lower bound of what userspace must do.
type testpmd struct {
	dir     string
	process *process
}

var testpmdNames = []string{"dpdk-testpmd", "testpmd"}

func (*testpmd) Name() string      { return "testpmd" }
func (*testpmd) Transparent() bool { return true }
func (*testpmd) Checksums() bool   { return false }
func (*testpmd) Wires() bool       { return false }

// maxMTU is what fits into one mbuf of testpmd's default size, which is all that the driver receives.
const maxMTU = 1500

func (*testpmd) Missing(o rig.Options) string {
	if o.Queues > 1 {
		return "its af_xdp driver sees only one queue of a veth"
	}
	if o.MTU > maxMTU {
		return fmt.Sprintf("its af_xdp driver takes frames of one buffer, an MTU of %d at most", maxMTU)
	}
	if testpmdPath() == "" {
		return "dpdk-testpmd: not installed"
	}
	drivers, _ := filepath.Glob("/usr/lib/*/dpdk/pmds-*/librte_net_af_xdp.so")
	local, _ := filepath.Glob("/usr/local/lib/*/dpdk/pmds-*/librte_net_af_xdp.so")
	if len(drivers)+len(local) == 0 {
		return "DPDK's af_xdp driver: not installed"
	}
	return ""
}

func testpmdPath() string {
	for _, name := range testpmdNames {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

func (t *testpmd) PIDs() []int {
	if t.process == nil {
		return nil
	}
	return []int{t.process.cmd.Process.Pid}
}

func (t *testpmd) Start(_ context.Context, r *rig.Rig, s Setup) error {
	if err := t.start(r, s); err != nil {
		_ = t.Stop() // that the program has ended is what err says
		return err
	}
	return nil
}

func (t *testpmd) start(r *rig.Rig, s Setup) (err error) {
	if t.dir, err = os.MkdirTemp("", "viaduct-perf-"); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	object := filepath.Join(t.dir, "xsks.o")
	if err := os.WriteFile(object, bpf.XsksObject, 0o600); err != nil {
		return fmt.Errorf("write testpmd's XDP program: %w", err)
	}
	t.process, err = launch(r.DUT, s.CPUs, testpmdPath(), t.args(r, s, object)...)
	return err
}

// args: the main thread sleeps in read(), so that it and the first forwarding thread share a CPU.
func (t *testpmd) args(r *rig.Rig, s Setup, object string) []string {
	cpus := numbers(s.CPUs)
	args := []string{
		"--lcores", fmt.Sprintf("0@(%s),1@(%s)", cpus, cpus), "--no-pci", "--no-huge", "-m", "1024", "--no-telemetry",
		"--file-prefix", strings.ReplaceAll(filepath.Base(t.dir), "-", ""),
	}
	for i, device := range []string{r.Left.Name, r.Right.Name} {
		args = append(args, "--vdev", fmt.Sprintf("net_af_xdp%d,iface=%s,queue_count=%d,xdp_prog=%s", i, device, r.Queues,
			object))
	}
	queues := fmt.Sprint(r.Queues)
	return append(args, "--", "--auto-start", "--forward-mode=io", "--nb-cores=1", "--rxq="+queues, "--txq="+queues)
}

func (t *testpmd) Stop() error {
	var errs []error
	if t.process != nil {
		errs = append(errs, t.process.stop())
		t.process = nil
	}
	if t.dir != "" {
		errs = append(errs, os.RemoveAll(t.dir))
		t.dir = ""
	}
	return errors.Join(errs...)
}
