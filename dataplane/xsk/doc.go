// SPDX-License-Identifier: Apache-2.0

/*
Package xsk moves packets between the kernel and userspace by AF_XDP sockets.

# Frames and their four owners

A UMEM is memory cut into chunks of equal size, the frames. A frame is named by its offset in the UMEM, and any offset
inside a frame names it too. At any time it has exactly one owner:

	         Fill                    the kernel puts a packet in
	caller ───────► fill ring ─────────────────────────────────► rx ring
	  ▲ ▲                                                           │ Receive
	  │ └───────────────────────────────────────────────────────────┘
	  │  Completed                     the kernel has sent it
	  └──────────── completion ring ◄─────────────────────────────── tx ring ◄─── Send ── caller

The caller keeps those that it does not use in a Pool. A queue writes its number into one byte for each frame that it is
given, and clears it when it gives the frame back; Close sweeps these bytes. Therefore no frame is lost with a device
that vanishes, wherever the kernel had it, and a wrong address on a ring of the kernel's is noticed before it is used.
Built with -tags viaduct_debug, the same bytes make Fill, Send and Pool.Put panic for a frame that is not the caller's.

Three queues share the rings and this accounting: Socket, Memory, which has a test or a replay at its other side, and
the one of package asavie, a Memory whose other side is a socket of github.com/asavie/xdp.

# What the kernel does

As of Linux 6.18; files are in net/xdp unless said otherwise.

  - Each (device, queue) has its own fill and completion ring, also when the UMEM is shared; to share it, bind needs a
    socket that is still bound, and takes its flags (xsk_bind in xsk.c, xp_assign_dev_shared in xsk_buff_pool.c). When
    all devices of a UMEM have vanished, the next socket registers the memory again. Zero copy and copy mode, and
    packets of one frame and of several, do not mix in one registration, but the same memory may be registered
    repeatedly.
  - The data of a received packet starts behind XDP_PACKET_HEADROOM (256) bytes and the UMEM's own headroom, in each of
    its frames (xp_alloc in xsk_buff_pool.c, __xsk_rcv in xsk.c). All of a packet's descriptors are published at once.
  - In copy mode packets are transmitted inside sendto, in the context of the caller, at most XDP_MAX_TX_SKB_BUDGET
    (32 unless set) a call, then EAGAIN; EAGAIN too while the completion ring or the send buffer is full. EBUSY: the
    device refused a packet, which is dropped and completed (__xsk_generic_xmit in xsk.c).
  - ENETDOWN says that the device is not up; packets on the tx ring wait. ENXIO says that the socket is not bound any
    more, for the device was unregistered (xsk_check_common and xsk_notifier in xsk.c). poll does not report the
    latter, so an idle queue finds out by Statistics or after 255 calls of Flush that had nothing to do.
  - A descriptor that the kernel finds invalid is skipped and its frame never completed (xskq_cons_read_desc in
    xsk_queue.h), and metadata that it finds invalid stops the ring (xsk_skb_metadata in xsk.c). Send lets neither by.
  - A packet to send has at most 18 frames in copy mode: MAX_SKB_FRAGS and one (xsk_build_skb in xsk.c).
  - With TX metadata each frame to send, the first or not, leaves its length free (xp_aligned_validate_desc in
    xsk_queue.h). The checksum flag makes the skb CHECKSUM_PARTIAL: a veth hands the packet on as if it had been summed,
    a NIC sums it. With zero copy it is up to the driver, which the kernel is asked about (NETDEV_CMD_DEV_GET).
  - A queue is free again when the closed socket's last packet in flight is freed (xsk_destruct in xsk.c); bind says
    EBUSY until then, and Open waits.
  - veth has no zero copy, and no NAPI ID on the frames it redirects, so busy polling does nothing there
    (drivers/net/veth.c).

# Raw system calls

sendto and recvfrom are made without telling Go's scheduler. For a call with nothing to send that is 143 ns instead of
176 (BenchmarkKick; 2-core VM, Linux 6.18). More weighty is that a worker keeps its P: the scheduler takes the P away
from a thread that is in an announced system call for longer than 20 µs, as one that sends 64 packets is, and the worker
then waits for one while other goroutines run. The price is that a stop of the world waits for the call to return, some
350 ns for each packet of the batch and no longer; and that a worker occupies one of GOMAXPROCS for good, so that there
should be one more of these than workers.
*/
package xsk
