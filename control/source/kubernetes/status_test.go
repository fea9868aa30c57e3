// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"errors"
	"fmt"
	"net/url"
	"testing"

	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// rig is a shelf of one of our kinds, whose statuses nobody writes.
type rig struct {
	*shelf
	t *testing.T
}

func newRig(t *testing.T, name string) *rig {
	kind, _ := model.KindOf(model.APIVersion, name)
	s := newMirror().shelf(kind)
	s.status = newStatusWriter("lab", zap.NewNop())
	return &rig{s, t}
}

func (r *rig) document(text string) *document {
	r.t.Helper()
	d := &document{}
	if err := d.UnmarshalJSON([]byte(text)); err != nil {
		r.t.Fatal(err)
	}
	return d
}

// sees is what a watch shows.
func (r *rig) sees(text string) {
	r.t.Helper()
	if err := r.Update(r.document(text)); err != nil {
		r.t.Fatal(err)
	}
}

// lists is what a list shows.
func (r *rig) lists(text string) {
	r.t.Helper()
	if err := r.Replace([]any{r.document(text)}, "1"); err != nil {
		r.t.Fatal(err)
	}
}

// judge publishes a word on the form that control has.
func (r *rig) judge(name string, s source.Status) {
	s.Object = r.good[r.key(name)]
	r.status.publish(source.Report{Node: "lab", Epoch: 1, Statuses: []source.Status{s}})
}

func (r *rig) key(name string) model.Key { return model.Key{Kind: r.kind.Name, Name: name} }

// writes expects a word to be due on an object, and says that it was written.
func (r *rig) writes(name string, want *entry) {
	r.t.Helper()
	w, key := r.status, r.key(name)
	e, at := w.words[key], w.there[key]
	if !w.due(key) || (e == nil) != (want == nil) || e != nil && (e.Applied != want.Applied ||
		e.ObservedGeneration != want.ObservedGeneration) {
		r.t.Fatalf("due: %t, %+v; want %+v", w.due(key), e, want)
	}
	w.wrote(key, at, e)
	r.quiet(name)
}

// quiet expects nothing to be due on an object.
func (r *rig) quiet(name string) {
	r.t.Helper()
	if r.status.due(r.key(name)) {
		r.t.Fatalf("due: %+v where there is %+v", r.status.words[r.key(name)], r.status.there[r.key(name)])
	}
}

func applied(generation int64) *entry {
	return &entry{Applied: metav1.ConditionTrue, ObservedGeneration: generation}
}

func refused(generation int64) *entry {
	return &entry{Applied: metav1.ConditionFalse, ObservedGeneration: generation}
}

func config(name, uid, spec, status string) string {
	return fmt.Sprintf(`{"apiVersion":"viaduct.dev/v1alpha1","kind":"NodeConfig","metadata":{"name":%q,"uid":%q,`+
		`"generation":1},"spec":%s,"status":%s}`, name, uid, spec, status)
}

// elsewhere is a Route that does not concern the node, which the source cannot know.
func elsewhere(generation int, destination, status string) string {
	return fmt.Sprintf(`{"apiVersion":"viaduct.dev/v1alpha1","kind":"Route","metadata":{"name":"r","generation":%d},`+
		`"spec":{"nodeSelector":{"zone":"elsewhere"},"type":"blackhole","destination":%q},"status":%s}`,
		generation, destination, status)
}

func said(applied string, generation int) string {
	return fmt.Sprintf(`{"nodes":[{"name":"lab","applied":%q,"observedGeneration":%d}]}`, applied, generation)
}

// TestWordOnDefault: it is an object for many nodes, of which none says that it has it, and whose refusals stay.
func TestWordOnDefault(t *testing.T) {
	r := newRig(t, "NodeConfig")
	r.lists(config("default", "1", `{}`, `{}`))
	r.judge("default", source.Status{Applied: true})
	r.quiet("default")
	r.judge("default", source.Status{Message: "no"})
	p := patchOf(r.key("default"), r.status.there[r.key("default")], r.status.words[r.key("default")])
	if len(p.Status.Conditions) > 0 || len(p.Status.Nodes) != 1 {
		t.Errorf("it says %+v", p.Status)
	}
	r.writes("default", refused(1))
	r.sees(config("default", "1", `{}`, `{"nodes":[{"name":"lab","applied":"False","message":"no",
		"observedGeneration":1},{"name":"other","applied":"False"}]}`))
	r.quiet("default")
	r.judge("default", source.Status{Gone: true})
	r.writes("default", nil)
}

