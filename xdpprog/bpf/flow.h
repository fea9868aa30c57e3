// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The flow that a packet of a pod's belongs to. Headers are read by bpf_skb_load_bytes: the linear part of an skb may
// end anywhere, as with the frames of packet sockets.
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// What both directions of a flow have in common, as one of them sees it. Fragments have addresses only, the first one
// too, so that all of a packet go one way.
struct flow {
	__u64 src[2]; // network byte order; IPv4 in the first, zeros behind
	__u64 dst[2];
	__be16 src_port; // of an ICMP echo: the identifier, in both
	__be16 dst_port;
	__u8 proto; // 0 where ports are not told
};

// Extension headers that are looked behind.
#define MAX_EXTENSIONS 4

// The fields that all IPv6 extension headers share, and that of the fragment header: RFC 8200 sections 4.3 to 4.6.
struct extension {
	__u8 next;
	__u8 len;	 // in 8 bytes, less the first; none of a fragment header
	__be16 fragment; // offset, and whether more follow
};

// ICMP echo of both families: RFC 792, RFC 4443 section 4.
struct echo {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 identifier;
	__be16 sequence;
};

#define ICMP_ECHO_REPLY	    0
#define ICMP_ECHO_REQUEST   8
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY   129

#define IPV4_FRAGMENT	0x3fff // more fragments, and the offset: RFC 791
#define IPV4_OFFSET	0x1fff
#define IPV6_FRAGMENT	0xfff9 // RFC 8200 section 4.5
#define IPV6_OFFSET	0xfff8
#define FRAGMENT_HEADER 8

// read copies a header and says whether it was there. One at a place that is known beforehand is mostly in the linear
// part, where it is read without a call.
static __always_inline int read(struct __sk_buff *skb, __u32 at, void *header, __u32 size)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (__builtin_constant_p(at) && data + at + size <= end) {
		__builtin_memcpy(header, data + at, size);
		return 1;
	}
	return bpf_skb_load_bytes(skb, at, header, size) == 0;
}

static __always_inline int is_echo(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMP)
		return type == ICMP_ECHO_REQUEST || type == ICMP_ECHO_REPLY;
	return type == ICMPV6_ECHO_REQUEST || type == ICMPV6_ECHO_REPLY;
}

// read_transport fills in the protocol and the ports. What is cut keeps none.
static __always_inline void read_transport(struct __sk_buff *skb, __u32 at, __u8 proto, struct flow *f)
{
	struct echo echo;
	__be16 ports[2];

	f->proto = proto;
	switch (proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		if (read(skb, at, ports, sizeof(ports))) {
			f->src_port = ports[0];
			f->dst_port = ports[1];
		}
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (read(skb, at, &echo, sizeof(echo)) && is_echo(proto, echo.type))
			f->src_port = f->dst_port = echo.identifier;
		break;
	}
}

static __always_inline int is_extension(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_DSTOPTS ||
	       proto == IPPROTO_FRAGMENT;
}

// Where the transport header of an IP packet is.
struct transport {
	__u32 at;
	__be16 offset; // not 0: of a fragment behind the first, whose place in the packet it tells
	__u8 more;     // not 0: of a fragment, and others follow
	__u8 proto;
	__be32 id; // of a fragment
};

static __always_inline int is_fragment(const struct transport *t)
{
	return t->offset || t->more;
}

// find_fragment reads a fragment header. An atomic fragment (RFC 6946) is a whole packet.
static __always_inline int find_fragment(struct __sk_buff *skb, __u32 at, const struct extension *e,
					 struct transport *t)
{
	t->offset = e->fragment & bpf_htons(IPV6_OFFSET);
	t->more = !!(e->fragment & bpf_htons(IPV6_FRAGMENT & ~IPV6_OFFSET));
	return read(skb, at + sizeof(*e), &t->id, sizeof(t->id));
}

// find_transport looks behind IPv6 extension headers, down to a fragment header, and says whether it came to an end.
static __always_inline int find_transport(struct __sk_buff *skb, __u32 at, __u8 proto, struct transport *t)
{
	struct extension e;

#pragma unroll
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (!is_extension(proto) || is_fragment(t))
			break;
		if (!read(skb, at, &e, sizeof(e)))
			return 0;
		if (proto == IPPROTO_FRAGMENT && !find_fragment(skb, at, &e, t))
			return 0;
		at += proto == IPPROTO_FRAGMENT ? FRAGMENT_HEADER : (e.len + 1) * 8;
		proto = e.next;
	}
	t->at = at;
	t->proto = proto;
	return !is_extension(proto);
}

// Odd 64-bit constants without structure: fractional parts of the golden ratio, the square roots of 2, 3 and 5.
#define HASH_HIGH  0x9e3779b97f4a7c15ULL
#define HASH_FIRST 0x6a09e667f3bcc909ULL
#define HASH_NEXT  0xbb67ae8584caa73bULL
#define HASH_FINAL 0x3c6ef372fe94f82bULL

static __always_inline __u64 hash_end(const __u64 address[2], __be16 port)
{
	__u64 h = (address[0] ^ HASH_HIGH) * HASH_FIRST + (address[1] ^ (__u64)port << 48);

	return (h ^ h >> 29) * HASH_HIGH;
}

// flow_hash is the same for both directions. The two ends are ordered, not added or xored: that would let bits move
// between them, and 10.0.0.1 with 10.0.0.2 would meet 10.0.0.0 with 10.0.0.3.
static __always_inline __u32 flow_hash(const struct flow *f)
{
	__u64 a = hash_end(f->src, f->src_port), b = hash_end(f->dst, f->dst_port);
	__u64 first = a < b ? a : b, last = a < b ? b : a;
	__u64 h = (first ^ f->proto) * HASH_NEXT;

	h = ((h ^ h >> 32) + last) * HASH_FINAL;
	return (h ^ h >> 32) * HASH_HIGH >> 32;
}
