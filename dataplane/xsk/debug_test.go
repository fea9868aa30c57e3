// SPDX-License-Identifier: Apache-2.0

//go:build viaduct_debug

package xsk

import "testing"

// The debug build catches whoever uses a frame that is not his.
func TestDoubleOwnership(t *testing.T) {
	for _, test := range []struct {
		name string
		step func(p *Pool, a, b *Memory, frame uint64)
	}{
		{"put twice", func(p *Pool, _, _ *Memory, frame uint64) {
			p.Put(frame)
			p.Put(frame)
		}},
		{"fill twice", func(_ *Pool, a, _ *Memory, frame uint64) {
			a.Fill([]uint64{frame, frame})
		}},
		{"fill of two queues", func(_ *Pool, a, b *Memory, frame uint64) {
			a.Fill([]uint64{frame})
			b.Fill([]uint64{frame})
		}},
		{"send after fill", func(_ *Pool, a, b *Memory, frame uint64) {
			a.Fill([]uint64{frame})
			b.Send([]Desc{{Addr: frame + 256, Len: 60}})
		}},
		{"send twice", func(_ *Pool, a, _ *Memory, frame uint64) {
			a.Send([]Desc{{Addr: frame + 256, Len: 60}})
			a.Send([]Desc{{Addr: frame + 300, Len: 60}})
		}},
		{"put after send", func(p *Pool, a, _ *Memory, frame uint64) {
			a.Send([]Desc{{Addr: frame + 256, Len: 60}})
			p.Put(frame)
		}},
		{"send of a pooled frame", func(p *Pool, a, _ *Memory, frame uint64) {
			p.Put(frame)
			a.Send([]Desc{{Addr: frame + 256, Len: 60}})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			u, p := newUMEM(t, 16, 2048)
			a, b := newMemory(t, MemoryConfig{UMEM: u}), newMemory(t, MemoryConfig{UMEM: u})
			frame, _ := p.Get()
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			test.step(p, a, b, frame)
		})
	}
}
