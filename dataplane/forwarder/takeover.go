// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"os"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/handover"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/worker"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// Predecessor is the dataplane that hands over, as package handover has it.
type Predecessor interface {
	// State has it stop, and returns what it leaves. The files are the caller's.
	State() (*handover.State, []*os.File, error)
	// Commit makes everything the caller's. An error says that nothing is.
	Commit() error
	// Gone waits until it has let go of what two dataplanes cannot have.
	Gone() error
}

// takeover is what a successor builds before it has anything.
type takeover struct {
	f        *Forwarder
	offer    *handover.Offer
	snapshot *api.Snapshot
	links    links
	next     *tables.Tables
	memory   []memory          // of the workers
	waiting  [][]worker.Packet // by worker
	devices  []*device
	flows    *handover.Flows
	known    []handover.Neighbor
}

// TakeOver has the forwarder go on in place of a predecessor that has made an offer, whose files are the forwarder's
// from then on. An error before the commit leaves everything with the predecessor, and the forwarder with nothing but
// Close to be called; later ones are said by Status, and mended.
func (f *Forwarder) TakeOver(ctx context.Context, offer *handover.Offer, files []*os.File, from Predecessor) error {
	t := &takeover{f: f, offer: offer}
	if err := t.read(files); err != nil {
		return err
	}
	if hostPort(t.snapshot) != nil {
		f.readHost()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if offer.Fresh != "" {
		return t.afresh(ctx, from)
	}
	err := t.prepare(files[1:])
	if err == nil {
		err = t.takeUp(from)
	}
	if err != nil {
		return errors.Join(err, t.giveUp())
	}
	return t.goOn(context.WithoutCancel(ctx), from)
}

// read reads the snapshot.
func (t *takeover) read(files []*os.File) error {
	want := 1
	if t.offer.Fresh == "" {
		want += len(t.offer.Workers)
	}
	if !t.offer.Snapshot || len(files) != want {
		handover.CloseFiles(files)
		return fmt.Errorf("take over: an offer with %d files, not %d", len(files), want)
	}
	b, err := handover.ReadFile(files[0])
	_ = files[0].Close()
	t.snapshot = new(api.Snapshot)
	if err == nil {
		err = proto.Unmarshal(b, t.snapshot)
	}
	if err == nil && t.snapshot.GetEpoch() == 0 {
		err = errors.New("it has no epoch")
	}
	if err != nil {
		handover.CloseFiles(files[1:])
		return fmt.Errorf("take over: read snapshot: %w", err)
	}
	policy.Resume(t.offer.Generation)
	return nil
}

// prepare builds what can be built while the predecessor goes on, and tries out what would fail later.
func (t *takeover) prepare(memory []*os.File) (err error) {
	f := t.f
	defer func() {
		if err != nil {
			err = fmt.Errorf("take over: %w", err)
		}
	}()
	if t.links, err = readLinks(t.snapshot); err != nil {
		handover.CloseFiles(memory)
		return err
	}
	f.beginFlows(t.snapshot.GetNode())
	f.slots = append([]string(nil), t.offer.Slots...)
	f.reserveSlots(t.snapshot)
	if t.next, err = tables.Build(f.tables.Load(), t.snapshot, f.lookup(t.links), f.neighbors); err != nil {
		handover.CloseFiles(memory)
		return err
	}
	if err := t.mapMemory(memory); err != nil {
		return err
	}
	if err := t.tryHooks(); err != nil {
		return err
	}
	f.awaitFlows()
	return nil
}

// mapMemory takes the files.
func (t *takeover) mapMemory(files []*os.File) error {
	for i, m := range t.offer.Workers {
		u, err := xsk.MapUMEM(files[i], m.UMEMConfig, m.Huge)
		if err != nil {
			handover.CloseFiles(files[i:])
			return err
		}
		t.memory = append(t.memory, memory{u, xsk.NewPool(u)})
	}
	return nil
}

// tryHooks has the kernel verify the programs of this build. None is attached, no pin is touched.
func (t *takeover) tryHooks() error {
	for _, p := range withSockets(t.snapshot) {
		facts, there := t.links[p.Device]
		if !there {
			continue
		}
		options := t.f.hookOptions(t.snapshot.GetNode(), p.Device, facts.queues)
		options.PinDir = ""
		hook, err := xdpprog.Load(options)
		if err == nil {
			err = hook.Close()
		}
		if err == nil && p.Device == tables.TrunkDevice {
			err = tryTrunk()
		}
		if err != nil {
			return fmt.Errorf("hook of device %s: %w", p.Device, err)
		}
	}
	return nil
}

func tryTrunk() error {
	hooks, err := xdpprog.LoadTrunk(xdpprog.TrunkOptions{})
	if err != nil {
		return err
	}
	return hooks.Close()
}

// takeUp takes up what the predecessor leaves.
func (t *takeover) takeUp(from Predecessor) (err error) {
	state, files, err := from.State()
	if err == nil {
		err = t.adopt(state, files)
	}
	if err == nil {
		err = from.Commit()
	}
	if err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	t.known = state.Neighbors
	t.learn(state)
	for _, w := range state.Workers {
		list := make([]worker.Packet, len(w.Waiting))
		for j, p := range w.Waiting {
			list[j] = worker.Packet{Device: p.Device, Descs: p.Descs}
		}
		t.waiting = append(t.waiting, list)
	}
	return nil
}

// learn has the forwarder know, once there are tables, what ports have learned.
func (t *takeover) learn(state *handover.State) {
	if state.Learned == nil {
		return
	}
	l, err := handover.ReadLearned(state.Learned)
	if err != nil {
		t.f.log.Warn("what was learned is learned anew", zap.Error(err))
		return
	}
	t.f.learned = l.Ports
}

// adopt takes files, which are closed where they are not needed.
func (t *takeover) adopt(state *handover.State, files []*os.File) error {
	defer func() { handover.CloseFiles(files) }()
	if len(state.Workers) != len(t.memory) || len(files) == 0 {
		return fmt.Errorf("%d workers left something, %d were offered", len(state.Workers), len(t.memory))
	}
	var err error
	if t.flows, err = readFlows(state, files[0]); err != nil {
		return err
	}
	_ = files[0].Close()
	files = files[1:]
	for i, w := range state.Workers {
		if err := t.memory[i].adopt(w); err != nil {
			return err
		}
	}
	for _, of := range state.Devices {
		d, err := t.adoptDevice(of)
		if err != nil {
			return err
		}
		t.devices = append(t.devices, d)
		for _, s := range of.Sockets {
			if len(files) == 0 || s.Worker < 0 || s.Worker >= len(t.memory) {
				return fmt.Errorf("device %s: a socket is missing", of.Name)
			}
			taken, err := xsk.AdoptSocketFile(t.memory[s.Worker].umem, files[0], s.State)
			if err != nil {
				return err
			}
			files = files[1:]
			d.sockets = append(d.sockets, socket{queue: s.Queue, worker: s.Worker, xsk: taken})
		}
	}
	return nil
}

func (m *memory) adopt(w handover.Worker) error {
	if err := m.umem.Adopt(w.Owners); err != nil {
		return err
	}
	var waiting []uint64
	for _, p := range w.Waiting {
		for _, d := range p.Descs {
			waiting = append(waiting, d.Addr)
		}
	}
	return m.pool.Adopt(waiting)
}

func (t *takeover) adoptDevice(of handover.Device) (*device, error) {
	facts, there := t.links[of.Name]
	switch {
	case !there || facts.ifindex != of.IfIndex:
		return nil, fmt.Errorf("device %s is another one meanwhile", of.Name)
	case of.Index < 0 || of.Index >= len(t.f.slots) || t.f.slots[of.Index] != of.Name:
		return nil, fmt.Errorf("device %s has another number", of.Name)
	case shared(t.snapshot.GetNode(), of.Name) != of.Shared:
		return nil, fmt.Errorf("device %s is taken in another mode", of.Name)
	}
	return &device{name: of.Name, index: of.Index, link: facts, mode: of.Mode, port: of.Port,
		asked: of.Asked, shared: of.Shared}, nil
}

// giveUp lets go of everything before the commit.
func (t *takeover) giveUp() error {
	var errs []error
	for _, d := range t.devices {
		for _, s := range d.sockets {
			errs = append(errs, s.xsk.(*xsk.Socket).Leave())
		}
	}
	for _, m := range t.memory {
		errs = append(errs, m.umem.Close())
	}
	return errors.Join(errs...)
}

// goOn is behind the commit. Packets first: hooks that are there lead them to the sockets. An error is that no packet
// can be forwarded at all.
func (t *takeover) goOn(ctx context.Context, from Predecessor) error {
	f := t.f
	f.awaits = true // until it is gone
	f.snapshot = t.snapshot
	t.next.Enter(f.tables.Load())
	f.tables.Store(t.next)
	for _, n := range t.known { // verified when they are used
		f.neighbors.Learn(n.Port, n.Addr, n.MAC, neighbor.RequestSeen, f.clock())
	}
	f.provideFlows(t.snapshot.GetNode())
	f.beat() // hooks hear of it again once packets pass
	f.enterServices(t.next)
	f.shareFlows(t.next)
	f.handed = t
	f.restoreFlows(t.next)
	if err := f.startWorkersOver(t.memory); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	var errs []error
	errs = append(errs, f.paused(ctx, f.workers, func() error { // packets wait for those devices by which they leave
		for _, d := range t.devices {
			for i := range d.sockets {
				f.give(d, &d.sockets[i])
			}
		}
		return nil
	}))
	for i, th := range f.workers {
		th.worker.Do(func() { th.worker.TakeUp(t.waiting[i]) })
	}
	f.beat()
	f.log.Info("packets are forwarded in place of the dataplane before")
	errs = append(errs, from.Gone())
	f.awaits = false
	if f.cfg.Pins != "" {
		errs = append(errs, f.preparePins())
	}
	for _, d := range t.devices {
		if err := f.hookTaken(d); err != nil {
			errs = append(errs, fmt.Errorf("device %s: %w", d.name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		f.log.Error("taking over", zap.Error(err))
	}
	if err := f.apply(ctx, t.snapshot); err != nil {
		f.degrade("snapshot", "it was taken over, but not all of it works: "+err.Error())
		f.look()
	}
	return nil
}

// hookTaken puts the program of this build in place of the one at a device, with the sockets. Without it the device is
// as good as lost, and opened anew.
func (f *Forwarder) hookTaken(d *device) (err error) {
	f.devices[d.name] = d
	if d.hook, err = xdpprog.Load(f.hookOptions(f.snapshot.GetNode(), d.name, d.link.queues)); err != nil {
		delete(f.devices, d.name)
		for _, t := range f.workers {
			t.worker.Do(func() { t.worker.RemoveDevice(d.index) })
		}
		return err
	}
	for _, s := range d.sockets {
		if err := d.hook.SetSocket(s.queue, s.fd); err != nil {
			return err
		}
	}
	mode, err := d.hook.Attach(d.link.ifindex, f.attachMode(d.name))
	if err != nil {
		f.vanished(d.index)
		return err
	}
	d.mode = mode.String()
	f.keepTags(d, f.snapshot)
	return nil
}

// afresh takes flows alone, and starts as always once the predecessor has stopped.
func (t *takeover) afresh(ctx context.Context, from Predecessor) error {
	f := t.f
	f.log.Warn("sockets cannot be taken over, fresh ones are opened", zap.String("why", t.offer.Fresh))
	state, files, err := from.State()
	if err == nil && len(files) != 1 {
		err = fmt.Errorf("%d files", len(files))
	}
	if err == nil {
		t.flows, err = readFlows(state, files[0])
	}
	handover.CloseFiles(files)
	if err == nil {
		err = from.Commit()
	}
	if err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	if err := from.Gone(); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	f.handed = t
	t.learn(state)
	return f.apply(context.WithoutCancel(ctx), t.snapshot)
}
