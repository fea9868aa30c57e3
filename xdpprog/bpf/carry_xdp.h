// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Carrying by XDP: what the hook of a device does with packets of flows that userspace has decided about. In the order
// of a packet:
//
//	find_packet    read_link, and the readers of carry.h: its key
//	find_carriage  of carry.h: whether its flow's record lets it be carried, and how
//	make_room      tags off and on, padding off
//	rewrite        the link's header, TTL, ends, checksums
//
// A packet for a wire leaves by the device map. One for a pod or for the host is passed to from_wire_tc, so that the
// kernel merges TCP on the way (GRO). Nothing is changed of a packet that is not carried.
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "carry.h"
#include "maps.h"
#include "onward.h"
#include "parse.h"

// The devices that packets may be redirected to, by ifindex. The loader sets its size; the kernel takes out what
// vanishes.
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} wires SEC(".maps");

// PortIDs of the device's ports with tags.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct vlans);
	__type(value, __u32);
	__uint(max_entries, 4096);
} tagged SEC(".maps");

#define NOT_CARRIED -1
#define MAC_BITS    0xffffffffffffULL // of a MAC address that was loaded with what is behind it
#define VLAN_ID	    0x0fff

// Where a packet's parts are, bytes.
struct place {
	__u32 link; // of the link's header
	__u32 pad;  // of what is behind the IP packet
};

// to_mac reads a MAC address with the two bytes behind it.
static __always_inline __u64 to_mac(const void *at)
{
	return *(const __u64 *)at & MAC_BITS;
}

static __always_inline void put_mac(void *to, const __u8 mac[ETH_ALEN])
{
	*(__u32 *)to = *(const __u32 *)mac;
	*(__u16 *)(to + 4) = *(const __u16 *)(mac + 4);
}

// read_link finds the packet's port and the end of the link's header, and says whether to go on. Frames that are not
// for the device's own address, or from none that may be, are userspace's to drop.
static __always_inline int read_link(struct cursor *c, const struct config *config, struct carried *p, __be16 *proto)
{
	struct ethhdr *eth = take(c, sizeof(*eth));
	__u64 own = to_mac(config->mac), src;
	struct vlans vlans = {};
	struct vlan_tag *tag;
	__u32 *port;

	if (!eth)
		return 0;
	src = to_mac(eth->h_source);
	if (to_mac(eth->h_dest) != own || src == own || !src || src & 1)
		return 0;
	*proto = eth->h_proto;
	p->key.port = config->port;
	if (!is_tag(*proto))
		return p->key.port != 0;
	tag = take(c, sizeof(*tag));
	if (!tag)
		return 0;
	vlans.outer = bpf_ntohs(tag->tci) & VLAN_ID;
	*proto = tag->proto;
	if (is_tag(*proto)) {
		tag = take(c, sizeof(*tag));
		if (!tag)
			return 0;
		vlans.inner = bpf_ntohs(tag->tci) & VLAN_ID;
		*proto = tag->proto;
		if (!vlans.inner) // a priority alone
			return 0;
	}
	port = bpf_map_lookup_elem(&tagged, &vlans);
	if (!port)
		return 0;
	p->key.port = *port;
	return 1;
}

// find_padding compares the packet's length with what there is of it, in fragments too.
static __always_inline int find_padding(struct xdp_md *ctx, const struct carried *p, struct place *at)
{
	__u64 linear = (__u64)ctx->data_end - ctx->data, end = (__u64)at->link + p->len;

	if (linear == end)
		return 1;
	if (linear > end && bpf_xdp_get_buff_len(ctx) == linear) {
		at->pad = linear - end;
		return 1;
	}
	return bpf_xdp_get_buff_len(ctx) == end;
}

static __always_inline __u64 sum_address(const struct ip_address *a)
{
	return (__u64)a->word[0] + a->word[1] + a->word[2] + a->word[3];
}

