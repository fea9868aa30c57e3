// SPDX-License-Identifier: Apache-2.0

package push

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/internal/process"
)

// pusher owns the compiler and decides what is sent; one goroutine runs it.
type pusher struct {
	s        *Server
	log      *zap.Logger
	compiler *compile.Compiler
	statuses statuses

	inStep bool           // the source has said its whole state: nothing is sent before
	dirty  bool           // something is to be compiled
	epoch  uint64         // the largest that was ever given out, by us or by those before us
	pushed bool           // something was sent
	latest *api.Snapshot  // nil: nothing compiled yet
	delta  *api.Delta     // makes latest of the one before; nil: there is none
	said   []*model.Error // refusals that the log has

	unborn   unborn                // attachments that the compiler has not, as their pods are not known
	waiting  []*request            // changes of attachments that somebody waits for
	settings *Settings             // that were told; nil: none yet
	checks   []compile.HealthCheck // that were told

	withheld int // objects that the dataplane refused in a row

	follower *follower // nil: none is connected
	view     state     // what Status says

	again *time.Timer   // when what was refused for no fault of its own is sent again
	pause time.Duration // until then
}

func newPusher(s *Server) *pusher {
	p := &pusher{
		s: s, log: s.log, compiler: compile.New(s.cfg.Node), again: time.NewTimer(time.Hour), pause: leastPause,
		unborn: newUnborn(),
	}
	p.again.Stop()
	p.compiler.Attach(s.cfg.Attachments, nil)
	p.statuses = newStatuses(s.cfg.Source, p.compiler)
	return p
}

// run works until the context ends, and ends the stream that is open then.
func (p *pusher) run(ctx context.Context) {
	defer func() {
		if p.follower != nil {
			p.follower.close(errStops)
		}
	}()
	for {
		p.turn()
		p.publish()
		select {
		case <-ctx.Done():
			return
		case <-p.s.intake.poke:
		case f := <-p.s.joins:
			p.join(f)
		case f := <-p.s.leaves:
			p.leave(f)
		case a := <-p.s.answers:
			p.answered(a)
		case ask := <-p.s.asks:
			ask(p.compiler)
		case <-p.unborn.timer.C:
		case <-p.again.C:
			if p.follower != nil {
				p.follower.refused = 0
			}
			p.withheld = 0
		}
	}
}

// turn compiles and sends what there is, unless a message is in flight.
func (p *pusher) turn() {
	if p.follower != nil && p.follower.inFlight != 0 {
		return
	}
	p.take()
	p.attach()
	p.away()
	if !p.inStep {
		return
	}
	for p.dirty { // once, and again without what turns out to be refused
		p.compile()
	}
	p.away()
	if f := p.follower; f != nil && p.latest != nil && f.onto == p.latest.Epoch {
		p.statuses.applied(p.latest) // what was looked at since changed nothing
		p.inForce()
	}
	p.send()
}

// take gives the compiler what the source said.
func (p *pusher) take() {
	e := p.s.intake.take()
	if e.Whole {
		p.compiler.Replace(e.Set)
	} else {
		p.compiler.Change(e.Set, e.Removed)
	}
	p.dirty = p.dirty || e.Whole || len(e.Set)+len(e.Removed) > 0
	if e.Whole && !p.inStep {
		p.inStep = true
		if p.s.cfg.InStep != nil {
			p.s.cfg.InStep()
		}
	}
}

// compile makes the latest snapshot. When none can be made what is in force stays.
func (p *pusher) compile() {
	p.dirty = false
	begin := time.Now()
	step, err := p.compiler.Compile(p.epoch + 1)
	p.s.metrics.compileSeconds.Observe(time.Since(begin).Seconds())
	p.view.objects = p.compiler.Objects()
	if err != nil {
		if p.view.failure != err.Error() {
			p.log.Error("no snapshot can be made; what is in force stays", zap.Error(err))
		}
		p.view.failure = err.Error()
		return
	}
	p.view.failure = ""
	p.statuses.note(step.Judged)
	if step.Snapshot != p.latest {
		p.latest, p.delta, p.epoch = step.Snapshot, step.Delta, step.Snapshot.Epoch
	}
	if !p.pushed { // no dataplane has numbers of ours
		p.compiler.Acked(p.epoch)
	}
	p.set()
	if p.compiled() {
		return
	}
	p.view.errors = p.compiler.Errors()
	p.logRefused()
}

