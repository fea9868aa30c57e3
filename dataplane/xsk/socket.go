// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// ZeroCopy says whether the driver is to read and write the UMEM itself.
type ZeroCopy uint8

const (
	// ZeroCopyAuto takes zero copy where the driver has it and copy mode otherwise.
	ZeroCopyAuto ZeroCopy = iota
	// ZeroCopyOff takes copy mode, which every driver has: the kernel copies packets to and from the UMEM.
	ZeroCopyOff
	// ZeroCopyOn takes zero copy or fails.
	ZeroCopyOn
)

const (
	defaultSize     = 2048
	defaultBindWait = 3 * time.Second

	// maxFrames is the number of frames of which the kernel makes one packet in copy mode: one in the skb's linear
	// part and MAX_SKB_FRAGS in pages (xsk_build_skb in net/xdp/xsk.c). It drops longer packets with EOVERFLOW.
	maxFrames = 18

	// sendBuffer is the socket's send buffer in bytes: in copy mode the skbs in flight are accounted to it, and
	// transmission stops with EAGAIN when it is full.
	sendBuffer = 64 << 20

	busyPollBudget = 64 // packets a busy poll may take
	busyPollTime   = 20 // microseconds
)

// SocketConfig describes an AF_XDP socket. Sizes are in entries, powers of two; 0 is 2048.
type SocketConfig struct {
	UMEM           *UMEM
	Device         string // name of the device, in the calling thread's network namespace; or
	IfIndex        int    // its index there
	QueueID        int
	RxSize         int
	TxSize         int
	FillSize       int
	CompletionSize int // at least TxSize is wise: a packet is sent only when the ring has room for its frames
	ZeroCopy       ZeroCopy
	MultiBuffer    bool // packets of several frames: XDP_USE_SG; the XDP program must know of frags
	TxChecksum     bool // ask for PutTxChecksum; Info says whether it was got
	BusyPoll       bool // preferred busy polling; only NICs with NAPI IDs gain from it
	// BindWait is how long Open waits for a queue that another socket still has, 0 for 3 seconds: the kernel frees a
	// closed socket's queue when its last packet in flight is freed.
	BindWait time.Duration
}

// Socket is an AF_XDP socket. It is a Queue.
type Socket struct {
	rings
	fd    int
	copy  bool
	group registration
	info  Info
	gone  bool
	idle  uint8 // Flush calls without a system call, modulo 256

	own Statistics // those counters that are ours
}

var _ Queue = (*Socket)(nil)

// Open makes a socket and binds it to a device's queue. It receives once it is put in an XSKMAP by its FD and that an
// XDP program redirects to it.
//
// A device or queue that does not exist gives ENODEV or EINVAL, one that another socket keeps EBUSY, zero copy that the
// driver lacks EOPNOTSUPP, all wrapped.
func Open(c SocketConfig) (*Socket, error) {
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	u := c.UMEM
	u.mu.Lock()
	slot, err := u.takeSlot()
	u.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	s, err := c.open(slot)
	if err != nil {
		u.freeSlot(slot)
		return nil, fmt.Errorf("open socket on %s queue %d: %w", c.Device, c.QueueID, err)
	}
	return s, nil
}

// complete checks the configuration and fills what was left out.
func (c *SocketConfig) complete() error {
	if c.UMEM == nil {
		return errors.New("no umem")
	}
	for _, size := range []*int{&c.RxSize, &c.TxSize, &c.FillSize, &c.CompletionSize} {
		if *size == 0 {
			*size = defaultSize
		}
		if err := checkSize(*size); err != nil {
			return err
		}
	}
	if c.BindWait == 0 {
		c.BindWait = defaultBindWait
	}
	if c.QueueID < 0 {
		return fmt.Errorf("queue %d", c.QueueID)
	}
	return c.findDevice()
}

