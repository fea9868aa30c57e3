// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Carrying an skb: rewriting it as the pipeline would, and redirecting it. Checksums may be partial (of a sending
// stack that leaves them to a device), complete (what a device summed) or in the packet; the kernel's helpers for them
// know which. Everything else is written directly.
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "carry.h"

#define PACKET_IS_HOSTS 0 // PACKET_HOST of linux/if_packet.h

#define HOP_LIMIT 7 // of the IPv6 header: where it is

static __always_inline int may_leave(const struct carried *p, const struct egress *e)
{
	return e->kind != EGRESS_NONE;
}

static __always_inline void *head(struct __sk_buff *skb)
{
	return (void *)(long)skb->data;
}

static __always_inline void *end(struct __sk_buff *skb)
{
	return (void *)(long)skb->data_end;
}

// pull has the headers be in the linear part, as far as there are any, and nothing more: where TCP sends the linear
// part ends with the headers, and to pull what it has kept for sending again has the kernel copy them.
static __always_inline int pull(struct __sk_buff *skb)
{
	__u32 size = ETH_HLEN + TCP_HEADER;

	size += skb->protocol == bpf_htons(ETH_P_IPV6) ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	if (size > skb->len)
		size = skb->len;
	return head(skb) + size <= end(skb) || !bpf_skb_pull_data(skb, size);
}

static __always_inline int read_headers(struct __sk_buff *skb, struct carried *p)
{
	void *at = head(skb) + ETH_HLEN;

	switch (bpf_ntohs(skb->protocol)) {
	case ETH_P_IP:
		return read_ipv4(at, end(skb), p);
	case ETH_P_IPV6:
		return read_ipv6(at, end(skb), p);
	}
	return 0;
}

// is_whole says whether all of the IP packet is there. Behind segments there is to be nothing.
static __always_inline int is_whole(const struct __sk_buff *skb, const struct carried *p)
{
	__u32 len = ETH_HLEN + p->len;

	return len == skb->len || (len < skb->len && !skb->gso_size);
}

// trim takes off what is behind the IP packet, which links pad frames with.
static __always_inline int trim(struct __sk_buff *skb, const struct carried *p)
{
	__u32 len = ETH_HLEN + p->len;

	return len == skb->len || !bpf_skb_change_tail(skb, len, 0);
}

static __always_inline __u32 largest_of(const struct __sk_buff *skb, const struct carried *p)
{
	return skb->gso_size ? p->header + skb->gso_size : p->len;
}

// gain is what a ones' complement sum over 32-bit words gains when an address changes.
static __always_inline __u64 gain(const struct ip_address *from, const struct ip_address *to)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (__u64)to->word[i] + (__u32)~from->word[i];
	return sum;
}

static __always_inline __u32 ports_of(__be16 src, __be16 dst)
{
	return src | (__u32)dst << 16;
}

// translate_checksum brings TCP's or UDP's up to date: by addresses, which are in the pseudo-header and so in partial
// checksums, and by ports, which are not. Linux before 6.16 does not know BPF_F_IPV6, and has complete checksums be
// made anew.
static __always_inline int translate_checksum(struct __sk_buff *skb, const struct carried *p, const struct carriage *to,
					      __u64 addresses)
{
	__u32 at = ETH_HLEN + (p->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u32 before = ports_of(p->key.src_port, p->key.dst_port), after = ports_of(to->src_port, to->dst_port);
	__u64 flags = p->key.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0, pseudo = BPF_F_PSEUDO_HDR;

	at += p->key.proto == IPPROTO_UDP ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check);
	if (p->ipv6)
		pseudo |= BPF_F_IPV6;
	if (bpf_l4_csum_replace(skb, at, 0, fold(addresses), flags | pseudo) &&
	    bpf_l4_csum_replace(skb, at, 0, fold(addresses), flags | BPF_F_PSEUDO_HDR))
		return 0;
	return before == after || !bpf_l4_csum_replace(skb, at, before, after, flags | sizeof(before));
}

// write_ipv4 has the TTL be less by one (RFC 1624, equation 3).
static __always_inline int write_ipv4(struct __sk_buff *skb, const struct carriage *to, __u64 addresses)
{
	struct iphdr *ip = head(skb) + ETH_HLEN;

	if ((void *)(ip + 1) + sizeof(__u32) > end(skb))
		return 0;
	ip->ttl--;
	ip->check = ~fold((__u16)~ip->check + bpf_htons(0xfeff) + addresses);
	if (to->translated) {
		ip->saddr = to->src.word[3];
		ip->daddr = to->dst.word[3];
		*(__u32 *)(ip + 1) = ports_of(to->src_port, to->dst_port);
	}
	return 1;
}