// logRefused says each refusal once, for as long as it stands.
func (p *pusher) logRefused() {
	if slices.Equal(p.said, p.view.errors) { // the compiler keeps a refusal that stands
		return
	}
	before := make(map[*model.Error]bool, len(p.said))
	for _, e := range p.said {
		before[e] = true
	}
	for _, e := range p.view.errors {
		if !before[e] {
			p.log.Error("left out", zap.Error(e))
		}
	}
	p.said = p.view.errors
}

// send puts the latest snapshot in flight, as a delta where one fits, if the follower has neither taken nor refused
// it yet.
func (p *pusher) send() {
	f := p.follower
	if f == nil || p.latest == nil || f.onto == p.latest.Epoch || f.refused == p.latest.Epoch {
		return
	}
	m := &api.FromControl{Message: &api.FromControl_Snapshot{Snapshot: p.latest}}
	whole := f.onto == 0 || p.delta.GetBase() != f.onto || larger(p.delta, p.latest)
	if !whole {
		m.Message = &api.FromControl_Delta{Delta: p.delta}
	}
	if size := proto.Size(m); whole && size > process.MaxMessage {
		p.view.failure = fmt.Sprintf("the snapshot takes %d bytes, and a message has %d at most", size, process.MaxMessage)
		p.log.Error("no snapshot can be sent; what is in force stays", zap.String("failure", p.view.failure))
		f.refused = p.latest.Epoch
		p.away()
		return
	}
	p.pushed = true
	p.publish() // who is sent something, finds it said
	f.inFlight, f.whole, f.sent = p.latest.Epoch, whole, time.Now()
	select {
	case f.out <- m:
	default: // the one before is still on its way, and was answered
		f.close(status.Error(codes.InvalidArgument, "an epoch was answered that was not read"))
		return
	}
	if whole {
		f.view.Snapshots++
		p.s.metrics.snapshots.Inc()
	} else {
		f.view.Deltas++
		p.s.metrics.deltas.Inc()
	}
}

// larger says whether a delta is larger than the snapshot that it makes. Sizes are asked for only where the delta has
// as many elements as that takes: to know a snapshot's size is to walk all of it.
func larger(d *api.Delta, s *api.Snapshot) bool {
	removed := len(d.GetRemovedRoutes()) + len(d.GetRemovedIdentityPrefixes()) + len(d.GetRemovedIdentities()) +
		len(d.GetRemovedOrigins()) + len(d.GetRemovedGroups()) + len(d.GetRemovedPolicies()) +
		len(d.GetRemovedPorts()) + len(d.GetRemovedHostRoutes()) + len(d.GetRemovedPeerSets()) +
		len(d.GetPeerSetChanges()) + len(d.GetRemovedServices()) + len(d.GetRemovedEgress())
	if 2*(elements(d.GetSet())+len(d.GetOrigins())+removed) < elements(s)+len(s.GetOrigins()) {
		return false
	}
	return proto.Size(d) > proto.Size(s)
}

func elements(s *api.Snapshot) int {
	return len(s.GetPorts()) + len(s.GetGroups()) + len(s.GetRoutes()) + len(s.GetNeighbors()) +
		len(s.GetIdentities()) + len(s.GetIdentityPrefixes()) + len(s.GetPolicies()) + len(s.GetHostRoutes()) +
		len(s.GetPeerSets()) + len(s.GetServices()) + len(s.GetEgress())
}

// join makes f the follower, in the place of the one there is.
func (p *pusher) join(f *follower) {
	peer := []zap.Field{zap.Int32("pid", f.view.Pid), zap.String("version", f.view.Version)}
	if p.follower != nil {
		p.log.Warn("another dataplane takes the place of the one that follows", append(peer,
			zap.Int32("former pid", p.follower.view.Pid))...)
		p.follower.close(status.Error(codes.Aborted, "another dataplane follows this control in this one's place"))
	}
	p.follower, p.view.inForce, p.view.closed = f, nil, nil
	inForce := f.hello.GetInForce()
	p.log.Info("a dataplane follows", append(peer, zap.Uint64("in force", inForce.GetEpoch()))...)
	p.compiler.Retry() // it may be another program, which takes what the one before refused
	p.dirty, p.withheld = true, 0
	p.resume(inForce)
	f.hello = nil // it may be large
}

