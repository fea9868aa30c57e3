// SPDX-License-Identifier: Apache-2.0

// Package sink counts the generator's packets where they arrive: a program on the receiving device counts and drops
// them, and passes all other traffic.
package sink

import (
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/viaduct-net/viaduct/perf/bpf"
)

// Counts of a sink since it was attached.
type Counts struct {
	Packets uint64 // of the generator, dropped here
	Bytes   uint64 // of those, from the Ethernet header on
	Other   uint64 // packets passed to the kernel
}

// Sink is an attached program.
type Sink struct {
	objs bpf.SinkObjects
	link link.Link
}

// At is the place of a sink's program on the device.
type At int

const (
	// Driver is native XDP: before the kernel makes anything of a packet.
	Driver At = iota
	// Stack is tcx ingress. It also sees what bpf_redirect_peer delivers, which passes no driver, and leaves a veth's
	// offloads as they are.
	Stack
	// Answer is tcx ingress too, but there probes are sent back to where they come from, over IPv4, and not counted.
	Answer
	// TakeAnswers is tcx ingress at the generator's end, where what is sent back ends.
	TakeAnswers
)

// Attach puts a sink on a device. timed: the generator's packets carry the time of sending, of which a histogram is
// kept. Call it in the device's namespace.
func Attach(ifindex int, at At, timed bool) (*Sink, error) {
	spec, err := bpf.LoadSink()
	if err != nil {
		return nil, fmt.Errorf("read sink program: %w", err)
	}
	if timed {
		if err := spec.Variables[bpf.SinkVarConfig].Set(bpf.SinkSinkConfig{Timed: 1}); err != nil {
			return nil, fmt.Errorf("set sink constants: %w", err)
		}
	}
	s := &Sink{}
	if err := spec.LoadAndAssign(&s.objs, nil); err != nil {
		return nil, fmt.Errorf("load sink program: %w", err)
	}
	if s.link, err = s.attach(ifindex, at); err != nil {
		return nil, errors.Join(fmt.Errorf("attach sink: %w", err), s.objs.Close())
	}
	return s, nil
}

func (s *Sink) attach(ifindex int, at At) (link.Link, error) {
	if at == Driver {
		return link.AttachXDP(link.XDPOptions{Program: s.objs.Count, Interface: ifindex, Flags: link.XDPDriverMode})
	}
	program := map[At]*ebpf.Program{
		Stack: s.objs.CountReceived, Answer: s.objs.Answer, TakeAnswers: s.objs.TakeAnswer,
	}[at]
	return link.AttachTCX(link.TCXOptions{Program: program, Interface: ifindex, Attach: ebpf.AttachTCXIngress})
}

// Close detaches the program.
func (s *Sink) Close() error { return errors.Join(s.link.Close(), s.objs.Close()) }

// Counts reads the sums over all CPUs.
func (s *Sink) Counts() (Counts, error) {
	var perCPU []bpf.SinkSinkCounts
	if err := s.objs.Counts.Lookup(uint32(0), &perCPU); err != nil {
		return Counts{}, fmt.Errorf("read sink counts: %w", err)
	}
	var c Counts
	for _, n := range perCPU {
		c.Packets += n.Packets
		c.Bytes += n.Bytes
		c.Other += n.Other
	}
	return c, nil
}

// Latency reads the histogram of the time from generator to sink.
func (s *Sink) Latency() (Histogram, error) {
	var h Histogram
	var (
		cursor ebpf.MapBatchCursor
		keys   = make([]uint32, len(h))
		values = make([]uint64, len(h)*ebpf.MustPossibleCPU())
	)
	n, err := s.objs.Latency.BatchLookup(&cursor, keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return h, fmt.Errorf("read latency histogram: %w", err)
	}
	per := len(values) / len(h)
	for i := range n {
		for _, v := range values[i*per : (i+1)*per] {
			h[keys[i]] += v
		}
	}
	return h, nil
}

// Histogram counts times in buckets, eight for each power of two of nanoseconds: an edge is within 12.5 % of what is
// in its bucket.
type Histogram [512]uint64

// Bucket is the bucket of a time: the same as bucket() of sink.c.
func Bucket(t time.Duration) int {
	ns := uint64(t)
	if ns < 8 {
		return int(ns)
	}
	e := bits.Len64(ns) - 1
	return (e-2)<<3 | int(ns>>(e-3)&7)
}

// upper is the largest time in a bucket.
func upper(bucket int) time.Duration {
	if bucket < 8 {
		return time.Duration(bucket)
	}
	e := bucket>>3 + 2
	return time.Duration(uint64(bucket&7+9)<<(e-3) - 1)
}

// Count is the number of times in the histogram.
func (h *Histogram) Count() uint64 {
	var n uint64
	for _, v := range h {
		n += v
	}
	return n
}

// Sub takes an earlier state of the histogram away.
func (h *Histogram) Sub(earlier *Histogram) {
	for i := range h {
		h[i] -= earlier[i]
	}
}

// Quantile is a time not exceeded by the share q (0 to 1) of the counted ones: an upper edge of a bucket. An empty
// histogram gives 0.
func (h *Histogram) Quantile(q float64) time.Duration {
	total := h.Count()
	if total == 0 {
		return 0
	}
	var seen uint64
	for i, v := range h {
		seen += v
		if v > 0 && float64(seen) >= q*float64(total) {
			return upper(i)
		}
	}
	return upper(len(h) - 1)
}
