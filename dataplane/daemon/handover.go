// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/dataplane/forwarder"
	"github.com/viaduct-net/viaduct/dataplane/handover"
	"github.com/viaduct-net/viaduct/dataplane/lastgood"
	"github.com/viaduct-net/viaduct/internal/process"
)

// How long the two ends wait for each other. While the successor prepares, changes wait; between state and commit new
// flows' packets do.
const (
	answerTime  = 5 * time.Second
	prepareTime = 20 * time.Second
	commitTime  = 5 * time.Second
)

// handOverAgain is how long a dataplane that took over keeps what it got. Else two that something always starts again
// would take it from each other for ever.
const handOverAgain = time.Minute

// errHandedOver ends a daemon whose successor has everything.
var errHandedOver = errors.New("handed over")

// awaitSuccessor hands over to whoever asks for it, until one has everything, which is errHandedOver.
func (d *daemon) awaitSuccessor(ctx context.Context) error {
	l, err := handover.Listen(d.o.Run)
	if err != nil {
		d.log.Warn("nobody can take over from this dataplane", zap.Error(err))
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Remove() })
	defer func() {
		if stop() {
			_ = l.Close()
		}
	}()
	for {
		c, peer, err := l.Accept()
		if err != nil {
			if ctx.Err() == nil {
				d.log.Warn("nobody can take over from this dataplane any more", zap.Error(err))
			}
			return nil
		}
		handed, err := d.handOver(ctx, c)
		_ = c.Close()
		switch {
		case handed:
			d.log.Info("a successor has taken over: this dataplane ends", zap.Int32("process", peer.PID),
				zap.NamedError("letting go", err))
			return errHandedOver
		case err != nil:
			d.log.Warn("a successor has not taken over: this dataplane goes on", zap.Int32("process", peer.PID), zap.Error(err))
		}
	}
}

// handOver says whether the successor has everything.
func (d *daemon) handOver(ctx context.Context, c *handover.Conn) (handed bool, err error) {
	var hello handover.Hello
	if _, err := c.Receive(handover.HelloMessage, answerTime, &hello); err != nil {
		return false, err
	}
	if left := handOverAgain - time.Since(d.tookOver); !d.tookOver.IsZero() && left > 0 {
		return false, refuse(c, fmt.Errorf("it took over itself, and does not hand over again for %s",
			left.Round(time.Second)))
	}
	h := d.f.BeginHandOver()
	over := context.AfterFunc(ctx, func() { _ = c.Close() })
	err = d.offer(ctx, c, h, &hello)
	if over() && err == nil && c.Committed(commitTime, ctx.Done()) {
		return true, h.Leave()
	}
	h.Abort()
	if err == nil {
		err = errors.New("it did not say that it has everything")
	}
	return false, err
}

// offer gives the successor everything but its word that it is its own.
func (d *daemon) offer(ctx context.Context, c *handover.Conn, h *forwarder.HandOver, hello *handover.Hello) error {
	offer, files, err := h.Offer(hello)
	if err != nil {
		return refuse(c, err)
	}
	err = c.Send(handover.OfferMessage, answerTime, offer, files...)
	_ = files[0].Close()
	if err != nil {
		return err
	}
	if _, err := c.Receive(handover.ReadyMessage, prepareTime, nil); err != nil {
		return err
	}
	state, files, err := h.Freeze(ctx)
	if err != nil {
		return refuse(c, err)
	}
	defer handover.CloseFiles(files)
	return c.Send(handover.StateMessage, answerTime, state, files...)
}

func refuse(c *handover.Conn, why error) error {
	return errors.Join(why, c.Send(handover.RefusalMessage, answerTime, handover.Refusal{Reason: why.Error()}))
}

// predecessor is the dataplane that hands over to this one.
type predecessor struct {
	d     *daemon
	c     *handover.Conn
	offer handover.Offer
	files []*os.File // of the offer
}

// askPredecessor asks the dataplane of the run directory to hand over; nil: there is none.
func (d *daemon) askPredecessor() (*predecessor, error) {
	c, err := handover.Dial(d.o.Run)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := &predecessor{d: d, c: c}
	cfg := d.o.forwarder()
	device, inode := forwarder.PinsAt(cfg.Pins)
	err = c.Send(handover.HelloMessage, answerTime, handover.Hello{
		PinsDevice: device, PinsInode: inode,
		Layout: handover.Layout, Version: forwarder.Version(), PID: os.Getpid(), Pins: cfg.Pins, Sockets: cfg.Sockets,
		Ring: cfg.Ring, Workers: len(cfg.CPUs), State: d.o.State, Node: d.o.Node,
	})
	if err == nil {
		p.files, err = c.Receive(handover.OfferMessage, answerTime, &p.offer)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return p, nil
}

// State implements forwarder.Predecessor.
func (p *predecessor) State() (*handover.State, []*os.File, error) {
	if err := p.c.Send(handover.ReadyMessage, answerTime, nil); err != nil {
		return nil, nil, err
	}
	state := new(handover.State)
	files, err := p.c.Receive(handover.StateMessage, answerTime, state)
	return state, files, err
}

// Commit implements forwarder.Predecessor.
func (p *predecessor) Commit() error { return p.c.Send(handover.CommitMessage, answerTime, nil) }

// Gone implements forwarder.Predecessor: the predecessor lets go of its directories last.
func (p *predecessor) Gone() error {
	var err error
	for deadline := time.Now().Add(goneTime); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if err = p.d.claim(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("wait for the predecessor to end: %w", err)
}

// goneTime is how long a predecessor may take to end: one that stops as always closes its devices one by one.
const goneTime = 30 * time.Second

// takeOver has the forwarder go on in the predecessor's place.
func (d *daemon) takeOver(ctx context.Context, p *predecessor) error {
	defer func() { _ = p.c.Close() }()
	if err := d.f.TakeOver(ctx, &p.offer, p.files, p); err != nil {
		return err
	}
	if d.releases == nil {
		return errors.New("the predecessor does not end: stop it, and start this one again")
	}
	d.tookOver = time.Now()
	d.log.Info("took over from the dataplane that ran", zap.String("its version", p.offer.Version),
		zap.Uint64("epoch", d.f.Epoch()))
	return nil
}

// claim makes the directories this process's own, all or none.
func (d *daemon) claim() (err error) {
	var releases []func()
	defer func() {
		for i := len(releases) - 1; err != nil && i >= 0; i-- {
			releases[i]()
		}
	}()
	release, err := process.Claim(d.o.Run, "dataplane")
	if err != nil {
		return err
	}
	releases = append(releases, release)
	if release, err = claimPins(d.o.Bpf); err != nil {
		return &process.SetUpError{Err: err}
	}
	releases = append(releases, release)
	if d.file, err = lastgood.Open(d.o.State, d.o.Logger); err != nil {
		return &process.SetUpError{Err: err}
	}
	d.releases = append(releases, func() { _ = d.file.Close() })
	return nil
}

// release lets others have the directories.
func (d *daemon) release() {
	for i := len(d.releases) - 1; i >= 0; i-- {
		d.releases[i]()
	}
	d.releases = nil
}