static __always_inline int write_ipv6(struct __sk_buff *skb, const struct carriage *to)
{
	struct ipv6hdr *ip = head(skb) + ETH_HLEN;

	if ((void *)(ip + 1) + sizeof(__u32) > end(skb))
		return 0;
	if (to->translated) {
		__builtin_memcpy(&ip->saddr, &to->src, sizeof(ip->saddr));
		__builtin_memcpy(&ip->daddr, &to->dst, sizeof(ip->daddr));
		*(__u32 *)(ip + 1) = ports_of(to->src_port, to->dst_port);
	}
	return 1;
}

// lower_hop_limit: no checksum of IPv6 has it, but that of a device that summed all of the packet.
static __always_inline int lower_hop_limit(struct __sk_buff *skb)
{
	__u8 *limit = head(skb) + ETH_HLEN + HOP_LIMIT, lower;

	if ((void *)(limit + 1) > end(skb))
		return 0;
	lower = *limit - 1;
	return !bpf_skb_store_bytes(skb, ETH_HLEN + HOP_LIMIT, &lower, sizeof(lower), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline int write_ethernet(struct __sk_buff *skb, const struct carriage *to, const struct egress *e)
{
	struct ethhdr *eth = head(skb);

	if ((void *)(eth + 1) > end(skb))
		return 0;
	copy_mac(eth->h_dest, to->mac);
	copy_mac(eth->h_source, e->mac);
	return 1;
}

// push_tags: what is pushed first is the inner one.
static __always_inline int push_tags(struct __sk_buff *skb, const struct egress *e)
{
	if (e->tags > 1 && bpf_skb_vlan_push(skb, e->inner[0], bpf_ntohs(e->inner[1])))
		return 0;
	return !e->tags || !bpf_skb_vlan_push(skb, e->outer[0], bpf_ntohs(e->outer[1]));
}

static __always_inline int rewrite(struct __sk_buff *skb, const struct carried *p, const struct carriage *to,
				   const struct egress *e)
{
	__u64 addresses = 0;
	int written;

	if (to->translated) {
		addresses = gain(&p->key.src, &to->src) + gain(&p->key.dst, &to->dst);
		if (!translate_checksum(skb, p, to, addresses))
			return 0;
	}
	if (p->ipv6)
		written = lower_hop_limit(skb) && write_ipv6(skb, to);
	else
		written = write_ipv4(skb, to, addresses);
	return written && write_ethernet(skb, to, e) && push_tags(skb, e);
}

// leave returns the action. Linux before 6.15 has what is redirected to a peer keep its type, and a packet for a MAC
// address that is not its device's is nobody's.
static __always_inline int leave(struct __sk_buff *skb, const struct egress *e)
{
	switch (e->kind) {
	case EGRESS_POD:
		if (skb->pkt_type != PACKET_IS_HOSTS)
			bpf_skb_change_type(skb, PACKET_IS_HOSTS);
		return bpf_redirect_peer(e->ifindex, 0);
	case EGRESS_HOST:
		return bpf_redirect(e->ifindex, BPF_F_INGRESS);
	}
	return bpf_redirect(e->ifindex, 0);
}

// carry carries a packet that came in by a port, whose MAC address it is sent to, and returns the action;
// TC_ACT_UNSPEC: it is not carried, and whole. egress is the number of where it leaves. TC_ACT_SHOT: the kernel had no
// memory to write it. It is a global function, as find_carriage is.
__noinline int carry(struct __sk_buff *skb, __u32 port, __u32 *egress)
{
	struct carried p = {.key.port = port};
	struct carriage to = {};
	const struct egress *e;

	if (!egress || !may_carry() || !pull(skb) || !read_headers(skb, &p) || !is_whole(skb, &p))
		return TC_ACT_UNSPEC;
	if (!find_carriage(&p, largest_of(skb, &p), &to))
		return TC_ACT_UNSPEC;
	*egress = to.egress;
	e = egress_of(to.egress);
	if (!e || !trim(skb, &p) || !rewrite(skb, &p, &to, e))
		return TC_ACT_SHOT;
	return leave(skb, e);
}

// port_of_egress is the PortID by which a packet leaves.
static __always_inline __u32 port_of_egress(__u32 number)
{
	const struct egress *e = egress_of(number);

	return e ? e->port : 0;
}
