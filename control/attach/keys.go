// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"sync"

	"github.com/viaduct-net/viaduct/control/lease"
)

// keys are attachments that somebody works on: one at a time for each.
type keys struct {
	mu   sync.Mutex
	held map[lease.Key]*held
}

type held struct {
	turn chan struct{} // has one element while it is nobody's turn
	refs int           // of those who hold it or wait for it
}

func newKeys() keys { return keys{held: map[lease.Key]*held{}} }

// lock waits for the key. What it returns ends the turn; the error is the context's.
func (k *keys) lock(ctx context.Context, key lease.Key) (unlock func(), err error) {
	k.mu.Lock()
	h := k.held[key]
	if h == nil {
		h = &held{turn: make(chan struct{}, 1)}
		h.turn <- struct{}{}
		k.held[key] = h
	}
	h.refs++
	k.mu.Unlock()
	select {
	case <-h.turn:
		return func() { k.leave(key, h, true) }, nil
	case <-ctx.Done():
		k.leave(key, h, false)
		return nil, ctx.Err()
	}
}

// try takes the key if nobody has it or waits for it; nil: somebody does.
func (k *keys) try(key lease.Key) (unlock func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held[key] != nil {
		return nil
	}
	h := &held{turn: make(chan struct{}, 1), refs: 1}
	k.held[key] = h
	return func() { k.leave(key, h, true) }
}

func (k *keys) leave(key lease.Key, h *held, had bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if had {
		h.turn <- struct{}{}
	}
	if h.refs--; h.refs == 0 {
		delete(k.held, key)
	}
}

// idle waits until nobody has a key.
func (k *keys) idle() {
	for {
		k.mu.Lock()
		var first *held
		var key lease.Key
		for key, first = range k.held {
			break
		}
		if first == nil {
			k.mu.Unlock()
			return
		}
		first.refs++
		k.mu.Unlock()
		<-first.turn
		k.leave(key, first, true)
	}
}
