// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// registration is what sockets that share one XDP_UMEM_REG have in common. The first socket's bind flags hold for all
// that share with it (xp_assign_dev_shared in net/xdp/xsk_buff_pool.c), and a zero-copy device cannot share with one in
// copy mode. The same memory may be registered once for each kind.
type registration struct {
	zeroCopy, multiBuffer, metadata bool
}

// flags are the bind flags of a socket that registers the memory.
func (g registration) flags() uint16 {
	flags := uint16(unix.XDP_USE_NEED_WAKEUP)
	if g.zeroCopy {
		flags |= unix.XDP_ZEROCOPY
	} else {
		flags |= unix.XDP_COPY
	}
	if g.multiBuffer {
		flags |= unix.XDP_USE_SG
	}
	return flags
}

// join opens a socket of the group, waiting while the queue is busy.
func (c *SocketConfig) join(slot uint8, group registration) (*Socket, error) {
	u := c.UMEM
	deadline := time.Now().Add(c.BindWait)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		u.mu.Lock()
		s, err := c.bind(slot, group)
		if err == nil {
			s.describe(c)
			u.groups[group] = append(u.groups[group], s)
		}
		u.mu.Unlock()
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return s, err
		}
		time.Sleep(wait)
	}
}

// bind makes a socket and binds it, sharing with a socket of the group that is still bound, or with none. The caller
// holds the UMEM's lock.
func (c *SocketConfig) bind(slot uint8, group registration) (*Socket, error) {
	for _, other := range c.UMEM.groups[group] {
		if other.info.IfIndex == c.IfIndex && other.info.QueueID == c.QueueID {
			continue // the kernel would share the fill ring too
		}
		s, err := c.newSocket(slot, group, false)
		if err != nil {
			return nil, err
		}
		err = bind(s.fd, c.IfIndex, c.QueueID, unix.XDP_SHARED_UMEM, other.fd)
		if err == nil {
			return s, nil
		}
		s.abandon()
		// EBADF: the device of the other socket vanished, and it with its binding (xsk_bind).
		if !errors.Is(err, unix.EBADF) {
			return nil, err
		}
	}
	s, err := c.newSocket(slot, group, true)
	if err != nil {
		return nil, err
	}
	if err := bind(s.fd, c.IfIndex, c.QueueID, group.flags(), 0); err != nil {
		s.abandon()
		return nil, err
	}
	return s, nil
}

func bind(fd, ifIndex, queueID int, flags uint16, sharedFD int) error {
	err := unix.Bind(fd, &unix.SockaddrXDP{
		Flags: flags, Ifindex: uint32(ifIndex), QueueID: uint32(queueID), SharedUmemFD: uint32(sharedFD),
	})
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// leave takes a socket off the list of those to share with.
func (u *UMEM) leave(s *Socket) {
	u.mu.Lock()
	defer u.mu.Unlock()
	group := u.groups[s.group]
	if i := slices.Index(group, s); i >= 0 {
		u.groups[s.group] = slices.Delete(group, i, i+1)
	}
}

// waitUnbound waits, at most a second, until no socket is bound to a queue, or the device is gone. The driver of a
// zero-copy queue lets go of its frames in a work item after close has returned (xp_put_pool in
// net/xdp/xsk_buff_pool.c). Until then a bind there fails with EBUSY, and so a socket that tries tells when it is over.
func waitUnbound(ifIndex, queueID int) {
	u, err := NewUMEM(UMEMConfig{Chunks: 1, ChunkSize: 4096})
	if err != nil {
		return
	}
	defer u.Close()
	c := SocketConfig{UMEM: u, IfIndex: ifIndex, QueueID: queueID, ZeroCopy: ZeroCopyOff, BindWait: time.Second,
		RxSize: 1, TxSize: 1, FillSize: 1, CompletionSize: 1}
	if s, err := Open(c); err == nil {
		_ = s.Close(nil)
	}
}

// deviceName asks the kernel for the name of a device.
func deviceName(fd, ifIndex int) (string, error) {
	request, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	request.SetUint32(uint32(ifIndex))
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, request); err != nil {
		return "", fmt.Errorf("device %d: %w", ifIndex, err)
	}
	return request.Name(), nil
}
