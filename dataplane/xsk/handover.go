// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A UMEM and its sockets may be taken over by another process while the kernel goes on using them. Its side of it all
// is bound to the sockets' files, not to a process: whoever has these files maps the same rings, and with the UMEM's
// file the same frames. What else there is to know is who owns each frame, for some are on no ring: the kernel has them
// in hand. The two processes must not both use the queues: the one has stopped when the other begins.

// UMEMState is what there is to know of a UMEM beside its file.
type UMEMState struct {
	UMEMConfig
	Huge   bool
	Owners []byte // by chunk: 0 the caller, else the slot of a socket
}

// File is what another process maps. Nil: the memory is of no file, and stays this process's. It is the UMEM's to
// close.
func (u *UMEM) File() *os.File { return u.file }

// Config is what the UMEM was made with.
func (u *UMEM) Config() UMEMConfig {
	return UMEMConfig{Chunks: u.Chunks(), ChunkSize: u.ChunkSize(), Headroom: u.headroom}
}

// State is for a successor. The queues must be at rest.
func (u *UMEM) State() UMEMState {
	s := UMEMState{UMEMConfig: u.Config(), Huge: u.huge, Owners: make([]byte, len(u.owner))}
	for chunk, owner := range u.owner {
		if owner != poolOwns {
			s.Owners[chunk] = owner
		}
	}
	return s
}

// MapUMEM maps the memory of another process's UMEM, by a file that is the UMEM's from then on, unless there is an
// error. No chunk is to be used before Adopt and, of the pool, which is made before that, Pool.Adopt.
func MapUMEM(file *os.File, c UMEMConfig, huge bool) (*UMEM, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	size := (c.Chunks*c.ChunkSize + hugePage - 1) &^ (hugePage - 1)
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return nil, fmt.Errorf("map umem: %w", err)
	}
	if stat.Size != int64(size) { // what is behind a file's end is no memory
		return nil, fmt.Errorf("map umem: its file has %d bytes, not %d", stat.Size, size)
	}
	m, err := mapFile(file, size)
	if err != nil {
		return nil, fmt.Errorf("map umem: %w", err)
	}
	m.huge = huge
	_ = unix.Madvise(m.data, unix.MADV_POPULATE_WRITE)
	return c.over(m), nil
}