// TestWordOnAnotherNodes: what a node said of an object that is another's by now is taken back.
func TestWordOnAnotherNodes(t *testing.T) {
	r := newRig(t, "NodeConfig")
	r.lists(config("other", "1", `{}`, said("True", 1)))
	r.writes("other", nil)
	r.judge("other", source.Status{Applied: true})
	r.quiet("other")
	r.sees(config("other", "1", `{}`, `{}`))
	if len(r.status.there)+len(r.status.words) > 0 {
		t.Errorf("of another node's object there are %v, %v", r.status.there, r.status.words)
	}
}

// TestWordOnRecreated: of an object that was deleted and made again while nobody looked the status is written again.
func TestWordOnRecreated(t *testing.T) {
	for name, c := range map[string]struct {
		uid, spec string
		news      bool // control judges it again
		quiet     bool
	}{
		"restored":     {"1", `{}`, false, false},
		"as it was":    {"2", `{}`, true, true},
		"in new words": {"2", `{"workers":2}`, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "NodeConfig")
			r.lists(config("lab", "1", `{}`, `{}`))
			r.mirror.take()
			r.judge("lab", source.Status{Applied: true})
			r.writes("lab", applied(1))
			late := r.good[r.key("lab")]
			r.lists(config("lab", c.uid, c.spec, `{}`))
			if _, news := r.mirror.take(); news != c.news {
				t.Errorf("control is told: %t", news)
			}
			if c.quiet { // until control says that this one is applied
				r.status.publish(source.Report{Statuses: []source.Status{{Object: late, Applied: true}}})
				r.quiet("lab")
				r.judge("lab", source.Status{Applied: true})
			}
			r.writes("lab", applied(1))
		})
	}
}

// TestRefusalCorrected: a refusal that was put right before it was written is not written, and one that was written is
// taken back, though control has nothing to say of the object.
func TestRefusalCorrected(t *testing.T) {
	r := newRig(t, "Route")
	r.sees(elsewhere(1, "10.0.0.1/8", `{}`))
	r.sees(elsewhere(2, "10.0.0.0/8", `{}`))
	r.quiet("r")
	r.sees(elsewhere(3, "10.0.0.1/8", `{}`))
	r.writes("r", refused(3))
	r.sees(elsewhere(4, "10.0.0.0/8", said("False", 3)))
	r.writes("r", nil)
	r.sees(elsewhere(4, "10.0.0.0/8", said("False", 3))) // what it was before we wrote
	r.writes("r", nil)
	r.sees(elsewhere(4, "10.0.0.0/8", `{}`))
	r.judge("r", source.Status{Message: "no"})
	r.writes("r", refused(4))
	r.judge("r", source.Status{Gone: true})
	r.writes("r", nil)
}

// TestRefusalUnderWay: what is taken back while it is being written is taken back afterwards.
func TestRefusalUnderWay(t *testing.T) {
	r := newRig(t, "Route")
	r.lists(elsewhere(1, "10.0.0.0/8", `{}`))
	r.judge("r", source.Status{Message: "no"})
	e, at := r.status.words[r.key("r")], r.status.there[r.key("r")]
	r.judge("r", source.Status{Gone: true})
	r.quiet("r")
	r.status.wrote(r.key("r"), at, e)
	r.writes("r", nil)
}

// TestWordError: the same trouble is the same text.
func TestWordError(t *testing.T) {
	const text = "API server a:6443: read tcp 192.0.2.1:6443: connection reset by peer"
	for _, from := range []string{"10.0.0.1:40000", "10.0.0.1:40001", "[2001:db8::1]:40000"} {
		err := &url.Error{Op: "Get", URL: "https://a:6443/api/v1/pods", Err: errors.New(
			"read tcp " + from + "->192.0.2.1:6443: connection reset by peer")}
		if got := wordError(fmt.Errorf("list: %w", err)); got != text {
			t.Errorf("from %s: %q", from, got)
		}
	}
	const bare = "http2: server sent GOAWAY and closed the connection; LastStreamID=%d, ErrCode=NO_ERROR"
	if a, b := wordError(fmt.Errorf(bare, 7)), wordError(fmt.Errorf(bare, 19)); a != b {
		t.Errorf("%q, and then %q", a, b)
	}
}
