// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"time"
)

// entry is an attachment and how it came by its addresses. It does not change.
type entry struct {
	Attachment
	asked []netip.Addr
	pools []netip.Prefix // by the index of the address that was leased from it; none of a delegated attachment
}

// newEntry has one spelling for what is the same.
func newEntry(a Attachment, asked []netip.Addr) *entry {
	e := &entry{Attachment: a.clone(), asked: inOrder(asked)}
	if len(e.MAC) == 0 {
		e.MAC = nil
	}
	e.HostPorts = portsInOrder(e.HostPorts)
	return e
}

// book decides. It does no I/O: what is to be on disk is in changes. It is the writer's alone.
type book struct {
	space
	entries map[Key]*entry
	ports   map[string]*entry
	changes []change
	touched []Key // of entries that came or went with changes
}

func newBook() *book {
	return &book{space: newSpace(), entries: map[Key]*entry{}, ports: map[string]*entry{}}
}

// add is Store.Add.
func (b *book) add(a Attachment, asked []netip.Addr, now time.Time) (added *entry, created bool, err error) {
	if !a.Key.valid() {
		return nil, false, ErrKey
	}
	e := newEntry(a, asked)
	before := b.entries[e.Key]
	if before != nil && before.sameWords(e) {
		return before, false, nil
	}
	if err := b.address(e, before); err != nil {
		return nil, false, err
	}
	if err := b.mayTake(e, before); err != nil {
		return nil, false, err
	}
	e.Port, e.Created = b.portName(e, before), now.Round(0).UTC()
	record, err := encode(e)
	if err != nil {
		return nil, false, err
	}
	if before != nil {
		b.drop(before)
	}
	b.keep(e, record)
	return e, true, nil
}

// remove is Store.Remove.
func (b *book) remove(keys []Key) (removed []*entry) {
	for _, key := range keys {
		if e := b.entries[key]; e != nil {
			b.drop(e)
			removed = append(removed, e)
		}
	}
	return removed
}

// sameWords says whether two attachments were asked for in the same words.
func (e *entry) sameWords(other *entry) bool {
	a := other.Attachment
	a.Port, a.Addresses, a.Created = e.Port, e.Addresses, e.Created
	return reflect.DeepEqual(a, e.Attachment) && slices.Equal(e.asked, other.asked)
}

// keep makes an entry one of the book's.
func (b *book) keep(e *entry, record []byte) {
	b.entries[e.Key], b.ports[e.Port] = e, e
	for _, address := range e.Addresses {
		if place := b.hold(address, e); place != 0 {
			b.changes = append(b.changes, forgetGiven(place))
		}
	}
	b.note(e.Key, storeEntry(e.Key, record))
}

// drop gives an entry's addresses back. Of a delegated attachment those come to the end of the order that a pool would
// lease; else they are nobody's business here.
func (b *book) drop(e *entry) {
	delete(b.entries, e.Key)
	delete(b.ports, e.Port)
	for _, address := range e.Addresses {
		if e.Delegated && b.owner(address) == nil {
			delete(b.held, address)
			continue
		}
		b.changes = append(b.changes, storeGiven(given{address, b.release(address)}))
	}
	b.note(e.Key, forgetEntry(e.Key))
}

func (b *book) note(key Key, c change) {
	b.changes, b.touched = append(b.changes, c), append(b.touched, key)
}

// portName finds a name for the port of e, which comes where before is; before may be nil.
func (b *book) portName(e, before *entry) string {
	name := head(e.Container, 12)
	if e.PodNamespace != "" && e.PodName != "" {
		name = e.PodNamespace + "/" + e.PodName
	}
	if e.Interface != "eth0" {
		name += ":" + e.Interface
	}
	free := func(name string) bool { return b.ports[name] == nil || b.ports[name] == before }
	if free(name) {
		return name
	}
	name += "@" + head(e.Container, 8)
	for n, first := 2, name; !free(name); n++ {
		name = first + "-" + strconv.Itoa(n)
	}
	return name
}

// head returns the first n characters of text.
func head(text string, n int) string {
	for i := range text {
		if n == 0 {
			return text[:i]
		}
		n--
	}
	return text
}
