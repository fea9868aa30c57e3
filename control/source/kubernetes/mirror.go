// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// mirror is what the API server has and is in force, and what of it is still to be said.
type mirror struct {
	changed chan struct{} // holds a token when take may have something

	mu      sync.Mutex
	shelves map[string]*shelf // by kind
	set     map[model.Key]*model.Object
	removed map[model.Key]struct{}
	errs    []*model.Error // in order; nil when they are to be collected again
	said    struct {
		whole   bool
		errs    bool // errs were said
		trouble string
	}
}

func newMirror() *mirror {
	return &mirror{
		changed: make(chan struct{}, 1),
		shelves: map[string]*shelf{},
		set:     map[model.Key]*model.Object{},
		removed: map[model.Key]struct{}{},
	}
}

// take returns what happened since the last take, and whether anything did.
func (m *mirror) take() (e source.Event, news bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.Trouble = m.trouble()
	news = e.Trouble != m.said.trouble
	m.said.trouble = e.Trouble
	if !m.said.whole && !m.complete() {
		return e, news
	}
	if m.said.whole {
		e.Set = slices.Collect(maps.Values(m.set))
	} else {
		e.Whole, e.Set = true, m.everything()
	}
	e.Removed = slices.Collect(maps.Keys(m.removed))
	news = news || e.Whole || len(e.Set)+len(e.Removed) > 0 || !m.said.errs
	e.Errors = m.errors()
	m.said.whole, m.said.errs = true, true
	clear(m.set)
	clear(m.removed)
	return e, news
}

// complete says whether each kind was listed, or is known not to be there.
func (m *mirror) complete() bool {
	for _, s := range m.shelves {
		if !s.filled {
			return false
		}
	}
	return true
}

// everything is called once: what was noted as removed before anything was said is nobody's business.
func (m *mirror) everything() []*model.Object {
	var all []*model.Object
	for _, s := range m.shelves {
		all = slices.AppendSeq(all, maps.Values(s.good))
	}
	clear(m.removed)
	return all
}

func (m *mirror) errors() []*model.Error {
	if m.said.errs {
		return m.errs
	}
	var errs []*model.Error
	for _, s := range m.shelves {
		errs = slices.AppendSeq(errs, maps.Values(s.bad))
	}
	slices.SortFunc(errs, func(a, b *model.Error) int { return a.Key.Compare(b.Key) })
	m.errs = errs
	return errs
}

// trouble names each trouble once, in the order of kinds.
func (m *mirror) trouble() string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(m.shelves)) {
		if t := m.shelves[kind].woe; t != "" && !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	return strings.Join(all, "; ")
}

func (m *mirror) wake() {
	select {
	case m.changed <- struct{}{}:
	default: // a token is there
	}
}
