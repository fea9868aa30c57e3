// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/dataplane/handover"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// HandOver is a hand-over to a successor under way, as package handover has it. From Begin to Abort or Leave nothing of
// the forwarder changes.
type HandOver struct {
	f      *Forwarder
	offer  handover.Offer
	heart  bool          // it and the walker are to run again
	within time.Duration // workers are to stop
	thaw   chan struct{} // nil: the workers run
	leave  bool          // set before thaw is closed
	frozen int           // workers that have stopped
	going  chan struct{} // gets one of each of them when it runs again
}

// stopWithin is how long workers may take to end their pass: a thousand times as long as one takes.
const stopWithin = 2 * time.Second

// BeginHandOver begins one.
func (f *Forwarder) BeginHandOver() *HandOver {
	f.mu.Lock()
	return &HandOver{f: f, within: stopWithin}
}

// Offer is what the successor is told first. The files are the caller's to send, not to close, but for the first, which
// is the snapshot's where there is one.
func (h *HandOver) Offer(hello *handover.Hello) (*handover.Offer, []*os.File, error) {
	f := h.f
	if hello.Layout != handover.Layout {
		return nil, nil, fmt.Errorf("it speaks layout %d of hand-overs, this one %d", hello.Layout, handover.Layout)
	}
	if f.snapshot == nil {
		return nil, nil, errors.New("nothing is in force yet")
	}
	o := &h.offer
	*o = handover.Offer{Version: Version(), Fresh: f.whyFresh(hello), Snapshot: true, Slots: slices.Clone(f.slots),
		Generation: f.tables.Load().Policy.Generation}
	encoded, err := proto.Marshal(f.snapshot)
	if err != nil {
		return nil, nil, fmt.Errorf("encode snapshot: %w", err)
	}
	snapshot, err := handover.NewFile(encoded)
	if err != nil {
		return nil, nil, err
	}
	files := []*os.File{snapshot}
	if o.Fresh == "" {
		for _, t := range f.workers {
			o.Workers = append(o.Workers, handover.Memory{UMEMConfig: t.umem.Config(), Huge: t.umem.HugePages()})
			files = append(files, t.umem.File())
		}
	}
	return o, files, nil
}

// whyFresh says why a successor cannot have the sockets; empty: it can.
func (f *Forwarder) whyFresh(hello *handover.Hello) string {
	switch {
	case f.cfg.Pins == "":
		return "its hooks are not pinned"
	case hello.Pins != f.cfg.Pins:
		return "its hooks are pinned in another directory, " + f.cfg.Pins
	case !f.samePins(hello):
		return "its hooks are pinned in a directory that the successor does not see, " + f.cfg.Pins
	case hello.Sockets != f.backend() || f.backend() != defaultSockets:
		return fmt.Sprintf("its sockets are of the backend %s, and %s is asked for", f.backend(), hello.Sockets)
	case hello.Ring != f.cfg.Ring:
		return fmt.Sprintf("its rings have %d descriptors, and %d are asked for", f.cfg.Ring, hello.Ring)
	case len(f.workers) == 0:
		return "no worker runs"
	case hello.Workers > 0 && hello.Workers < len(f.workers):
		return fmt.Sprintf("%d workers run, and there are %d CPUs for them", len(f.workers), hello.Workers)
	case len(f.workers) != wantedWorkersHere(f):
		return "another number of workers is wanted"
	}
	want := frameSize(f.tables.Load())
	for _, t := range f.workers {
		if t.umem.File() == nil {
			return "the workers' memory is in no file: the kernel has no huge pages for files (Linux 6.1)"
		}
		if t.umem.ChunkSize() != want {
			return fmt.Sprintf("frames have %d bytes, and %d are needed", t.umem.ChunkSize(), want)
		}
	}
	return ""
}

// PinsAt tells a directory of pins from others, whatever they are called; zeros: there is none.
func PinsAt(dir string) (device, inode uint64) {
	var s unix.Stat_t
	if dir == "" || unix.Stat(dir, &s) != nil {
		return 0, 0
	}
	return s.Dev, s.Ino
}

func (f *Forwarder) samePins(hello *handover.Hello) bool {
	device, inode := PinsAt(f.cfg.Pins)
	return device == hello.PinsDevice && inode == hello.PinsInode
}

// wantedWorkersHere is how many workers would start for the devices that are open.
func wantedWorkersHere(f *Forwarder) int {
	facts := make(links, len(f.devices))
	for name, d := range f.devices {
		facts[name] = d.link
	}
	return min(wantedWorkers(f.snapshot), facts.fewestQueues(f.snapshot))
}

// defaultSockets is the backend of sockets that can be handed over.
const defaultSockets = "viaduct"

func (f *Forwarder) backend() string {
	if f.cfg.Sockets == "" {
		return defaultSockets
	}
	return f.cfg.Sockets
}

