// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
	"github.com/viaduct-net/viaduct/dataplane/xsk/asavie"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// device is a network device that the dataplane owns: its hook, and a socket on each of its queues.
type device struct {
	name    string
	index   int // in the tables
	link    linkFacts
	hook    *xdpprog.Port
	mode    string
	sockets []socket
	port    string   // that opened it
	asked   []uint32 // its queues as configured; empty: all
	shared  bool     // the hook leaves to the host what is not ours
	restore func()   // gives the device its offloads back; nil while they are as they were
}

type socket struct {
	queue  uint32
	worker int
	xsk    xsk.Queue
	fd     int // of xsk, from link on
}

// missing lists, of each device that the snapshot names, that exists and is not open, the port that opens it.
func (f *Forwarder) missing(snapshot *api.Snapshot, links links) (ports []*api.Port) {
	seen := make(map[string]bool)
	for _, p := range withSockets(snapshot) {
		if _, there := links[p.Device]; there && f.devices[p.Device] == nil && !seen[p.Device] {
			seen[p.Device] = true
			ports = append(ports, p)
		}
	}
	return ports
}

// openMissing opens the devices that are missing: all of them or none, but for pods' own, each of which is of its port
// alone.
func (f *Forwarder) openMissing(snapshot *api.Snapshot, links links) ([]*device, error) {
	var opened []*device
	for _, p := range f.missing(snapshot, links) {
		d, err := f.openDevice(snapshot, p, links[p.Device])
		if err != nil && p.Station != nil {
			f.degrade("device "+p.Device, "its port is closed: "+err.Error())
			continue
		}
		if err != nil {
			err = &openError{err, &tables.InvalidError{
				Object: tables.Origin(snapshot, p.Origin), Field: "spec.ports[" + p.Name + "].device", Reason: err.Error(),
			}}
			for _, o := range opened {
				err = errors.Join(err, f.abandon(o))
			}
			return nil, err
		}
		opened = append(opened, d)
	}
	return opened, nil
}

// openError is why a device of a snapshot cannot be opened, and what of the snapshot names it.
type openError struct {
	err error
	at  *tables.InvalidError
}

// Error names the object, the field and the cause.
func (e *openError) Error() string { return e.at.Error() }

// Unwrap returns both.
func (e *openError) Unwrap() []error { return []error{e.err, e.at} }

// openPossible opens those of the missing devices that can be opened: one device's failure is not the others'.
func (f *Forwarder) openPossible(snapshot *api.Snapshot, links links) (opened []*device, err error) {
	for _, p := range f.missing(snapshot, links) {
		d, openErr := f.openDevice(snapshot, p, links[p.Device])
		if openErr != nil {
			f.degrade("device "+p.Device, "its ports are closed: "+openErr.Error())
			if p.Station == nil { // a pod's is its port's alone, and is tried when the device changes
				err = errors.Join(err, openErr)
			}
			continue
		}
		opened = append(opened, d)
	}
	return opened, err
}

// fits says whether the open device has the sockets and the hook that a snapshot asks for. Of ports that share a device
// the one that opened it decides.
func (d *device) fits(snapshot *api.Snapshot, p *api.Port) bool {
	if shared(snapshot.GetNode(), p.Device) != d.shared {
		return false
	}
	return p.Name != d.port || slices.Equal(p.Queues, d.asked)
}

