// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// txMetadataLen is the size of struct xsk_tx_metadata (linux/if_xdp.h): flags, csum_start, csum_offset, launch_time.
// Kernels before 6.15 have no launch_time and accept the longer length too.
const txMetadataLen = 24

// TxMetadataLen is the number of bytes that a packet to be sent must leave free before it in its first frame when the
// queue has TX checksums: Info.TxChecksum. Its later frames must leave as much.
const TxMetadataLen = txMetadataLen

// PutTxChecksum asks for the checksum of a packet to be completed on transmission. The packet starts at frame[start],
// start being at least TxMetadataLen. csumStart is where summing starts (the transport header) and csumOffset where
// the 16-bit sum is stored, counted from csumStart; the field must hold the folded, not complemented sum of the pseudo
// header, and csumStart+csumOffset+2 must be within the packet's first frame.
//
// It writes struct xsk_tx_metadata before the packet. The packet's first descriptor needs TxMetadata in its options.
func PutTxChecksum(frame []byte, start int, csumStart, csumOffset uint16) {
	meta := frame[start-txMetadataLen : start : start]
	binary.NativeEndian.PutUint64(meta[0:], unix.XDP_TXMD_FLAGS_CHECKSUM)
	binary.NativeEndian.PutUint16(meta[8:], csumStart)
	binary.NativeEndian.PutUint16(meta[10:], csumOffset)
	clear(meta[12:])
}

// txChecksum reads back what PutTxChecksum wrote before the packet at addr.
func txChecksum(u *UMEM, addr uint64) (csumStart, csumOffset int, ok bool) {
	start := int(addr & u.mask)
	if start < txMetadataLen {
		return 0, 0, false
	}
	meta := u.Frame(addr)[start-txMetadataLen : start]
	ok = binary.NativeEndian.Uint64(meta) == unix.XDP_TXMD_FLAGS_CHECKSUM
	return int(binary.NativeEndian.Uint16(meta[8:])), int(binary.NativeEndian.Uint16(meta[10:])), ok
}

// validTxMetadata says whether the kernel accepts the metadata before a packet (xsk_skb_metadata in net/xdp/xsk.c). At
// metadata that it refuses, the kernel stops transmitting with EINVAL for as long as the descriptor is on the ring.
func validTxMetadata(u *UMEM, d Desc) bool {
	start, offset, ok := txChecksum(u, d.Addr)
	return ok && start+offset+2 <= int(d.Len)
}

// completeChecksum does to the packet's bytes what a device does that is asked for the checksum (RFC 1071).
func completeChecksum(packet []byte, csumStart, csumOffset int) {
	sum := uint32(0)
	data := packet[csumStart:]
	for ; len(data) >= 2; data = data[2:] {
		sum += uint32(binary.BigEndian.Uint16(data))
	}
	if len(data) == 1 {
		sum += uint32(data[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	check := ^uint16(sum)
	if check == 0 {
		check = 0xffff // zero would say "no checksum" in UDP (RFC 768); both are the same number
	}
	binary.BigEndian.PutUint16(packet[csumStart+csumOffset:], check)
}