// Freeze stops the workers between two passes and returns what they leave. The first file is the flows', and the
// caller's to close; the others are copies of the sockets, the caller's as well. An error says, too, that a worker does
// not stop.
func (h *HandOver) Freeze(ctx context.Context) (*handover.State, []*os.File, error) {
	if err := h.stop(ctx); err != nil {
		return nil, nil, err
	}
	f := h.f
	s := &handover.State{Learned: f.Learned()}
	if h.offer.Fresh != "" {
		flows, err := f.exportFlows(s)
		return s, flows, err
	}
	for _, t := range f.workers {
		w := handover.Worker{Owners: t.umem.State().Owners}
		for _, p := range t.worker.Waiting() {
			w.Waiting = append(w.Waiting, handover.Packet{Device: p.Device, Descs: p.Descs})
		}
		s.Workers = append(s.Workers, w)
	}
	s.Neighbors = f.knownNeighbors()
	files, err := f.exportFlows(s)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range f.devices {
		of, sockets, err := d.state()
		files = append(files, sockets...)
		if err != nil {
			handover.CloseFiles(files)
			return nil, nil, fmt.Errorf("device %s: %w", d.name, err)
		}
		s.Devices = append(s.Devices, of)
	}
	return s, files, nil
}

// stop has all workers wait, in their own goroutines, for thaw, and nobody change flows beside them. A worker that is
// stuck is not waited for: whenever it comes to itself, it goes on.
func (h *HandOver) stop(ctx context.Context) error {
	h.heart = h.f.carrier.stop != nil
	h.f.stopCarrier()
	all := h.f.workers
	stopped := make(chan struct{}, len(all))
	thaw := make(chan struct{})
	h.thaw, h.going = thaw, make(chan struct{}, len(all))
	go h.beat(thaw)
	for _, t := range all {
		go t.worker.Do(func() { // which waits where many commands do
			stopped <- struct{}{}
			<-thaw
			if h.leave {
				t.worker.Leave()
			}
			h.going <- struct{}{}
		})
	}
	late := time.NewTimer(h.within)
	defer late.Stop()
	for ; h.frozen < len(all); h.frozen++ {
		select {
		case <-stopped:
		case <-ctx.Done():
			return fmt.Errorf("stop workers: %w", ctx.Err())
		case <-late.C:
			return fmt.Errorf("%d of %d workers have not ended their pass within %s: they are stuck",
				len(all)-h.frozen, len(all), h.within)
		}
	}
	return nil
}

// beat tells hooks that userspace is alive until the workers thaw: what comes meanwhile waits in the sockets.
func (h *HandOver) beat(thaw <-chan struct{}) {
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		h.f.beat()
		select {
		case <-thaw:
			return
		case <-beat.C:
		}
	}
}

// state is what a successor has to know of a device.
func (d *device) state() (handover.Device, []*os.File, error) {
	of := handover.Device{Name: d.name, Index: d.index, IfIndex: d.link.ifindex, Mode: d.mode, Port: d.port,
		Asked: d.asked, Shared: d.shared}
	var files []*os.File
	for _, s := range d.sockets {
		x, ok := s.xsk.(*xsk.Socket)
		if !ok {
			return of, files, fmt.Errorf("queue %d has a %T", s.queue, s.xsk)
		}
		state, err := x.State()
		if err != nil {
			return of, files, err
		}
		file, err := x.File()
		if err != nil {
			return of, files, err
		}
		files = append(files, file)
		of.Sockets = append(of.Sockets, handover.Socket{Queue: s.queue, Worker: s.worker, State: state})
	}
	return of, files, nil
}

// resume has the workers go on, or end.
func (h *HandOver) resume() {
	if h.thaw == nil {
		return
	}
	close(h.thaw)
	h.thaw = nil
	for ; h.frozen > 0; h.frozen-- {
		<-h.going
	}
}

// Abort has everything go on as it was.
func (h *HandOver) Abort() {
	h.resume()
	if h.heart {
		h.f.startCarrier()
		h.f.review()
	}
	h.f.mu.Unlock()
}

// Leave ends the forwarder once its successor has everything. What the successor has is left as it is; where it has
// flows alone (Offer.Fresh) the forwarder stops as by Close, and hooks at pods stay. Nothing may be asked of the
// forwarder any more but Close, which does nothing then.
func (h *HandOver) Leave() error {
	f := h.f
	if h.offer.Fresh != "" {
		h.resume()
		f.cfg.Cleanup, f.left = false, true
		f.mu.Unlock()
		return f.Close()
	}
	defer f.mu.Unlock()
	h.leave, f.left = true, true
	h.resume()
	f.running.Wait()
	var errs []error
	for name, d := range f.devices {
		delete(f.devices, name)
		for _, s := range d.sockets {
			errs = append(errs, s.xsk.(*xsk.Socket).Leave())
		}
		errs = append(errs, d.hook.Close())
	}
	for _, t := range f.workers {
		errs = append(errs, t.worker.Close(), t.umem.Close())
		f.ended = append(f.ended, t.worker.Book())
	}
	f.workers, f.snapshot = nil, nil
	f.publishWorkers()
	f.cfg.Cleanup = false
	errs = append(errs, f.closeServices(), f.closeTrunk(), f.closeCarrier(false))
	if f.pins != nil {
		errs = append(errs, f.pins.Close())
		f.pins = nil
	}
	f.log.Info("handed over", zap.Uint64("epoch", f.tables.Load().Epoch))
	return errors.Join(errs...)
}
