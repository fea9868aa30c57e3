// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// origins are the texts that say where objects came from. An object's has an index for as long as something in the
// snapshot is of it, whatever becomes of the text: that changes when a file is edited above the object.
type origins struct {
	pool    pool
	byKey   map[model.Key]*origin
	touched map[model.Key]struct{}
}

type origin struct {
	index uint32
	refs  int
	text  string
	said  string // the text that the snapshot has; empty: none yet
}

func newOrigins() origins {
	return origins{byKey: map[model.Key]*origin{}, touched: map[model.Key]struct{}{}}
}

// refer counts a reference to the object's origin, and returns its index.
func (l *origins) refer(o *model.Object) uint32 {
	entry := l.byKey[o.Key]
	if entry == nil {
		entry = &origin{index: l.pool.take()}
		l.byKey[o.Key] = entry
	}
	entry.refs++
	entry.text = o.Origin()
	l.touched[o.Key] = struct{}{}
	return entry.index
}

// forget takes a reference back.
func (l *origins) forget(key model.Key) {
	l.byKey[key].refs--
	l.touched[key] = struct{}{}
}

// compile enters what changed.
func (l *origins) compile(d *api.Delta) {
	for key := range l.touched {
		switch entry := l.byKey[key]; {
		case entry.refs == 0:
			delete(l.byKey, key)
			l.pool.release(entry.index)
			if entry.said != "" {
				d.RemovedOrigins = append(d.RemovedOrigins, entry.index)
			}
		case entry.text != entry.said:
			if d.Origins == nil {
				d.Origins = map[uint32]string{}
			}
			d.Origins[entry.index] = entry.text
			entry.said = entry.text
		}
	}
	slices.Sort(d.RemovedOrigins)
	l.touched = map[model.Key]struct{}{} // a cleared map costs as much to walk as when it was full
	l.pool.rest(d.GetSet().GetEpoch())
	l.pool.acked(d.GetSet().GetEpoch()) // a delta says which texts change, and nothing is remembered by their indices
}
