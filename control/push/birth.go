// SPDX-License-Identifier: Apache-2.0

package push

import (
	"fmt"
	"slices"
	"time"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// A pod's interface may be attached before the source has said the pod and its namespace: it would have no labels, and
// what policies say of pods with these labels would not hold of its first packets. So the attachment waits, outside the
// compiler, until both are known.

// AwaitPods is for how long an attachment is to wait where each pod has an object. It is less than the CNI plugin
// waits, so that who waits is told why.
const AwaitPods = 10 * time.Second

// unborn are attachments that wait for their pods.
type unborn struct {
	list  []*request
	timer *time.Timer // fires when the first of them has waited for long enough
}

func newUnborn() unborn {
	u := unborn{timer: time.NewTimer(time.Hour)}
	u.timer.Stop()
	return u
}

// born returns the requests, in order, that need not wait, or not any more: new ones, and those that waited.
func (p *pusher) born(requests []*request) (ready []*request) {
	u := &p.unborn
	for _, r := range requests {
		u.overtaken(r)
		if r.done != nil && p.s.cfg.AwaitPods > 0 {
			r.until = time.Now().Add(p.s.cfg.AwaitPods)
			u.list = append(u.list, r)
		} else {
			ready = append(ready, r)
		}
	}
	var first time.Time
	u.list = slices.DeleteFunc(u.list, func(r *request) bool {
		if r.ctx.Err() != nil { // nobody waits any more
			return true
		}
		missing, known := p.known(r)
		switch {
		case known || p.awayFor() != "": // or it is told so
			ready = append(ready, r)
		case !time.Now().Before(r.until):
			r.done <- &AwayError{Reason: fmt.Sprintf("the source has not said %s within %v", missing, p.s.cfg.AwaitPods)}
		default:
			if first.IsZero() || r.until.Before(first) {
				first = r.until
			}
			return false
		}
		return true
	})
	if !first.IsZero() {
		u.timer.Reset(time.Until(first))
	}
	return ready
}

// known says whether the pods and namespaces of all that is to be attached are known, or else which is not. A pod of
// the name with another UID is the one before it.
func (p *pusher) known(r *request) (missing model.Key, known bool) {
	for _, a := range r.set {
		if a.PodName == "" {
			continue
		}
		key := model.Key{Kind: "Pod", Namespace: a.PodNamespace, Name: a.PodName}
		o := p.compiler.Object(key)
		if o == nil {
			return key, false
		}
		if uid := o.Spec.(*model.Pod).UID; a.PodUID != "" && uid != "" && uid != a.PodUID {
			return key, false
		}
		if key = (model.Key{Kind: "Namespace", Name: a.PodNamespace}); p.compiler.Object(key) == nil {
			return key, false
		}
	}
	return model.Key{}, true
}

// overtaken tells those that wait whose ports a later request is about.
func (u *unborn) overtaken(by *request) {
	names := append(ports(by.set), by.removed...)
	u.list = slices.DeleteFunc(u.list, func(r *request) bool {
		i := slices.IndexFunc(r.set, func(a *compile.Attachment) bool { return slices.Contains(names, a.Port) })
		if i >= 0 {
			r.done <- &RefusedError{Object: compile.Origin(r.set[i].Port), Reason: "it was removed meanwhile"}
		}
		return i >= 0
	})
}
