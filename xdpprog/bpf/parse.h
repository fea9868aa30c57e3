// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Reading headers. A cursor stands at the first byte that was not read; take_* read one header and move it on, or
// return NULL and leave it where it is when the header does not fit into what is left.
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// 802.1Q and 802.1ad tags that may stand before a packet.
#define MAX_TAGS 2

struct cursor {
	void *pos;
	void *end;   // of the linear part: headers beyond it count as truncated
	__u32 taken; // bytes before pos; a difference of pointers is nothing the verifier can bound
};

// An 802.1Q tag, without the TPID before it.
struct vlan_tag {
	__be16 tci;
	__be16 proto;
};

// ARP for IPv4 over Ethernet, RFC 826.
struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target[4];
} __attribute__((packed));

// Neighbour solicitation and advertisement, RFC 4861 sections 4.3 and 4.4.
struct nd {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 flags;
	__u8 target[16];
};

#define ND_SOLICITATION	 135
#define ND_ADVERTISEMENT 136
#define ND_HOP_LIMIT	 255

_Static_assert(sizeof(struct arp_ipv4) == 28, "RFC 826");
_Static_assert(sizeof(struct nd) == 24, "RFC 4861");

static __always_inline struct cursor cursor_of(struct xdp_md *ctx)
{
	return (struct cursor){.pos = (void *)(long)ctx->data, .end = (void *)(long)ctx->data_end};
}

static __always_inline void *take(struct cursor *c, __u32 size)
{
	void *header = c->pos;

	if (header + size > c->end)
		return NULL;
	c->pos = header + size;
	c->taken += size;
	return header;
}

static __always_inline int is_tag(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}