// is_partial says of the transport header whether its checksum field has the sum of the pseudo-header alone, as the
// stack behind a veth leaves it. The prefix of IPv4 addresses is zero to the sum.
static __always_inline int is_partial(const void *transport, const struct carried *p)
{
	__u32 len = p->len - (p->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u64 sum = sum_address(&p->key.src) + sum_address(&p->key.dst) + bpf_htons(len) + bpf_htons(p->key.proto);

	if (p->key.proto == IPPROTO_TCP)
		return ((const struct tcphdr *)transport)->check == fold(sum);
	return ((const struct udphdr *)transport)->len == bpf_htons(len) &&
	       ((const struct udphdr *)transport)->check == fold(sum);
}

// find_packet reads what a record is found by, and says whether the packet is of a kind that may be carried.
static __always_inline int find_packet(struct xdp_md *ctx, const struct config *config, struct carried *p,
				       struct place *at)
{
	struct cursor c = cursor_of(ctx);
	__be16 proto;

	if (!read_link(&c, config, p, &proto))
		return 0;
	at->link = c.taken;
	if (proto == bpf_htons(ETH_P_IP)) {
		if (!read_ipv4(c.pos, c.end, p))
			return 0;
		p->partial = is_partial(c.pos + sizeof(struct iphdr), p);
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		if (!read_ipv6(c.pos, c.end, p))
			return 0;
		p->partial = is_partial(c.pos + sizeof(struct ipv6hdr), p);
	} else {
		return 0;
	}
	return find_padding(ctx, p, at);
}

// may_leave: XDP forgets that a checksum is partial, which userspace completes. What is to leave by a device is
// redirected at once, for it cannot be known otherwise whether that is possible; a later redirection goes before.
static __always_inline int may_leave(const struct carried *p, const struct egress *e)
{
	const struct config *c = the_config();

	switch (e->kind) {
	case EGRESS_WIRE:
		return !p->partial && e->tags <= MAX_TAGS && bpf_redirect_map(&wires, e->ifindex, 0) == XDP_REDIRECT;
	case EGRESS_POD:
	case EGRESS_HOST:
		return c && c->tc && !e->tags;
	}
	return 0;
}

// make_room moves the packet's start to where the link's header will begin, and takes off what is behind it; of a
// packet that is passed it makes room for what from_wire_tc reads. If there is none the packet is as it was, but for
// padding.
static __always_inline int make_room(struct xdp_md *ctx, const struct place *at, const struct egress *e, __u8 kind)
{
	int gain = (int)at->link - (ETH_HLEN + (e->tags & 3) * 4);

	if (kind != EGRESS_WIRE) {
		if (bpf_xdp_adjust_meta(ctx, -ONWARD_SIZE))
			return 0;
	} else if (at->pad && bpf_xdp_adjust_tail(ctx, -(int)at->pad)) {
		return 0;
	}
	if (!gain || !bpf_xdp_adjust_head(ctx, gain))
		return 1;
	if (kind != EGRESS_WIRE)
		bpf_xdp_adjust_meta(ctx, ONWARD_SIZE); // what is there is nothing of ours
	return 0;
}

// write_link writes the link's header.
static __always_inline void write_link(void *at, const struct carried *p, const struct carriage *l,
				       const struct egress *e)
{
	put_mac(at, l->mac);
	put_mac(at + ETH_ALEN, e->mac);
	at += 2 * ETH_ALEN;
	if (e->tags) {
		*(__be16 *)at = e->outer[0];
		*(__be16 *)(at + 2) = e->outer[1];
		at += 4;
	}
	if (e->tags > 1) {
		*(__be16 *)at = e->inner[0];
		*(__be16 *)(at + 2) = e->inner[1];
		at += 4;
	}
	*(__be16 *)at = p->ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
}

// change brings a checksum up to date with a difference (RFC 1624, equation 3).
static __always_inline __sum16 change(__sum16 check, __u64 difference)
{
	return ~fold((__u16)~check + difference);
}

// port_difference is what a sum over the ports gains.
static __always_inline __u64 port_difference(const struct carried *p, const struct carriage *l)
{
	return (__u64)l->src_port + l->dst_port + (__u16)~p->key.src_port + (__u16)~p->key.dst_port;
}

// write_tcp gives the segment other ports, and its checksum the difference of the addresses besides. A partial one is
// the sum of the pseudo-header, which has no ports.
static __always_inline int write_tcp(struct tcphdr *tcp, void *end, const struct carried *p, const struct carriage *l,
				     __u64 addresses)
{
	if ((void *)(tcp + 1) > end)
		return 0;
	tcp->source = l->src_port;
	tcp->dest = l->dst_port;
	if (p->partial)
		tcp->check = fold(tcp->check + addresses);
	else
		tcp->check = change(tcp->check, addresses + port_difference(p, l));
	return 1;
}

// write_udp is write_tcp; no checksum stays none, and no other becomes that (RFC 768).
static __always_inline int write_udp(struct udphdr *udp, void *end, const struct carried *p, const struct carriage *l,
				     __u64 addresses)
{
	if ((void *)(udp + 1) > end)
		return 0;
	udp->source = l->src_port;
	udp->dest = l->dst_port;
	if (p->partial) {
		udp->check = fold(udp->check + addresses);
	} else if (udp->check) {
		udp->check = change(udp->check, addresses + port_difference(p, l));
		if (!udp->check)
			udp->check = 0xffff;
	}
	return 1;
}

static __always_inline __u64 address_difference(const struct carried *p, const struct carriage *l)
{
	const struct ip_address *s = &p->key.src, *d = &p->key.dst;
	struct ip_address from_src = {{~s->word[0], ~s->word[1], ~s->word[2], ~s->word[3]}};
	struct ip_address from_dst = {{~d->word[0], ~d->word[1], ~d->word[2], ~d->word[3]}};

	return sum_address(&from_src) + sum_address(&from_dst) + sum_address(&l->src) + sum_address(&l->dst);
}

// write_ipv4 has the TTL be less by one. What the checksum gains by that is known: to read the TTL again, together with
// the protocol, would have the CPU wait for it to be written.
static __always_inline int write_ipv4(struct iphdr *ip, void *end, const struct carriage *l, __u64 addresses)
{
	if ((void *)(ip + 1) > end)
		return 0;
	ip->ttl--;
	ip->check = change(ip->check, addresses + bpf_htons(0xfeff));
	if (l->translated) {
		ip->saddr = l->src.word[3];
		ip->daddr = l->dst.word[3];
	}
	return 1;
}

static __always_inline int write_ipv6(struct ipv6hdr *ip, void *end, const struct carriage *l)
{
	if ((void *)(ip + 1) > end)
		return 0;
	ip->hop_limit--;
	if (l->translated) {
		__builtin_memcpy(&ip->saddr, &l->src, sizeof(l->src));
		__builtin_memcpy(&ip->daddr, &l->dst, sizeof(l->dst));
	}
	return 1;
}

// rewrite makes the packet what is to leave. Where its headers lie has been seen before; the verifier sees it anew.
static __always_inline int rewrite(struct xdp_md *ctx, const struct carried *p, const struct carriage *l,
				   const struct egress *e)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + ETH_HLEN + (e->tags & 3) * 4;
	void *transport = ip + (p->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u64 addresses = 0;

	if (data + ETH_HLEN + MAX_TAGS * 4 > end) // no more than is there of an IP packet
		return 0;
	if (l->translated) {
		addresses = address_difference(p, l);
		if (p->key.proto == IPPROTO_TCP && !write_tcp(transport, end, p, l, addresses))
			return 0;
		if (p->key.proto == IPPROTO_UDP && !write_udp(transport, end, p, l, addresses))
			return 0;
	}
	write_link(data, p, l, e);
	return p->ipv6 ? write_ipv6(ip, end, l) : write_ipv4(ip, end, l, addresses);
}

// pass_on writes before the packet what from_wire_tc reads.
static __always_inline int pass_on(struct xdp_md *ctx, const struct flow_control *f, const struct egress *e, __u8 kind)
{
	void *meta = (void *)(long)ctx->data_meta;
	struct onward *o = meta + ONWARD_AT;

	if (meta + ONWARD_SIZE > (void *)(long)ctx->data)
		return XDP_ABORTED;
	__builtin_memset(meta, 0, ONWARD_AT);
	*o = (struct onward){.seal = seal_of(f), .ifindex = e->ifindex, .kind = kind};
	return XDP_PASS;
}

// carry returns the action, or NOT_CARRIED.
static __always_inline int carry(struct xdp_md *ctx, const struct config *c)
{
	const struct flow_control *f = the_control();
	struct carriage l = {};
	struct carried p = {};
	struct place at = {};
	const struct egress *e;
	__u8 kind;

	if (!f || !f->carry || !find_packet(ctx, c, &p, &at) || !find_carriage(&p, p.len, &l))
		return NOT_CARRIED;
	e = egress_of(l.egress);
	if (!e)
		return NOT_CARRIED;
	kind = e->kind;
	if (kind == EGRESS_NONE || !make_room(ctx, &at, e, kind)) // the former since a moment ago
		return NOT_CARRIED;
	if (!rewrite(ctx, &p, &l, e))
		return XDP_ABORTED;
	count_bytes(WIRE_CARRIED, at.link + p.len + at.pad);
	return kind == EGRESS_WIRE ? XDP_REDIRECT : pass_on(ctx, f, e, kind);
}