// openDevice attaches the hook and opens the sockets, which no worker serves yet.
func (f *Forwarder) openDevice(snapshot *api.Snapshot, p *api.Port, facts linkFacts) (_ *device, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open port %s on device %s: %w", p.Name, p.Device, err)
		}
	}()
	if err := f.reaches(p, facts); err != nil {
		return nil, err
	}
	d := &device{
		name: p.Device, index: f.slotOf(p.Device), link: facts,
		port: p.Name, asked: p.Queues, shared: shared(snapshot.GetNode(), p.Device),
	}
	if f.cfg.Pins != "" {
		if err := f.preparePins(); err != nil {
			return nil, err
		}
	}
	if d.hook, err = xdpprog.Load(f.hookOptions(snapshot.GetNode(), p.Device, facts.queues)); err != nil {
		return nil, err
	}
	mode, err := d.hook.Attach(facts.ifindex, f.attachMode(p.Device))
	if err != nil {
		return nil, errors.Join(err, d.hook.Close())
	}
	d.mode = mode.String()
	f.keepTags(d, snapshot)
	if err := f.openSockets(d, p); err != nil {
		return nil, errors.Join(err, f.abandon(d))
	}
	return d, nil
}

// reaches says whether every worker could send by a pod's own device. The other devices' queues decide how many workers
// there are.
func (f *Forwarder) reaches(p *api.Port, facts linkFacts) error {
	if p.Station != nil && facts.queues < len(f.workers) {
		return fmt.Errorf("the device has %d queues, and there are %d workers, each of which needs one to send by",
			facts.queues, len(f.workers))
	}
	return nil
}

func (f *Forwarder) openSockets(d *device, p *api.Port) error {
	queues := p.Queues
	if len(queues) == 0 {
		for q := range d.link.queues {
			queues = append(queues, uint32(q))
		}
	}
	for i, q := range queues {
		if int(q) >= d.link.queues {
			return fmt.Errorf("queue %d does not exist: the device has %d", q, d.link.queues)
		}
		s := socket{queue: q, worker: i % len(f.workers)}
		var err error
		if s.xsk, err = f.openSocket(d, s); err != nil {
			return fmt.Errorf("open socket on queue %d: %w", q, err)
		}
		d.sockets = append(d.sockets, s)
	}
	return nil
}

func (f *Forwarder) openSocket(d *device, s socket) (xsk.Queue, error) {
	cfg := xsk.SocketConfig{
		UMEM: f.workers[s.worker].umem, IfIndex: d.link.ifindex, QueueID: int(s.queue),
		RxSize: f.cfg.Ring, TxSize: f.cfg.Ring, FillSize: f.fillSize(), CompletionSize: f.cfg.Ring,
		MultiBuffer: true, TxChecksum: true, BusyPoll: f.cfg.Busy,
	}
	if f.cfg.Copy || d.mode == "generic" {
		cfg.ZeroCopy = xsk.ZeroCopyOff
	}
	if f.cfg.Sockets == "asavie" {
		cfg.MultiBuffer, cfg.TxChecksum, cfg.BusyPoll = false, false, false
		f.degrade("sockets", "the asavie backend copies each packet and carries none larger than a frame")
		return asavie.OpenAsavie(cfg)
	}
	return xsk.Open(cfg)
}

// fillSize is how many frames the next device's fill rings hold: a worker's frames are for all of its devices, and half
// of them and more are in flight.
func (f *Forwarder) fillSize() int {
	share := f.workers[0].umem.Chunks() / 4 / max(1, len(f.slots))
	return min(f.cfg.Ring, 1<<(bits.Len(uint(max(share, 64)))-1)) // rings are powers of two
}

