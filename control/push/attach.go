// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
)

// AwayError says why nothing can be attached for the moment: it is worth another try.
type AwayError struct {
	Reason string
	Alone  bool // no dataplane follows: pods may be cut off
}

// Error is the reason.
func (e *AwayError) Error() string { return e.Reason }

// RefusedError says which object, and what of it, is why a snapshot with the attachments was not taken: by the compiler
// or by the dataplane.
type RefusedError struct{ Object, Field, Reason string }

// Error names the object and the field.
func (e *RefusedError) Error() string {
	text := "refused"
	for _, part := range []string{e.Object, e.Field, e.Reason} {
		if part != "" {
			text += ": " + part
		}
	}
	return text
}

// ClosedError says why a port that is in force does not forward.
type ClosedError struct{ Port, Reason string }

// Error names the port.
func (e *ClosedError) Error() string { return fmt.Sprintf("port %s is closed: %s", e.Port, e.Reason) }

// NumbersError says that there is no number for another port.
type NumbersError struct{}

// Error says how many there are.
func (*NumbersError) Error() string {
	return fmt.Sprintf("all %d port numbers are in use", api.MaxPort)
}

// request is a change of attachments.
type request struct {
	set     []*compile.Attachment
	removed []string
	ctx     context.Context
	done    chan error // takes one; nil: nobody waits

	// The pusher's own.
	epoch uint64    // of the first snapshot that has it; 0: none yet
	until time.Time // it waits for its pods at most
}

// requests are those that the pusher has not taken yet, in order.
type requests struct {
	mu   sync.Mutex
	list []*request
}

func (q *requests) put(r *request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, r)
}

func (q *requests) take() []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.list
	q.list = nil
	return list
}

// Attach adds attachments, or replaces those of the same ports, removes those of other ports, and returns once the
// dataplane has that in force and the ports that are set forward. When it fails no port that was to be set is attached,
// be it that another attachment had it before. It waits for the Pod objects as well, as Config.AwaitPods says. Errors:
// *AwayError, *RefusedError, *ClosedError, *NumbersError, or the context's.
func (s *Server) Attach(ctx context.Context, set []*compile.Attachment, removed []string) error {
	r := &request{set: set, removed: removed, ctx: ctx, done: make(chan error, 1)}
	s.requests.put(r)
	s.intake.alert()
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
	case <-s.stopped:
		return &AwayError{Reason: "control stops"}
	}
	s.Detach(ports(set))
	return ctx.Err()
}

// Detach removes the attachments of the ports. It does not wait for the dataplane.
func (s *Server) Detach(ports []string) {
	s.requests.put(&request{removed: ports})
	s.intake.alert()
}

func ports(list []*compile.Attachment) (names []string) {
	for _, a := range list {
		names = append(names, a.Port)
	}
	return names
}

// attach gives the compiler the changes of attachments.
func (p *pusher) attach() {
	for _, r := range p.born(p.s.requests.take()) {
		p.compiler.Attach(r.set, r.removed)
		p.dirty = true
		if r.done != nil {
			p.waiting = append(p.waiting, r)
		}
	}
}

// answer tells each one that waits for it: nil, or why not, and keeps those that wait on. What failed is taken back;
// who does not wait any more takes back what is its own, and may have asked anew since.
func (p *pusher) answer(of func(r *request) (done bool, err error)) {
	if len(p.waiting) > 0 {
		p.publish() // who is told something, sees it
	}
	kept := p.waiting[:0]
	for _, r := range p.waiting {
		if r.ctx.Err() != nil {
			continue
		}
		done, err := of(r)
		if !done {
			kept = append(kept, r)
			continue
		}
		if err != nil {
			p.compiler.Attach(nil, ports(r.set))
			p.dirty = true
		}
		r.done <- err
	}
	clear(p.waiting[len(kept):])
	p.waiting = kept
}

// away tells everybody who waits that there is no dataplane to wait for, if that is so.
func (p *pusher) away() {
	if why := p.awayFor(); why != "" {
		p.answer(func(*request) (bool, error) { return true, &AwayError{Reason: why} })
	}
}

func (p *pusher) awayFor() string {
	switch {
	case !p.inStep:
		return notInStep
	case p.follower == nil:
		return noFollower
	}
	return p.view.failure
}

const (
	notInStep  = "the source has not said its whole state yet"
	noFollower = "no dataplane follows"
)

// compiled tells those who are left out of the latest snapshot, and says whether there are any.
func (p *pusher) compiled() (again bool) {
	p.answer(func(r *request) (bool, error) {
		if r.epoch != 0 {
			return false, nil
		}
		r.epoch = p.latest.Epoch
		for _, a := range r.set {
			number, err := p.compiler.Attached(a.Port)
			if err != nil {
				again = true
				return true, &RefusedError{Object: err.Key.String(), Field: err.Field, Reason: err.Reason}
			}
			if number > api.MaxPort {
				again = true
				return true, &NumbersError{}
			}
		}
		return false, nil
	})
	return again
}

// inForce tells those whose attachments the dataplane has in force.
func (p *pusher) inForce() {
	f := p.follower
	p.tellChecks()
	p.answer(func(r *request) (bool, error) {
		if r.epoch == 0 || f.onto < r.epoch {
			return false, nil
		}
		for _, a := range r.set {
			number, _ := p.compiler.Attached(a.Port)
			if reason, closed := p.view.closed[number]; closed {
				return true, &ClosedError{a.Port, reason}
			}
			if number == 0 {
				return true, &RefusedError{Object: compile.Origin(a.Port), Reason: "it was removed meanwhile"}
			}
		}
		return true, nil
	})
}

// attachmentsRefused tells those who are to blame for a refusal; if nobody who waits is, and the refusal is one of the
// whole, all whom it concerns.
func (p *pusher) attachmentsRefused(nack *api.Nack, whole bool) {
	err := &RefusedError{Object: nack.Object, Field: nack.Field, Reason: nack.Reason}
	found := false
	p.answer(func(r *request) (bool, error) {
		for _, a := range r.set {
			if nack.Object == compile.Origin(a.Port) {
				found = true
				return true, err
			}
		}
		return false, nil
	})
	if found || !whole {
		return
	}
	p.answer(func(r *request) (bool, error) { return r.epoch != 0 && r.epoch <= nack.Epoch, err })
}

// Attachable says why Attach would fail; nil when nothing is known to be in its way.
func (s *Server) Attachable() error {
	state, said := s.state.Load(), s.intake.saying()
	why := state.failure
	switch {
	case !said.known:
		why = notInStep
	case state.follower == nil:
		why = noFollower
	case why == "" && state.follower.Epoch == 0:
		why = "the dataplane has not taken anything yet"
	}
	if why != "" {
		return &AwayError{Reason: why, Alone: state.follower == nil}
	}
	if len(state.inForce.GetPorts()) >= api.MaxPort {
		return &NumbersError{}
	}
	return nil
}

// InForce says why the port of an attachment does not forward; nil when it does. Errors: *AwayError, *RefusedError,
// *ClosedError.
func (s *Server) InForce(port string) error {
	if err := s.Attachable(); err != nil {
		return err
	}
	state := s.state.Load()
	for _, p := range state.inForce.GetPorts() {
		if p.Name != port {
			continue
		}
		if reason, closed := state.closed[p.Id]; closed {
			return &ClosedError{port, reason}
		}
		return nil
	}
	return &RefusedError{Object: compile.Origin(port), Reason: "the dataplane does not have its port"}
}