// findDevice completes the name from the index or the index from the name.
func (c *SocketConfig) findDevice() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("find device: %w", err)
	}
	defer unix.Close(fd)
	if c.IfIndex == 0 {
		request, err := unix.NewIfreq(c.Device)
		if err != nil {
			return fmt.Errorf("device name %q: %w", c.Device, err)
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
			return fmt.Errorf("device %s: %w", c.Device, err)
		}
		c.IfIndex = int(request.Uint32())
		return nil
	}
	if c.Device == "" {
		c.Device, err = deviceName(fd, c.IfIndex)
	}
	return err
}

// open tries zero copy and copy mode as configured.
func (c *SocketConfig) open(slot uint8) (*Socket, error) {
	group := registration{multiBuffer: c.MultiBuffer, metadata: c.TxChecksum}
	if c.ZeroCopy != ZeroCopyOff {
		group.zeroCopy = true
		s, err := c.join(slot, group)
		if err == nil || c.ZeroCopy == ZeroCopyOn {
			return s, err
		}
	}
	group.zeroCopy = false
	return c.join(slot, group)
}

// newSocket makes the socket and sets everything up that comes before bind. first says that it registers the memory.
func (c *SocketConfig) newSocket(slot uint8, group registration, first bool) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	s := &Socket{fd: fd, copy: !group.zeroCopy, group: group, rings: rings{
		umem: c.UMEM, slot: slot, multiBuffer: c.MultiBuffer, metadata: c.TxChecksum, maxFrames: maxFrames,
		returned: make([]uint64, 0, c.TxSize),
	}}
	if first {
		err = registerMemory(fd, c.UMEM.chunkMemory(), int(c.UMEM.size), c.UMEM.headroom, group.metadata)
		if err != nil {
			err = fmt.Errorf("register umem: %w", err)
		}
	}
	if err == nil {
		err = s.mapRings(c)
	}
	if err != nil {
		s.abandon()
		return nil, err
	}
	s.tune(c)
	return s, nil
}

// abandon closes a socket that owns no frames yet.
func (s *Socket) abandon() {
	s.unmap()
	_ = unix.Close(s.fd)
}

// unmap drops the rings, whose mappings would keep the socket open (xsk_mmap in net/xdp/xsk.c).
func (s *Socket) unmap() {
	s.fill.close()
	s.rx.close()
	s.tx.close()
	s.completion.close()
}

// mapRings sizes the four rings and maps them.
func (s *Socket) mapRings(c *SocketConfig) error {
	for _, ring := range []struct{ option, size int }{
		{unix.XDP_UMEM_FILL_RING, c.FillSize}, {unix.XDP_UMEM_COMPLETION_RING, c.CompletionSize},
		{unix.XDP_RX_RING, c.RxSize}, {unix.XDP_TX_RING, c.TxSize},
	} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_XDP, ring.option, ring.size); err != nil {
			return fmt.Errorf("make ring of %d entries: %w", ring.size, err)
		}
	}
	return s.attachRings(c)
}

// attachRings maps the rings that the socket has.
func (s *Socket) attachRings(c *SocketConfig) error {
	var off unix.XDPMmapOffsets
	err := getsockopt(s.fd, unix.XDP_MMAP_OFFSETS, &off)
	if err != nil {
		return fmt.Errorf("ring offsets: %w", err)
	}
	if s.fill, err = mapRing[uint64](s.fd, unix.XDP_UMEM_PGOFF_FILL_RING, c.FillSize, off.Fr, producer); err != nil {
		return err
	}
	if s.rx, err = mapRing[Desc](s.fd, unix.XDP_PGOFF_RX_RING, c.RxSize, off.Rx, consumer); err != nil {
		return err
	}
	if s.tx, err = mapRing[Desc](s.fd, unix.XDP_PGOFF_TX_RING, c.TxSize, off.Tx, producer); err != nil {
		return err
	}
	s.completion, err = mapRing[uint64](s.fd, unix.XDP_UMEM_PGOFF_COMPLETION_RING, c.CompletionSize, off.Cr, consumer)
	return err
}

