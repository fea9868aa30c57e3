// SPDX-License-Identifier: Apache-2.0

package xsk

// Desc is one frame of a packet on an rx or tx ring: struct xdp_desc of linux/if_xdp.h.
type Desc struct {
	Addr    uint64 // offset of the first byte in the UMEM
	Len     uint32 // bytes in this frame
	Options uint32
}

// Options of a Desc.
const (
	// Contd marks a packet that goes on in the next descriptor: XDP_PKT_CONTD.
	Contd uint32 = 1 << 0
	// TxMetadata says that struct xsk_tx_metadata stands before the packet: XDP_TX_METADATA. First frame only.
	TxMetadata uint32 = 1 << 1
)

// Queue is one receive and transmit queue over a UMEM: an AF_XDP socket, or memory. One goroutine uses it.
//
// A frame is always with exactly one of four owners: the fill ring (Fill), the rx ring until Receive, the caller, or
// the tx and completion rings (Send until Completed).
type Queue interface {
	// Fill offers frames for reception, by the address of their chunk, and returns how many were taken.
	Fill(frames []uint64) int
	// Receive takes up to len(descs) received descriptors; only whole packets: the last one never has Contd set.
	Receive(descs []Desc) int
	// Send queues descriptors for transmission and returns how many were taken; only whole packets.
	Send(descs []Desc) int
	// Completed takes back up to len(frames) transmitted frames, as addresses of their chunks.
	Completed(frames []uint64) int
	// Flush tells the kernel of queued work where it has asked to be told. It returns ErrGone when the device
	// vanished or went down for good, after which only Close is of use.
	Flush() error
	// FD is the descriptor to poll for received packets, -1 where there is none.
	FD() int
	// Statistics reads the kernel's counters of the socket.
	Statistics() (Statistics, error)
	// Info says what was got: driver mode, zero copy, ring sizes.
	Info() Info
	// Close releases the queue and hands every frame that it owned back, once, by chunk address.
	Close(release func(frame uint64)) error
}