// Adopt says who owns the frames. The sockets that own some are to be adopted next, by AdoptSocket.
func (u *UMEM) Adopt(owners []byte) error {
	if len(owners) != len(u.owner) {
		return fmt.Errorf("adopt umem: owners of %d chunks, there are %d", len(owners), len(u.owner))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for slot, used := range u.slots {
		if used {
			return fmt.Errorf("adopt umem: queue %d uses it", slot)
		}
	}
	for chunk, owner := range owners {
		if owner > lastSlot {
			return fmt.Errorf("adopt umem: owner %d of chunk %d", owner, chunk)
		}
	}
	copy(u.owner, owners)
	return nil
}

// Adopt makes the pool hold every frame that is no socket's, but for those that contain the addresses of held: these
// are the caller's.
func (p *Pool) Adopt(held []uint64) error {
	u := p.umem
	mine := make([]bool, u.Chunks())
	for _, addr := range held {
		chunk := addr >> u.shift
		if chunk >= uint64(len(mine)) || u.owner[chunk] != callerOwns || mine[chunk] {
			return fmt.Errorf("adopt frames: %#x is not the caller's, or twice", addr)
		}
		mine[chunk] = true
	}
	p.frames = p.frames[:0]
	for chunk := len(mine) - 1; chunk >= 0; chunk-- {
		if frame := uint64(chunk) << u.shift; u.owner[chunk] == callerOwns && !mine[chunk] {
			p.frames = append(p.frames, frame)
			if debug {
				u.pass(frame, callerOwns, poolOwns, "adopt")
			}
		}
	}
	return nil
}

// SocketState is what there is to know of a socket beside its file.
type SocketState struct {
	Info
	Slot                          uint8
	AskedMultiBuffer, AskedChecks bool // of its registration
	Returned                      []uint64
	Own                           Statistics
}

// State is for a successor, which gets FD as well. The queue must be at rest, and the device be there.
func (s *Socket) State() (SocketState, error) {
	if s.gone || s.fd < 0 {
		return SocketState{}, ErrGone
	}
	if !s.fill.settled() || !s.rx.settled() || !s.tx.settled() || !s.completion.settled() {
		return SocketState{}, errors.New("a ring is in use")
	}
	return SocketState{
		Info: s.info, Slot: s.slot, AskedMultiBuffer: s.group.multiBuffer, AskedChecks: s.group.metadata,
		Returned: append([]uint64(nil), s.returned...), Own: s.statistics(),
	}, nil
}

// File is a copy of the socket's descriptor, for a successor.
func (s *Socket) File() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("copy socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// AdoptSocketFile is AdoptSocket for a socket's file, which is closed unless there is an error.
func AdoptSocketFile(u *UMEM, file *os.File, state SocketState) (*Socket, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("copy socket: %w", err)
	}
	s, err := AdoptSocket(u, fd, state)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return s, file.Close()
}

// AdoptSocket takes over a socket of a UMEM that was adopted. The file descriptor is the Socket's from then on, unless
// there is an error.
func AdoptSocket(u *UMEM, fd int, state SocketState) (*Socket, error) {
	s, err := adoptSocket(u, fd, state)
	if err != nil {
		return nil, fmt.Errorf("adopt socket of %s queue %d: %w", state.Device, state.QueueID, err)
	}
	return s, nil
}

func adoptSocket(u *UMEM, fd int, state SocketState) (*Socket, error) {
	c := SocketConfig{RxSize: state.RxSize, TxSize: state.TxSize, FillSize: state.FillSize,
		CompletionSize: state.CompletionSize}
	for _, size := range []int{c.RxSize, c.TxSize, c.FillSize, c.CompletionSize} {
		if err := checkSize(size); err != nil {
			return nil, err
		}
	}
	if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_XDP {
		return nil, fmt.Errorf("it is no AF_XDP socket: %w", errors.Join(err, unix.EINVAL))
	}
	if state.Slot < firstSlot || state.Slot > lastSlot || len(state.Returned) > state.TxSize {
		return nil, fmt.Errorf("slot %d, %d frames returned", state.Slot, len(state.Returned))
	}
	for _, addr := range state.Returned {
		if chunk := addr >> u.shift; chunk >= uint64(len(u.owner)) || u.owner[chunk] != state.Slot {
			return nil, fmt.Errorf("frame %#x is not its own", addr)
		}
	}
	group := registration{zeroCopy: state.ZeroCopy, multiBuffer: state.AskedMultiBuffer, metadata: state.AskedChecks}
	s := &Socket{fd: fd, copy: !state.ZeroCopy, group: group, info: state.Info, own: state.Own, rings: rings{
		umem: u, slot: state.Slot, multiBuffer: state.MultiBuffer, metadata: state.AskedChecks,
		maxFrames: max(1, state.MaxFrames), returned: append(make([]uint64, 0, c.TxSize), state.Returned...),
		txInvalid: state.Own.RefusedOnSend, rxInvalid: state.Own.RefusedOnReturn,
	}}
	if err := s.attachRings(&c); err != nil {
		s.unmap()
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.slots[s.slot] {
		s.unmap()
		return nil, fmt.Errorf("slot %d is in use", s.slot)
	}
	u.slots[s.slot] = true
	u.groups[group] = append(u.groups[group], s)
	return s, nil
}

// Leave lets go of a socket that is another process's, and of the rings, which are left as they are. Its frames are
// nobody's here.
func (s *Socket) Leave() error {
	if s.fd < 0 {
		return nil
	}
	s.umem.leave(s)
	s.unmap()
	err := unix.Close(s.fd)
	s.fd, s.gone = -1, true
	s.umem.freeSlot(s.slot)
	if err != nil {
		return fmt.Errorf("leave socket: %w", err)
	}
	return nil
}
