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
	hooks    map[string]*xdpprog.Port // by device
	devices  []*device
	flows    []handover.Flow
}

// TakeOver has the forwarder go on in place of a predecessor that has made an offer, whose files are the forwarder's
// from then on. An error before the commit leaves everything with the predecessor, and the forwarder with nothing but
// Close to be called; later ones are said by Status, and mended.
func (f *Forwarder) TakeOver(ctx context.Context, offer *handover.Offer, files []*os.File, from Predecessor) error {
	t := &takeover{f: f, offer: offer, hooks: make(map[string]*xdpprog.Port)}
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
	t.goOn(context.WithoutCancel(ctx), from)
	return nil
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
	f.slots = append([]string(nil), t.offer.Slots...)
	f.reserveSlots(t.snapshot)
	if t.next, err = tables.Build(f.tables.Load(), t.snapshot, f.lookup(t.links), f.neighbors); err != nil {
		handover.CloseFiles(memory)
		return err
	}
	f.provideFlows(t.snapshot.GetNode())
	if err := t.mapMemory(memory); err != nil {
		return err
	}
	return t.loadHooks()
}

func (t *takeover) mapMemory(files []*os.File) error {
	f := t.f
	var memory []*xsk.UMEM
	for i, m := range t.offer.Workers {
		u, err := xsk.MapUMEM(files[i], m.UMEMConfig, m.Huge)
		if err != nil {
			handover.CloseFiles(files[i:])
			for _, u := range memory {
				err = errors.Join(err, u.Close())
			}
			return err
		}
		memory = append(memory, u)
	}
	return f.startWorkersOver(memory)
}

// loadHooks has the kernel look at all programs, and takes over the maps of devices' hooks.
func (t *takeover) loadHooks() error {
	f := t.f
	for _, p := range withSockets(t.snapshot) {
		facts, there := t.links[p.Device]
		if !there || t.hooks[p.Device] != nil {
			continue
		}
		hook, err := xdpprog.Load(f.hookOptions(t.snapshot.GetNode(), p.Device, facts.queues))
		if err != nil {
			return fmt.Errorf("device %s: %w", p.Device, err)
		}
		t.hooks[p.Device] = hook
		if p.Device != tables.TrunkDevice {
			continue
		}
		trial, err := xdpprog.LoadTrunk(xdpprog.TrunkOptions{})
		if err != nil {
			return err
		}
		if err := trial.Close(); err != nil {
			return err
		}
	}
	return nil
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
	for i, w := range state.Workers {
		list := make([]worker.Packet, len(w.Waiting))
		for j, p := range w.Waiting {
			list[j] = worker.Packet{Device: p.Device, Descs: p.Descs}
		}
		t.f.workers[i].waiting = list
	}
	return nil
}

// adopt takes files, which are closed where they are not needed.
func (t *takeover) adopt(state *handover.State, files []*os.File) error {
	defer func() { handover.CloseFiles(files) }()
	if len(state.Workers) != len(t.f.workers) || len(files) == 0 {
		return fmt.Errorf("%d workers left something, %d run", len(state.Workers), len(t.f.workers))
	}
	var err error
	if t.flows, err = readFlows(state, files[0]); err != nil {
		return err
	}
	_ = files[0].Close()
	files = files[1:]
	for i, w := range state.Workers {
		if err := t.f.workers[i].adopt(w); err != nil {
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
			if len(files) == 0 || s.Worker < 0 || s.Worker >= len(t.f.workers) {
				return fmt.Errorf("device %s: a socket is missing", of.Name)
			}
			taken, err := xsk.AdoptSocketFile(t.f.workers[s.Worker].umem, files[0], s.State)
			if err != nil {
				return err
			}
			files = files[1:]
			d.sockets = append(d.sockets, socket{queue: s.Queue, worker: s.Worker, xsk: taken})
		}
	}
	return nil
}

func (th *thread) adopt(w handover.Worker) error {
	if err := th.umem.Adopt(w.Owners); err != nil {
		return err
	}
	var waiting []uint64
	for _, p := range w.Waiting {
		for _, d := range p.Descs {
			waiting = append(waiting, d.Addr)
		}
	}
	return th.pool.Adopt(waiting)
}

func (t *takeover) adoptDevice(of handover.Device) (*device, error) {
	facts, there := t.links[of.Name]
	hook := t.hooks[of.Name]
	switch {
	case !there || facts.ifindex != of.IfIndex || hook == nil:
		return nil, fmt.Errorf("device %s is another one meanwhile", of.Name)
	case of.Index < 0 || of.Index >= len(t.f.slots) || t.f.slots[of.Index] != of.Name:
		return nil, fmt.Errorf("device %s has another number", of.Name)
	case shared(t.snapshot.GetNode(), of.Name) != of.Shared:
		return nil, fmt.Errorf("device %s is taken in another mode", of.Name)
	}
	return &device{name: of.Name, index: of.Index, link: facts, hook: hook, mode: of.Mode, port: of.Port,
		asked: of.Asked, shared: of.Shared}, nil
}

// giveUp lets go of everything before the commit.
func (t *takeover) giveUp() error {
	f := t.f
	var errs []error
	for _, d := range t.devices {
		for _, s := range d.sockets {
			errs = append(errs, s.xsk.(*xsk.Socket).Leave())
		}
	}
	for _, hook := range t.hooks {
		errs = append(errs, hook.Close())
	}
	return errors.Join(append(errs, f.stopWorkers())...)
}

// goOn is behind the commit. Packets first: hooks that are there lead them to the sockets.
func (t *takeover) goOn(ctx context.Context, from Predecessor) {
	f := t.f
	f.snapshot = t.snapshot
	t.next.Enter(f.tables.Load())
	f.tables.Store(t.next)
	f.enterServices(t.next)
	f.shareFlows(t.next)
	f.handed = t
	f.restoreFlows(t.next)
	var errs []error
	for _, d := range t.devices {
		errs = append(errs, f.link(ctx, d))
	}
	for _, th := range f.workers {
		th.worker.Do(func() { th.worker.TakeUp(th.waiting) })
	}
	f.log.Info("packets are forwarded in place of the dataplane before")
	errs = append(errs, from.Gone())
	if f.cfg.Pins != "" {
		errs = append(errs, f.preparePins())
	}
	for _, d := range t.devices {
		if err := f.hookTaken(d, t.snapshot); err != nil {
			f.log.Error("taking over a hook", zap.String("device", d.name), zap.Error(err))
			f.lostMu.Lock()
			f.lost[d.index] = true
			f.lostMu.Unlock()
		}
		f.devices[d.name] = d
	}
	if err := errors.Join(errs...); err != nil {
		f.log.Error("taking over", zap.Error(err))
	}
	if err := f.apply(ctx, t.snapshot); err != nil {
		f.degrade("snapshot", "it was taken over, but not all of it works: "+err.Error())
		f.look()
	}
	for name, hook := range t.hooks { // of devices that the predecessor had not open
		if d := f.devices[name]; d == nil || d.hook != hook {
			_ = hook.Close()
		}
	}
}

// hookTaken puts the program of this build in place of the one at a device, with the sockets.
func (f *Forwarder) hookTaken(d *device, snapshot *api.Snapshot) error {
	for _, s := range d.sockets {
		if err := d.hook.SetSocket(s.queue, s.fd); err != nil {
			return err
		}
	}
	mode, err := d.hook.Attach(d.link.ifindex, f.attachMode(d.name))
	if err != nil {
		return err
	}
	d.mode = mode.String()
	f.keepTags(d, snapshot)
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
	return f.apply(context.WithoutCancel(ctx), t.snapshot)
}
