// SPDX-License-Identifier: Apache-2.0

// Package gen generates UDP packets, or TCP connection requests, inside the kernel: an XDP program is run by
// BPF_PROG_TEST_RUN on live frames, fills in each frame and redirects it into a device, without a socket or an skb
// (linux/net/bpf/test_run.c, bpf_test_run_xdp_live). One thread a CPU makes over a million packets per second.
//
// A veth takes redirected frames only while its peer runs NAPI: the peer has an XDP program, or GRO on.
package gen

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/perf/bpf"
)

// Limits of Config.Size, in bytes.
const (
	MinSize = 64
	MaxSize = 3072 // a live frame is one page, less headroom and skb_shared_info
)

// Config says what to send.
type Config struct {
	Interface int // index of the device to redirect into, in the namespace that Run is called in
	SrcMAC    net.HardwareAddr
	DstMAC    net.HardwareAddr
	Src       netip.Addr // its family is the packets'

	// Prefix is the first destination network, at least a /32 (IPv4) or /64 (IPv6) long. Flow f goes to host 1 of
	// the network (f·7919 mod Prefixes) places after it.
	Prefix   netip.Prefix
	Prefixes int // at least 1

	Size  int // bytes of a frame from the Ethernet header on, without FCS; MinSize to MaxSize
	Flows int // 1 to bpf.MaxFlows, by ports
	// Scattered: not one flow after the other, but each far from the one before, so that no cache foresees it.
	Scattered bool
	Rate      float64 // packets per second of all CPUs together, 0: as fast as possible
	Timed     bool    // put the time of sending into the payload; IPv6 needs a Size of 70
	// Request, if not 0: not UDP but TCP connection requests over IPv4 to this port, from random ports and random
	// hosts of Sources to Prefix, which is one address. Prefixes, Flows and Timed are of no use then.
	Request uint16
	Sources netip.Prefix // of Src's network; a /32 is Src alone
	Count   uint64       // packets to send, 0: until stopped
	CPUs    []int        // one thread on each; empty: one thread on CPU 0
}

// Generator is a loaded program. Run it once.
type Generator struct {
	config Config
	objs   bpf.GenObjects
	data   []byte
}

