// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The way to userspace: the trunk's inner device, in the queue of the packet's flow, with the PortID in the source MAC.
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "shared.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct trunk);
	__uint(max_entries, 1);
} trunk SEC(".maps");

// A MAC address that stands for a port on the trunk: 02:76:64 and the PortID.
struct port_mac {
	__u8 prefix[3];
	__u8 id[3]; // big endian
};

_Static_assert(sizeof(struct port_mac) == ETH_ALEN, "a MAC address");

static __always_inline struct port_mac mac_of(__u32 port)
{
	return (struct port_mac){{0x02, 0x76, 0x64}, {port >> 16, port >> 8, port}};
}

// is_router says whether a MAC address, at an even place, is that of no port: by which stations know the dataplane.
static __always_inline int is_router(const void *mac)
{
	const __u16 *word = mac;

	return word[0] == bpf_htons(0x0276) && word[1] == bpf_htons(0x6400) && !word[2];
}

// the_trunk is NULL where packets cannot go to userspace.
static __always_inline const struct trunk *the_trunk(void)
{
	__u32 zero = 0;
	const struct trunk *t = bpf_map_lookup_elem(&trunk, &zero);

	return t && t->ifindex && t->queues ? t : NULL;
}

// is_discovery: without an answer to it a port would be lost that has nothing else to do with a worker. ARP has no
// flow; of ICMPv6 echoes alone have ports.
static __always_inline int is_discovery(const struct flow *f)
{
	return !(f->src[0] | f->src[1]) || (f->proto == IPPROTO_ICMPV6 && !f->src_port);
}

// queue_of is the queue of a flow's packets, any where there is no trunk. What has no flow is spread by port, so that
// not all of it meets one worker; another one takes neighbour discovery while that hangs.
static __always_inline __u32 queue_of(const struct flow_control *c, const struct trunk *t, const struct flow *f,
				      __u32 port)
{
	__u32 queue;

	if (!t)
		return 0;
	queue = f->src[0] | f->src[1] ? (__u64)flow_hash(f) * t->queues >> 32 : port % t->queues;
	if (c && c->hung & QUEUE_BIT(queue) && is_discovery(f))
		queue = (queue + 1) % t->queues;
	return queue;
}

// into_trunk sends a marked packet to userspace and returns the action. The queue that is recorded as the one of
// reception is the one that it is sent in (net/core/dev.c, skb_tx_hash), unless the socket that it comes from remembers
// another one (netdev_pick_tx): a connected UDP socket, which sends elsewhere too, keeps the queue of its first packet.
static __always_inline int into_trunk(struct __sk_buff *skb, const struct trunk *t, __u32 queue)
{
	skb->queue_mapping = queue + 1;
	return bpf_redirect(t->ifindex, 0);
}
