// SPDX-License-Identifier: Apache-2.0

package xsk

// Pool keeps the frames of a UMEM that nobody uses. The last one put is the first one got, for it is the likeliest to
// be in the cache. One goroutine uses it; it never allocates.
type Pool struct {
	umem   *UMEM
	frames []uint64
}

// NewPool returns a pool that holds every chunk of the UMEM. A UMEM has one pool.
func NewPool(u *UMEM) *Pool {
	p := &Pool{umem: u, frames: make([]uint64, u.Chunks())}
	for i := range p.frames { // the lowest address is got first
		frame := uint64(len(p.frames)-1-i) << u.shift
		p.frames[i] = frame
		if debug {
			u.pass(frame, callerOwns, poolOwns, "new pool")
		}
	}
	return p
}

// Get takes a frame, by the address of its chunk, and says whether there was one.
func (p *Pool) Get() (uint64, bool) {
	n := len(p.frames)
	if n == 0 {
		return 0, false
	}
	frame := p.frames[n-1]
	p.frames = p.frames[:n-1]
	if debug {
		p.umem.pass(frame, poolOwns, callerOwns, "pool get")
	}
	return frame, true
}

// Put gives back the frame that contains addr.
func (p *Pool) Put(addr uint64) {
	frame := p.umem.ChunkOf(addr)
	if debug {
		p.umem.pass(frame, callerOwns, poolOwns, "pool put")
	}
	p.frames = append(p.frames, frame)
}

// GetN fills frames from its start and returns how many it got.
func (p *Pool) GetN(frames []uint64) int {
	n := min(len(frames), len(p.frames))
	for i := range frames[:n] {
		frames[i], _ = p.Get()
	}
	return n
}

// PutN gives back the frames that contain these addresses.
func (p *Pool) PutN(addrs []uint64) {
	for _, addr := range addrs {
		p.Put(addr)
	}
}

// Free is the number of frames in the pool.
func (p *Pool) Free() int { return len(p.frames) }