// New loads the program for a configuration. The caller closes the generator.
func New(c Config) (*Generator, error) {
	if len(c.CPUs) == 0 {
		c.CPUs = []int{0}
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configure generator: %w", err)
	}
	spec, err := bpf.LoadGen()
	if err != nil {
		return nil, fmt.Errorf("read generator program: %w", err)
	}
	if err := spec.Variables[bpf.GenVarConfig].Set(c.program()); err != nil {
		return nil, fmt.Errorf("set generator constants: %w", err)
	}
	g := &Generator{config: c, data: make([]byte, c.Size)}
	if err := spec.LoadAndAssign(&g.objs, nil); err != nil {
		return nil, fmt.Errorf("load generator program: %w", err)
	}
	if err := g.setLimits(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// Validate says what is wrong with a configuration, before anything is loaded.
func (c *Config) Validate() error {
	header, longest := headerSize4, 32
	if c.Src.Is6() {
		header, longest = headerSize6, 64
	}
	if c.Timed {
		header += bpf.StampSize
	}
	switch {
	case c.Interface <= 0:
		return errors.New("no interface")
	case len(c.SrcMAC) != 6 || len(c.DstMAC) != 6:
		return errors.New("MAC addresses must have 6 bytes")
	case !c.Src.IsValid() || !c.Prefix.IsValid() || c.Src.Is6() != c.Prefix.Addr().Is6():
		return errors.New("source and prefix must be of one address family")
	case c.Prefix.Bits() > longest || c.Src.Is6() && c.Prefix.Bits() <= 32 || c.Prefix.Bits() < 1:
		return fmt.Errorf("prefix %s: length out of range", c.Prefix)
	case c.Prefixes < 1:
		return errors.New("at least one prefix is needed")
	case c.Flows < 1 || c.Flows > bpf.MaxFlows:
		return fmt.Errorf("%d flows: want 1 to %d", c.Flows, bpf.MaxFlows)
	case c.Size < max(MinSize, header) || c.Size > MaxSize:
		return fmt.Errorf("size %d: want %d to %d", c.Size, max(MinSize, header), MaxSize)
	case c.Rate < 0 || math.IsNaN(c.Rate):
		return fmt.Errorf("rate %v: must not be negative", c.Rate)
	}
	if c.Request == 0 {
		return nil
	}
	switch {
	case c.Src.Is6() || c.Prefix.Bits() != 32:
		return fmt.Errorf("requests to %s: want one address of IPv4", c.Prefix)
	case !c.Sources.IsValid() || !c.Sources.Contains(c.Src):
		return fmt.Errorf("requests from %s: %s is not in it", c.Sources, c.Src)
	}
	return nil
}

// setLimits shares Count out among the CPUs.
func (g *Generator) setLimits() error {
	states := make([]bpf.GenGenState, ebpf.MustPossibleCPU())
	n := uint64(len(g.config.CPUs))
	for i, cpu := range g.config.CPUs {
		if cpu < 0 || cpu >= len(states) {
			return fmt.Errorf("generate on CPU %d: there is no such CPU", cpu)
		}
		states[cpu].Limit = math.MaxUint64
		if g.config.Count > 0 {
			states[cpu].Limit = g.config.Count / n
			if uint64(i) < g.config.Count%n {
				states[cpu].Limit++
			}
		}
		// Threads start apart in the sequence of flows, so that they do not send the same ones in step.
		states[cpu].Flow = uint64(i * g.config.Flows / len(g.config.CPUs))
	}
	if err := g.objs.States.Put(uint32(0), states); err != nil {
		return fmt.Errorf("set generator limits: %w", err)
	}
	return nil
}

// Sent is the number of packets handed to the device so far, those included that it dropped because its peer's ring
// was full.
func (g *Generator) Sent() (uint64, error) {
	var states []bpf.GenGenState
	if err := g.objs.States.Lookup(uint32(0), &states); err != nil {
		return 0, fmt.Errorf("read generator state: %w", err)
	}
	var sum uint64
	for _, s := range states {
		sum += s.Sent
	}
	return sum, nil
}

// Close unloads the program.
func (g *Generator) Close() error { return g.objs.Close() }

// enter runs a function inside a network namespace, on a thread of its own.
type enter func(func() error) error

// Run generates until ctx is done or Count packets were sent, on one pinned thread for each CPU. in puts a thread
// into the namespace of the device (rig.Namespace.Do); it is called once a thread.
func (g *Generator) Run(ctx context.Context, in func(func() error) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(g.config.CPUs))
	for i, cpu := range g.config.CPUs {
		wg.Go(func() {
			errs[i] = enter(in)(func() error { return g.runOn(ctx, cpu) })
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// runOn is one thread: it stays in the kernel until its packets are sent, or until a signal takes it out.
func (g *Generator) runOn(ctx context.Context, cpu int) error {
	restore, err := pin(cpu)
	if err != nil {
		return err
	}
	defer restore()

	tid, finished := unix.Gettid(), make(chan struct{})
	var waker sync.WaitGroup
	waker.Go(func() { g.interrupt(ctx, tid, finished) })
	defer waker.Wait()
	defer close(finished)

	for ctx.Err() == nil {
		done, err := g.done(cpu)
		if done || err != nil {
			return err
		}
		err = g.testRun()
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("run generator: %w", err)
		}
	}
	return nil
}

// interrupt ends the test run of thread tid once ctx is done. The runtime ignores a stray SIGURG by design
// (runtime/preempt.go); it is repeated because it is lost when it comes just before the system call.
func (g *Generator) interrupt(ctx context.Context, tid int, finished chan struct{}) {
	select {
	case <-finished:
		return
	case <-ctx.Done():
	}
	_ = g.objs.Stopped.Set(uint32(1)) // frames until the signal arrives are dropped by the program
	for {
		_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
		select {
		case <-finished:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (g *Generator) done(cpu int) (bool, error) {
	if g.config.Count == 0 {
		return false, nil
	}
	var states []bpf.GenGenState
	if err := g.objs.States.Lookup(uint32(0), &states); err != nil {
		return false, fmt.Errorf("read generator state: %w", err)
	}
	return states[cpu].Sent >= states[cpu].Limit, nil
}

// A test run sets up its page pool anew, which takes tens of milliseconds: with Count it is as long as a slice of
// packets, otherwise a signal ends it.
const (
	repeatCounted = 1 << 20
	repeatEndless = 1 << 30
)

// testRunAttr is the part of union bpf_attr that BPF_PROG_TEST_RUN reads (linux/bpf.h).
type testRunAttr struct {
	progFD, retval          uint32
	dataSizeIn, dataSizeOut uint32
	dataIn, dataOut         uint64
	repeat, duration        uint32
	ctxSizeIn, ctxSizeOut   uint32
	ctxIn, ctxOut           uint64
	flags, cpu, batchSize   uint32
	_                       uint32
}

// testRun is one BPF_PROG_TEST_RUN. ebpf.Program.Run would begin again at EINTR, which here means stop.
func (g *Generator) testRun() error {
	attr := testRunAttr{
		progFD:     uint32(g.main().FD()),
		dataSizeIn: uint32(len(g.data)),
		dataIn:     uint64(uintptr(unsafe.Pointer(&g.data[0]))),
		repeat:     repeatEndless,
		flags:      unix.BPF_F_TEST_XDP_LIVE_FRAMES,
		batchSize:  g.config.batch(),
	}
	if g.config.Count > 0 {
		attr.repeat = uint32(min(repeatCounted, max(64, g.config.Count)))
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&attr)),
		unsafe.Sizeof(attr))
	runtime.KeepAlive(g.data)
	if errno != 0 {
		return errno
	}
	return nil
}

// main is the program that makes a frame.
func (g *Generator) main() *ebpf.Program {
	if g.config.Request != 0 {
		return g.objs.Request
	}
	return g.objs.Generate
}

// batch is how many frames the kernel gathers before it flushes a redirect: 64 by default, fewer when paced, so that
// no frame waits for more than about 50 µs of others.
func (c *Config) batch() uint32 {
	if c.Rate == 0 {
		return 64
	}
	return uint32(min(64, max(1, c.Rate/float64(len(c.CPUs))*50e-6)))
}

// pin ties the calling thread to a CPU.
func pin(cpu int) (restore func(), err error) {
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, fmt.Errorf("read CPU affinity: %w", err)
	}
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	return func() { _ = unix.SchedSetaffinity(0, &before) }, nil
}