// tune sets the options without which the socket works too.
func (s *Socket) tune(c *SocketConfig) {
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	// How many descriptors one sendto takes in copy mode, 32 unless told (since 6.17, xsk_setsockopt).
	_ = unix.SetsockoptInt(s.fd, unix.SOL_XDP, unix.XDP_MAX_TX_SKB_BUDGET, c.TxSize)
	if c.BusyPoll {
		s.info.BusyPoll = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_PREFER_BUSY_POLL, 1) == nil &&
			unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_BUSY_POLL, busyPollTime) == nil &&
			unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_BUSY_POLL_BUDGET, busyPollBudget) == nil
	}
}

// describe fills in Info once the socket is bound.
func (s *Socket) describe(c *SocketConfig) {
	var options uint32
	zeroCopy := getsockopt(s.fd, unix.XDP_OPTIONS, &options) == nil && options&unix.XDP_OPTIONS_ZEROCOPY != 0
	s.copy = !zeroCopy
	txChecksum := c.TxChecksum
	if zeroCopy { // then it is the driver that makes packets of descriptors, and not the kernel
		driver, err := askDriver(c.IfIndex)
		txChecksum = txChecksum && err == nil && driver.txChecksum
		s.maxFrames = max(1, min(driver.maxSegments, maxFrames))
	}
	s.info = Info{
		Backend: "xsk", Device: c.Device, IfIndex: c.IfIndex, QueueID: c.QueueID,
		ZeroCopy: zeroCopy, MultiBuffer: c.MultiBuffer, BusyPoll: s.info.BusyPoll, HugePages: c.UMEM.huge,
		RxSize: c.RxSize, TxSize: c.TxSize, FillSize: c.FillSize, CompletionSize: c.CompletionSize,
		TxChecksum: txChecksum, MaxFrames: s.frameLimit(),
	}
}

// FD is the socket, to be put in an XSKMAP and polled for received packets. It belongs to the Socket.
func (s *Socket) FD() int { return s.fd }

// Info says what was got.
func (s *Socket) Info() Info { return s.info }

// Statistics reads the kernel's counters, and asks whether the device still exists: ErrGone if not.
func (s *Socket) Statistics() (Statistics, error) {
	if s.gone {
		return s.statistics(), ErrGone
	}
	var k unix.XDPStatistics
	if err := getsockopt(s.fd, unix.XDP_STATISTICS, &k); err != nil {
		return s.statistics(), fmt.Errorf("socket statistics: %w", err)
	}
	s.own.RxDropped, s.own.RxInvalid, s.own.TxInvalid = k.Rx_dropped, k.Rx_invalid_descs, k.Tx_invalid_descs
	s.own.RxRingFull, s.own.FillRingEmpty = k.Rx_ring_full, k.Rx_fill_ring_empty_descs
	s.own.TxRingEmpty = k.Tx_ring_empty_descs
	return s.statistics(), s.wake()
}

// statistics are the counters last read of the kernel, and ours.
func (s *Socket) statistics() Statistics {
	st := s.own
	st.RefusedOnSend, st.RefusedOnReturn = s.txInvalid, s.rxInvalid
	return st
}

// Close unbinds the socket and hands every frame back that it owned: on the fill ring, received and not taken, on the
// tx ring, in transmission, on the completion ring. With zero copy it first waits until the driver has let go of them.
func (s *Socket) Close(release func(frame uint64)) error {
	if s.fd < 0 {
		return nil
	}
	s.umem.leave(s)
	s.unmap()
	err := unix.Close(s.fd)
	s.fd, s.gone = -1, true
	if !s.copy {
		waitUnbound(s.info.IfIndex, s.info.QueueID)
	}
	s.closeRings(release)
	if err != nil {
		return fmt.Errorf("close socket: %w", err)
	}
	return nil
}
