// SPDX-License-Identifier: Apache-2.0

package xsk

import "errors"

// ErrGone says that the queue's device no longer exists, or has left the network namespace. It never comes back: close
// the queue and open another one.
var ErrGone = errors.New("device is gone")

// Statistics are the kernel's counters of a socket (struct xdp_statistics, linux/if_xdp.h), and after them our own.
type Statistics struct {
	RxDropped       uint64 // packets dropped for other reasons: no frame to receive into, too large
	RxInvalid       uint64 // invalid descriptors on the fill ring
	TxInvalid       uint64 // invalid descriptors on the tx ring
	RxRingFull      uint64 // packets dropped because the rx ring was full
	FillRingEmpty   uint64 // times the kernel found the fill ring empty
	TxRingEmpty     uint64 // times the kernel found the tx ring empty
	TxDropped       uint64 // packets that the device refused: dropped, and completed (EBUSY)
	TxAgain         uint64 // times that transmission stopped until the device takes more (EAGAIN, ENOBUFS)
	TxError         uint64 // transmissions that failed for any other reason
	Down            uint64 // times that the device was found down (ENETDOWN)
	RefusedOnSend   uint64 // packets given to Send that the kernel would not have taken, returned by Completed
	RefusedOnReturn uint64 // packets dropped because what the kernel said about them cannot be true
}

// Info says what a queue is.
type Info struct {
	Backend        string // "xsk", "memory" or "asavie"
	Device         string // name when opened
	IfIndex        int
	QueueID        int
	ZeroCopy       bool // the driver reads and writes the UMEM itself
	MultiBuffer    bool // packets may have several frames
	TxChecksum     bool // TxMetadata and PutTxChecksum work; else complete checksums before Send
	BusyPoll       bool // preferred busy polling was asked for and accepted
	HugePages      bool
	RxSize         int // entries
	TxSize         int
	FillSize       int
	CompletionSize int
	MaxFrames      int // frames of the longest packet that Send takes
}