// serve hands opened devices to their workers, and packets to their sockets.
func (f *Forwarder) serve(ctx context.Context, opened []*device) error {
	if len(opened) == 0 {
		return f.setHooks()
	}
	for _, d := range opened {
		f.devices[d.name] = d
		delete(f.degraded, "device "+d.name)
		if err := f.link(ctx, d); err != nil {
			return err
		}
	}
	// No packet is judged before all devices give and take: a neighbor that is asked for on a device that does not
	// transmit yet, or answers on one that does not receive yet, is not asked again for a second (RFC 4861 10,
	// RETRANS_TIMER).
	err := f.paused(ctx, f.workers, func() error {
		for _, d := range opened {
			for _, s := range d.sockets {
				if err := d.hook.SetSocket(s.queue, s.fd); err != nil {
					return fmt.Errorf("device %s: %w", d.name, err)
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range opened {
		f.log.Info("device open", zap.String("device", d.name), zap.String("xdp", d.mode),
			zap.Int("queues", len(d.sockets)))
	}
	return f.setHooks()
}

// paused runs do while all of the workers wait for it.
func (f *Forwarder) paused(ctx context.Context, workers []*thread, do func() error) (err error) {
	if len(workers) == 0 {
		return do()
	}
	called := workers[0].worker.Call(ctx, func() { err = f.paused(ctx, workers[1:], do) })
	return errors.Join(called, err)
}

// link gives the device's sockets to their workers.
func (f *Forwarder) link(ctx context.Context, d *device) error {
	for i := range d.sockets {
		s := &d.sockets[i]
		if err := f.workers[s.worker].worker.Call(ctx, func() { f.give(d, s) }); err != nil {
			return err
		}
	}
	return nil
}

// give gives a device's socket to its worker, which is not in a pass meanwhile.
func (f *Forwarder) give(d *device, s *socket) {
	w := f.workers[s.worker].worker
	s.fd = s.xsk.FD() // which is the worker's to close, once it has the link
	w.SetMerging(d.index, d.mode == xdpprog.Generic.String())
	w.AddLink(d.index, s.xsk, s.xsk.Info().FillSize)
}

// settleDevices closes the devices that no port of the snapshot in force names, and sets the others' offloads.
func (f *Forwarder) settleDevices(ctx context.Context) error {
	var errs []error
	used := make(map[string]bool)
	for _, p := range withSockets(f.snapshot) {
		used[p.Device] = true
	}
	for name, d := range f.devices {
		if used[name] {
			f.keepTags(d, f.snapshot)
		} else {
			errs = append(errs, f.closeDevice(ctx, name))
		}
	}
	errs = append(errs, f.dropPinned(used))
	for subject := range f.degraded {
		if name, of := strings.CutPrefix(subject, "device "); of && !used[name] {
			delete(f.degraded, subject)
		}
	}
	for i, name := range f.slots {
		if name != "" && !used[name] {
			f.slots[i] = "" // no worker has it any more: the tables without it are in force
		}
	}
	return errors.Join(errs...)
}

// closeStale closes devices that were made again under their names.
func (f *Forwarder) closeStale(ctx context.Context, links links) {
	for name, d := range f.devices {
		if facts, there := links[name]; there && facts.ifindex != d.link.ifindex {
			if err := f.closeDevice(ctx, name); err != nil {
				f.log.Info("closing a device that was made again", zap.String("device", name), zap.Error(err))
			}
		}
	}
}

// closeDevice detaches the hook, so that nothing comes in any more, and has the workers let go of the sockets.
func (f *Forwarder) closeDevice(ctx context.Context, name string) error {
	d := f.devices[name]
	delete(f.devices, name)
	f.cutWires(name)
	err := d.hook.Detach()
	f.giveTags(d)
	for _, t := range f.workers {
		err = errors.Join(err, t.worker.Call(ctx, func() { t.worker.RemoveDevice(d.index) }))
	}
	f.lostMu.Lock()
	delete(f.lost, d.index) // whatever a worker said of it meanwhile
	f.lostMu.Unlock()
	f.log.Info("device closed", zap.String("device", name))
	return err
}

// abandon closes a device that no worker serves. A hook that was there before goes on with what it carries.
func (f *Forwarder) abandon(d *device) error {
	var err error
	if d.hook.Adopted() {
		err = d.hook.Close()
	} else {
		err = d.hook.Detach()
		f.giveTags(d)
	}
	var closeErr error
	for _, s := range d.sockets {
		// It has no frames yet, but looking for them is for the worker, whose frames they would be.
		err = errors.Join(err, f.workers[s.worker].worker.Call(context.Background(), func() {
			closeErr = errors.Join(closeErr, s.xsk.Close(func(uint64) {}))
		}))
	}
	return errors.Join(err, closeErr)
}
