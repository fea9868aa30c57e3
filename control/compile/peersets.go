// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// peerSets are those that policies speak of: a set is in use while a policy refers to it. Which identities are in it is
// found once, when it is new; from then on those that come and go find the sets that they are in.
type peerSets struct {
	numbered[*peerSet]
	selectors selectors
	members   members
	fresh     []*thing[*peerSet]            // that have no number yet
	moved     map[*thing[*peerSet]]struct{} // whose members changed
	// former are the numbers of the sets of an earlier process, by what was in them: which selectors they were of, a
	// snapshot does not say. Nil after the first compilation.
	former map[string][]uint32
}

// peerSet is one of them.
type peerSet struct {
	peer               *model.Peer
	namespaces, labels selector
	filed              []posting    // under which selectors has it
	set                *api.PeerSet // as it is in the snapshot when it is new; nil afterwards
	added, removed     []uint32     // identities, since the last compilation
	noted              bool         // it is among the fresh, or was
}

func newPeerSets() peerSets {
	return peerSets{
		numbered:  numbered[*peerSet]{byContent: map[string]*thing[*peerSet]{}},
		selectors: selectors{},
		members:   newMembers(),
		moved:     map[*thing[*peerSet]]struct{}{},
	}
}

// resume takes over the numbers of a snapshot's sets.
func (l *peerSets) resume(list []*api.PeerSet) {
	l.pool = takenBy(list)
	l.former = map[string][]uint32{}
	for _, s := range list {
		content := setContent(s)
		l.former[content] = append(l.former[content], s.GetId())
	}
}

// take counts a reference to the set of the peer.
func (l *peerSets) take(peer *model.Peer) *thing[*peerSet] {
	t := l.refer(peerContent(peer), &peerSet{peer: peer})
	if !t.value.noted {
		t.value.noted = true
		l.fresh = append(l.fresh, t)
	}
	return t
}

// move has identities leave and enter the sets that there are.
func (l *peerSets) move(died []uint32, born []*api.Identity) {
	for _, number := range died {
		l.selectors.of(l.members.byNumber[number], func(t *thing[*peerSet]) {
			t.value.removed = append(t.value.removed, number)
			l.moved[t] = struct{}{}
		})
		l.members.remove(number)
	}
	for _, id := range born {
		l.selectors.of(id, func(t *thing[*peerSet]) {
			t.value.added = append(t.value.added, id.Id)
			l.moved[t] = struct{}{}
		})
		l.members.add(id)
	}
}

// number gives the sets that are new their members and their numbers.
func (l *peerSets) number() {
	for _, t := range l.fresh {
		s := t.value
		s.set = &api.PeerSet{Domains: s.peer.Domains}
		for _, b := range s.peer.Blocks {
			block := &api.PrefixSet{Prefix: prefixOf(b.Prefix)}
			for _, e := range b.Except {
				block.Except = append(block.Except, prefixOf(e))
			}
			s.set.Blocks = append(s.set.Blocks, block)
		}
		if s.peer.Kind == model.Pods || s.peer.Kind == model.Nodes {
			s.namespaces, s.labels = newSelector(s.peer.Namespaces), newSelector(s.peer.Selector)
			s.set.Identities = l.members.of(s)
			l.selectors.add(t)
		}
		if t.number = l.formerly(s.set); t.number == 0 {
			t.number = l.pool.take()
		}
		s.set.Id = t.number
	}
	l.fresh = nil
	for _, numbers := range l.former {
		for _, number := range numbers {
			l.pool.release(number)
		}
	}
	l.former = nil
}

// formerly is the number that a set with these members had; 0: there was none, or another set has it.
func (l *peerSets) formerly(s *api.PeerSet) uint32 {
	if l.former == nil {
		return 0
	}
	content := setContent(s)
	numbers := l.former[content]
	if len(numbers) == 0 {
		return 0
	}
	l.former[content] = numbers[1:]
	return numbers[0]
}

// enter enters sets that came and went, and those whose members changed.
func (l *peerSets) enter(d *api.Delta) {
	for _, t := range l.touched {
		if t.refs == 0 {
			l.selectors.remove(t)
			delete(l.moved, t)
		}
	}
	l.settle(func(t *thing[*peerSet]) {
		if !t.said {
			t.said = true
			d.Set.PeerSets = append(d.Set.PeerSets, t.value.set)
			t.value.set = nil
		}
	}, func(number uint32) { d.RemovedPeerSets = append(d.RemovedPeerSets, number) })
	for t := range l.moved {
		s := t.value
		slices.Sort(s.added)
		slices.Sort(s.removed)
		d.PeerSetChanges = append(d.PeerSetChanges, &api.PeerSetChange{Id: t.number, Added: s.added, Removed: s.removed})
		s.added, s.removed = nil, nil
	}
	l.moved = map[*thing[*peerSet]]struct{}{} // a cleared map costs as much to walk as when it was full
}

// selects says whether the identity is in the set. Nodes are in sets of nodes alone.
func (s *peerSet) selects(id *api.Identity) bool {
	if (id.Kind == api.Identity_KIND_NODE) != (s.peer.Kind == model.Nodes) {
		return false
	}
	if s.peer.Namespace != "" && s.peer.Namespace != id.Namespace {
		return false
	}
	return s.namespaces.matches(id.NamespaceLabels) && s.labels.matches(id.Labels)
}

// setContent is equal for sets with the same in them.
func setContent(s *api.PeerSet) string {
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(
		&api.PeerSet{Identities: s.GetIdentities(), Blocks: s.GetBlocks(), Domains: s.GetDomains()})
	if err != nil { // text that is not UTF-8, which no snapshot has
		return ""
	}
	return string(content)
}

// peerContent is equal for equal peers, and for no others.
func peerContent(p *model.Peer) string {
	content := appendText([]byte{byte(p.Kind)}, p.Namespace)
	for _, s := range []model.Selector{p.Namespaces, p.Selector} {
		content = binary.AppendUvarint(content, uint64(len(s)))
		for _, r := range s {
			content = appendTexts(append(appendText(content, r.Key), byte(r.Operator)), r.Values)
		}
	}
	content = binary.AppendUvarint(content, uint64(len(p.Blocks)))
	for _, b := range p.Blocks {
		content = appendPrefixes(content, append([]netip.Prefix{b.Prefix}, b.Except...))
	}
	return string(appendTexts(content, p.Domains))
}

func appendPrefixes(content []byte, list []netip.Prefix) []byte {
	content = binary.AppendUvarint(content, uint64(len(list)))
	for _, p := range list {
		content = appendText(append(content, byte(p.Bits())), string(p.Addr().AsSlice()))
	}
	return content
}
