// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// Selectors and identities find each other by postings: both are filed under what an identity has, a namespace, a label
// or both, and what is filed under one of these is all that has to be matched. A selector is filed under the
// requirement by which the fewest find it.

// selector is a model.Selector over labels as identities have them.
type selector []requirement

type requirement struct {
	model.Requirement
	prefix string // "key="
}

func newSelector(of model.Selector) selector {
	s := make(selector, len(of))
	for i, r := range of {
		s[i] = requirement{r, r.Key + "="}
	}
	return s
}

// matches says whether the selector selects what has the labels, "key=value" and sorted.
func (s selector) matches(labels []string) bool {
	for i := range s {
		r := &s[i]
		at, _ := slices.BinarySearch(labels, r.prefix) // of all that begin so the key has one
		value, has := "", false
		if at < len(labels) {
			value, has = strings.CutPrefix(labels[at], r.prefix)
		}
		if !r.Matches(value, has) {
			return false
		}
	}
	return true
}

// posting is what selectors and identities are filed under. Empty fields are all namespaces, and all labels.
type posting struct {
	of        labeled
	namespace string // of pods
	label     string // "key=value"
}

// labeled is what has the label of a posting.
type labeled uint8

const (
	ofPods labeled = iota
	ofNodes
	ofNamespaces // that pods are of
)

// maxPairs bounds the pairs of a namespace and a label that a set is filed under: who writes a policy chooses how many
// of each it names, and there are as many pairs as the product.
const maxPairs = 256

// ways are the postings under which all that the set selects is found, by whichever of them. Of the postings of one way
// an identity has one at most.
func (s *peerSet) ways() (ways [][]posting) {
	of, namespaces := ofPods, []string{s.peer.Namespace}
	if s.peer.Kind == model.Nodes {
		of = ofNodes
	}
	for _, r := range s.namespaces {
		switch {
		case r.Operator != model.In:
		case r.Key == model.NamespaceLabel && r.Values[0] != "": // which each namespace has, with its name
			namespaces = r.Values
		default:
			ways = append(ways, r.postings(ofNamespaces, []string{""}))
		}
	}
	for _, r := range s.labels {
		if r.Operator == model.In {
			among := namespaces
			if len(among)*len(r.Values) > max(maxPairs, len(r.Values)) {
				among = []string{""}
			}
			ways = append(ways, r.postings(of, among))
		}
	}
	var all []posting
	for _, namespace := range namespaces {
		all = append(all, posting{of: of, namespace: namespace})
	}
	return append(ways, all)
}

func (r *requirement) postings(of labeled, namespaces []string) (list []posting) {
	for _, namespace := range namespaces {
		for _, value := range r.Values {
			list = append(list, posting{of, namespace, r.prefix + value})
		}
	}
	return list
}

// shortest is the way with the least behind it.
func shortest(ways [][]posting, length func(posting) int) []posting {
	best, least := 0, -1
	for i, way := range ways {
		n := 0
		for _, p := range way {
			n += length(p)
		}
		if least < 0 || n < least {
			best, least = i, n
		}
	}
	return ways[best]
}

// selectors are the sets that select by labels, by postings.
type selectors map[posting][]*thing[*peerSet]

func (l selectors) add(t *thing[*peerSet]) {
	s := t.value
	s.filed = shortest(s.ways(), func(p posting) int { return len(l[p]) })
	for _, p := range s.filed {
		l[p] = append(l[p], t)
	}
}

func (l selectors) remove(t *thing[*peerSet]) {
	for _, p := range t.value.filed {
		if list := slices.DeleteFunc(l[p], func(other *thing[*peerSet]) bool { return other == t }); len(list) > 0 {
			l[p] = list
		} else {
			delete(l, p)
		}
	}
	t.value.filed = nil
}

// of calls found with each set that the identity is in.
func (l selectors) of(id *api.Identity, found func(*thing[*peerSet])) {
	visit := func(p posting) {
		for _, t := range l[p] {
			if t.value.selects(id) {
				found(t)
			}
		}
	}
	if id.Kind == api.Identity_KIND_NODE {
		visit(posting{of: ofNodes})
		for _, label := range id.Labels {
			visit(posting{of: ofNodes, label: label})
		}
		return
	}
	for _, namespace := range []string{"", id.Namespace} {
		visit(posting{namespace: namespace})
		for _, label := range id.Labels {
			visit(posting{namespace: namespace, label: label})
		}
	}
	for _, label := range id.NamespaceLabels {
		visit(posting{of: ofNamespaces, label: label})
	}
}

// members are the identities that the snapshot has, and their numbers by postings, ascending. They are not filed under
// pairs of a namespace and a label: what has both is found by either.
type members struct {
	byNumber map[uint32]*api.Identity
	filed    map[posting][]uint32
}

func newMembers() members {
	return members{byNumber: map[uint32]*api.Identity{}, filed: map[posting][]uint32{}}
}

// postings are those of an identity.
func postings(id *api.Identity) []posting {
	if id.Kind == api.Identity_KIND_NODE {
		list := []posting{{of: ofNodes}}
		for _, label := range id.Labels {
			list = append(list, posting{of: ofNodes, label: label})
		}
		return list
	}
	list := make([]posting, 0, 2+len(id.Labels)+len(id.NamespaceLabels))
	list = append(list, posting{}, posting{namespace: id.Namespace})
	for _, label := range id.Labels {
		list = append(list, posting{label: label})
	}
	for _, label := range id.NamespaceLabels {
		list = append(list, posting{of: ofNamespaces, label: label})
	}
	return list
}

func (m *members) add(id *api.Identity) {
	m.byNumber[id.Id] = id
	for _, p := range postings(id) {
		list := m.filed[p]
		at, _ := slices.BinarySearch(list, id.Id)
		m.filed[p] = slices.Insert(list, at, id.Id)
	}
}

func (m *members) remove(number uint32) {
	for _, p := range postings(m.byNumber[number]) {
		list := m.filed[p]
		at, _ := slices.BinarySearch(list, number)
		if list = slices.Delete(list, at, at+1); len(list) > 0 {
			m.filed[p] = list
		} else {
			delete(m.filed, p)
		}
	}
	delete(m.byNumber, number)
}

// of are the identities that the set selects, ascending.
func (m *members) of(s *peerSet) (numbers []uint32) {
	way := shortest(alone(s.ways()), func(p posting) int { return len(m.filed[p]) })
	for _, p := range way {
		for _, number := range m.filed[p] {
			if s.selects(m.byNumber[number]) {
				numbers = append(numbers, number)
			}
		}
	}
	slices.Sort(numbers)
	return numbers
}

// alone has the labels of ways without namespaces: identities are not filed under both.
func alone(ways [][]posting) [][]posting {
	for i, way := range ways {
		if way[0].namespace == "" || way[0].label == "" {
			continue
		}
		way = slices.Clone(way)
		for j := range way {
			way[j].namespace = ""
		}
		slices.SortFunc(way, func(a, b posting) int { return strings.Compare(a.label, b.label) })
		ways[i] = slices.Compact(way)
	}
	return ways
}
