// SPDX-License-Identifier: Apache-2.0

package policy

import "slices"

// member is an identity: the sets that it is in, ascending, and its class if it is one of a station of this node.
type member struct {
	sets  []uint32
	class *class
}

// members is the members by identity, in pages that the next table shares where nothing in them changes. Numbers of
// identities are small, since free ones are given out again: a page is found in one step.
type members struct {
	pages []*page
}

const (
	pageBits = 6
	// maxIdentity bounds the list of pages.
	maxIdentity = 1<<24 - 1
)

type page [1 << pageBits]member

var nobody member

// get returns a member, not to be changed; never nil.
func (m *members) get(id uint32) *member {
	if n := id >> pageBits; n < uint32(len(m.pages)) && m.pages[n] != nil {
		return &m.pages[n][id&(1<<pageBits-1)]
	}
	return &nobody
}

// memberEditor makes the next members.
type memberEditor struct {
	members
	own map[uint32]*member // as edited
}

func (e *memberEditor) get(id uint32) *member {
	if m := e.own[id]; m != nil {
		return m
	}
	return e.members.get(id)
}

// edit returns a member that may be changed, its list included.
func (e *memberEditor) edit(id uint32) *member {
	if m := e.own[id]; m != nil {
		return m
	}
	was := e.members.get(id)
	m := &member{append(make([]uint32, 0, len(was.sets)+1), was.sets...), was.class}
	if e.own == nil {
		e.own = map[uint32]*member{}
	}
	e.own[id] = m
	return m
}

// flush enters what was edited, and returns it all.
func (e *memberEditor) flush() members {
	if len(e.own) == 0 {
		return e.members
	}
	pages, own := slices.Clone(e.pages), map[uint32]bool{}
	for id, m := range e.own {
		n := id >> pageBits
		for uint32(len(pages)) <= n {
			pages = append(pages, nil)
		}
		if !own[n] {
			p := new(page)
			if pages[n] != nil {
				*p = *pages[n]
			}
			pages[n], own[n] = p, true
		}
		pages[n][id&(1<<pageBits-1)] = *m
	}
	return members{pages}
}