func (p *pusher) leave(f *follower) {
	if f == p.follower {
		p.follower, p.view.inForce, p.view.closed = nil, nil, nil
		p.log.Info("the dataplane is gone", zap.Int32("pid", f.view.Pid))
	}
}

// answered takes note of an ack or a nack, and ends the stream for one that nobody asked for.
func (p *pusher) answered(a answer) {
	f := a.follower
	if f != p.follower {
		return
	}
	epoch := max(a.message.GetAck().GetEpoch(), a.message.GetNack().GetEpoch())
	if epoch == 0 || epoch != f.inFlight {
		f.close(status.Errorf(codes.InvalidArgument, "epoch %d was answered, and %d is in flight", epoch, f.inFlight))
		return
	}
	f.inFlight = 0
	if nack := a.message.GetNack(); nack != nil {
		p.nacked(f, nack)
		return
	}
	took := time.Since(f.sent)
	p.s.metrics.ackSeconds.Observe(took.Seconds())
	f.onto, f.refused, f.view.Epoch = epoch, 0, epoch
	p.pause = leastPause
	p.compiler.Acked(epoch)
	p.compiler.InForce()
	p.withheld = 0
	p.view.inForce, p.view.closed = p.latest, p.closed(a.message.GetAck())
	f.view.ApplyNanoseconds, f.view.RoundTripNanoseconds = a.message.GetAck().GetApplyNanoseconds(), uint64(took)
	p.view.lastNack, p.view.acked = nil, epoch
	p.inForce()
	p.statuses.applied(p.latest)
}

// Between two sendings of a snapshot that was refused for no fault of its own.
const (
	leastPause = time.Second
	mostPause  = 30 * time.Second
)

// nacked has the whole snapshot sent after a refused delta. After a whole one it goes without the object that is at
// fault. Where that cannot be only a change helps, or, where the dataplane names nothing of it, time.
func (p *pusher) nacked(f *follower, nack *api.Nack) {
	p.log.Error("the dataplane refused an epoch; what it had stays in force", zap.Uint64("epoch", nack.Epoch),
		zap.Bool("whole", f.whole), zap.String("object", nack.Object), zap.String("field", nack.Field),
		zap.String("reason", nack.Reason))
	f.view.Nacks++
	p.s.metrics.nacks.Inc()
	p.view.lastNack = nack
	f.onto = 0
	if !f.whole {
		p.attachmentsRefused(nack, false)
		return
	}
	f.refused = nack.Epoch
	without := p.withhold(nack)
	p.statuses.refused(p.latest, p.view.acked, nack)
	if !without && (nack.Object == "" && nack.Field == "" || p.withheld == mostWithheld) {
		p.again.Reset(p.pause)
		p.pause = min(2*p.pause, mostPause)
	}
	p.attachmentsRefused(nack, !without)
}

// closed are the reasons of the ports that the dataplane has in force and that do not forward, by number. What is said
// for the first time is logged.
func (p *pusher) closed(ack *api.Ack) map[uint32]string {
	closed := make(map[uint32]string, len(ack.GetClosed()))
	for _, c := range ack.GetClosed() {
		closed[c.GetPort()] = c.GetReason()
		if p.view.closed[c.GetPort()] == c.GetReason() {
			continue
		}
		if at, there := slices.BinarySearchFunc(p.latest.GetPorts(), c.GetPort(), func(port *api.Port, id uint32) int {
			return cmp.Compare(port.GetId(), id)
		}); there {
			p.log.Warn("a port is closed", zap.String("port", p.latest.Ports[at].Name), zap.String("reason", c.GetReason()))
		}
	}
	return closed
}

// publish lets Status and metrics see how things are.
func (p *pusher) publish() {
	view := p.view
	view.node, view.epoch = p.latest.GetNode().GetName(), p.epoch
	view.attachments = p.compiler.Attachments()
	if p.latest == nil {
		view.epoch = 0
	}
	if p.follower != nil {
		view.follower = proto.CloneOf(&p.follower.view)
	}
	p.s.state.Store(&view)
}
