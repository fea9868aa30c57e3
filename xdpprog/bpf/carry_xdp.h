// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// What an XDP hook does with packets of flows that userspace has decided about. In the order of a packet:
//
//	find_packet   its key: read_link, read_ipv4 or read_ipv6, read_tcp or read_udp
//	decide        whether its flow's record lets it be carried, and how: a copy, between two looks at the version
//	make_room     tags off and on, padding off
//	rewrite       the link's header, TTL, ends, checksums
//
// A packet for a wire leaves by the device map. One for a pod or for the host is passed to from_wire_tc, so that the
// kernel merges TCP on the way (GRO). Nothing is changed of a packet that is not carried.
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

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
#define TCP_FLAGS   13		      // offset of the flags
#define TCP_FIN	    0x01
#define TCP_SYN	    0x02
#define TCP_RST	    0x04
#define TCP_ACK	    0x10
#define IPV4_DF	    0x4000
#define VLAN_ID	    0x0fff

// What is read of a packet.
struct found {
	struct flow_key key;
	__u32 l3;     // bytes before the IP header
	__u32 length; // of the IP packet
	__u32 pad;    // bytes behind it
	__be32 ack;   // of TCP
	__u8 ipv6;
	__u8 partial; // the checksum field has the sum of the pseudo-header alone
};

// How a packet is to leave.
struct leave {
	struct egress egress;
	struct ip_address src; // the other side's ends, of a flow that is translated
	struct ip_address dst;
	__be16 src_port;
	__be16 dst_port;
	__u8 mac[6];
	__u8 translated;
};

// fold reduces a ones' complement sum of 32-bit words to 16 bits; it is 0 only of nothing but zeros.
static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline __u64 sum_address(const struct ip_address *a)
{
	return (__u64)a->word[0] + a->word[1] + a->word[2] + a->word[3];
}

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

// read_link finds the packet's port and the end of the link's header. It says whether to go on, as all of read_ do.
// Frames that are not for the device's own address, or from none that may be, are userspace's to drop.
static __always_inline int read_link(struct cursor *c, const struct config *config, struct found *p, __be16 *proto)
{
	struct ethhdr *eth = take(c, sizeof(*eth));
	struct vlans vlans = {};
	struct vlan_tag *tag;
	__u64 own = to_mac(config->mac), src;
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

// read_ipv4 takes a header without options of a packet that is no fragment, and adds up what the pseudo-header has of
// it.
static __always_inline int read_ipv4(struct cursor *c, struct found *p, __u64 *sum)
{
	struct iphdr *ip = take(c, sizeof(*ip));
	__u32 *words = (__u32 *)ip;

	if (!ip || *(__u8 *)ip != 0x45 || ip->frag_off & ~bpf_htons(IPV4_DF) || ip->ttl <= 1)
		return 0;
	if (fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]) != 0xffff)
		return 0;
	p->length = bpf_ntohs(ip->tot_len);
	p->ipv6 = 0;
	p->key.proto = ip->protocol;
	p->key.src = (struct ip_address){{0, 0, bpf_htonl(0xffff), ip->saddr}};
	p->key.dst = (struct ip_address){{0, 0, bpf_htonl(0xffff), ip->daddr}};
	*sum = (__u64)ip->saddr + ip->daddr;
	return 1;
}

// is_mapped: an IPv6 address would be taken for an IPv4 one.
static __always_inline int is_mapped(const struct ip_address *a)
{
	return !(a->word[0] | a->word[1] | (a->word[2] ^ bpf_htonl(0xffff)));
}

// read_ipv6 is read_ipv4 for a header without extensions.
static __always_inline int read_ipv6(struct cursor *c, struct found *p, __u64 *sum)
{
	struct ipv6hdr *ip = take(c, sizeof(*ip));

	if (!ip || ip->version != 6 || ip->hop_limit <= 1)
		return 0;
	p->length = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	p->ipv6 = 1;
	p->key.proto = ip->nexthdr;
	__builtin_memcpy(&p->key.src, &ip->saddr, sizeof(p->key.src));
	__builtin_memcpy(&p->key.dst, &ip->daddr, sizeof(p->key.dst));
	*sum = sum_address(&p->key.src) + sum_address(&p->key.dst);
	return !is_mapped(&p->key.src); // then the other one is not, or there is no record
}

// read_tcp takes segments in the middle of a connection: what opens or closes one is userspace's.
static __always_inline int read_tcp(struct cursor *c, struct found *p, __u32 length, __u64 sum)
{
	struct tcphdr *tcp = take(c, sizeof(*tcp));
	__u8 flags;

	if (!tcp)
		return 0;
	flags = ((__u8 *)tcp)[TCP_FLAGS];
	if ((flags & (TCP_ACK | TCP_SYN | TCP_FIN | TCP_RST)) != TCP_ACK || tcp->doff < 5 || tcp->doff * 4 > length)
		return 0;
	p->key.src_port = tcp->source;
	p->key.dst_port = tcp->dest;
	p->ack = tcp->ack_seq;
	p->partial = tcp->check == fold(sum);
	return 1;
}

static __always_inline int read_udp(struct cursor *c, struct found *p, __u32 length, __u64 sum)
{
	struct udphdr *udp = take(c, sizeof(*udp));
	__u32 len;

	if (!udp)
		return 0;
	len = bpf_ntohs(udp->len);
	if (len < sizeof(*udp) || len > length)
		return 0;
	p->key.src_port = udp->source;
	p->key.dst_port = udp->dest;
	p->partial = len == length && udp->check == fold(sum);
	return 1;
}

// find_padding compares the packet's length with what there is of it, in fragments too.
static __always_inline int find_padding(struct xdp_md *ctx, struct cursor *c, struct found *p)
{
	__u64 linear = (__u64)ctx->data_end - ctx->data, end = (__u64)p->l3 + p->length;

	p->pad = 0;
	if (linear == end)
		return 1;
	if (linear > end && bpf_xdp_get_buff_len(ctx) == linear) {
		p->pad = linear - end;
		return 1;
	}
	return bpf_xdp_get_buff_len(ctx) == end;
}

// find_packet reads what a record is found by.
static __always_inline int find_packet(struct xdp_md *ctx, const struct config *config, struct found *p)
{
	struct cursor c = cursor_of(ctx);
	__u32 header, length;
	__be16 proto;
	__u64 sum;
	int ok;

	if (!read_link(&c, config, p, &proto))
		return 0;
	p->l3 = c.taken;
	if (proto == bpf_htons(ETH_P_IP))
		ok = read_ipv4(&c, p, &sum);
	else if (proto == bpf_htons(ETH_P_IPV6))
		ok = read_ipv6(&c, p, &sum);
	else
		return 0;
	if (!ok)
		return 0;
	header = c.taken - p->l3;
	if (p->length < header)
		return 0;
	length = p->length - header;
	sum += bpf_htons(length) + bpf_htons(p->key.proto);
	if (p->key.proto == IPPROTO_TCP)
		ok = read_tcp(&c, p, length, sum);
	else if (p->key.proto == IPPROTO_UDP)
		ok = read_udp(&c, p, length, sum);
	else
		return 0;
	return ok && find_padding(ctx, &c, p);
}

// other_side copies the ends that packets of a direction leave with.
static __always_inline void other_side(const struct flow_record *r, __u32 way, struct leave *l)
{
	if (way) {
		l->src = r->near_dst;
		l->dst = r->near_src;
		l->src_port = r->near_dst_port;
		l->dst_port = r->near_src_port;
	} else {
		l->src = r->far_src;
		l->dst = r->way[0].far_dst;
		l->src_port = r->far_src_port;
		l->dst_port = r->way[0].far_dst_port;
	}
}

// count_way counts the packet for the flow. The last addition is a barrier: what was copied of the record is read
// before the version that decides whether it was one flow's.
static __always_inline void count_way(struct flow_way *w, const struct found *p)
{
	__u32 used = bpf_ktime_get_coarse_ns() >> 24;
	__u64 packets;

	if (w->used != used)
		w->used = used;
	if (p->key.proto == IPPROTO_TCP)
		w->ack = p->ack;
	__sync_fetch_and_add(&w->bytes, p->length);
	packets = __sync_fetch_and_add(&w->packets, 1);
	asm volatile("" ::"r"(packets) : "memory"); // without use of what it fetches it would be none
}

// leads_out says whether packets of this kind can leave by the egress. XDP forgets that a checksum is partial, which
// userspace completes.
static __always_inline int leads_out(const struct config *c, const struct found *p, const struct egress *e)
{
	switch (e->kind) {
	case EGRESS_WIRE:
		return !p->partial && e->tags <= MAX_TAGS && bpf_redirect_map(&wires, e->ifindex, 0) == XDP_REDIRECT;
	case EGRESS_POD:
	case EGRESS_HOST:
		return c->tc && !e->tags;
	}
	return 0;
}

// decide says whether the packet is carried, and how it leaves; once it says so it has counted it.
static __always_inline int decide(const struct config *c, const struct flow_control *f, const struct found *p,
				  struct leave *l)
{
	struct flow_record *r;
	struct flow_way *w;
	struct egress *e;
	__u32 way, version, to;

	r = find_flow(f, &p->key, &way);
	if (!r)
		return 0;
	way &= 1;
	version = *(volatile __u32 *)&r->version;
	asm volatile("" ::: "memory");
	if (version & 1 || !is_of(r, way, &p->key)) // it may have become another flow's before the version was read
		return 0;
	w = &r->way[way];
	to = w->to;
	if (!to || p->length > w->mtu || (__s32)(r->generation - f->generation) < 0)
		return 0;
	e = bpf_map_lookup_elem(&egresses, &to);
	if (!e || !leads_out(c, p, e))
		return 0;
	l->egress = *e;
	l->translated = r->flags & FLOW_TRANSLATED;
	if (l->translated)
		other_side(r, way, l);
	put_mac(l->mac, w->mac);
	count_way(w, p);
	return *(volatile __u32 *)&r->version == version;
}

// make_room moves the packet's start to where the link's header will begin, and takes off what is behind it; of a
// packet that is passed it makes room for what from_wire_tc reads. If there is none the packet is as it was, but for
// padding.
static __always_inline int make_room(struct xdp_md *ctx, const struct found *p, const struct leave *l)
{
	int gain = (int)p->l3 - (ETH_HLEN + l->egress.tags * 4);

	if (l->egress.kind != EGRESS_WIRE) {
		if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct onward)))
			return 0;
	} else if (p->pad && bpf_xdp_adjust_tail(ctx, -(int)p->pad)) {
		return 0;
	}
	if (!gain || !bpf_xdp_adjust_head(ctx, gain))
		return 1;
	if (l->egress.kind != EGRESS_WIRE)
		bpf_xdp_adjust_meta(ctx, sizeof(struct onward)); // what is there is nothing of ours
	return 0;
}

// write_link writes the link's header.
static __always_inline void write_link(void *at, const struct found *p, const struct leave *l)
{
	const struct egress *e = &l->egress;

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
static __always_inline __u64 port_difference(const struct found *p, const struct leave *l)
{
	return (__u64)l->src_port + l->dst_port + (__u16)~p->key.src_port + (__u16)~p->key.dst_port;
}

// write_tcp gives the segment other ports, and its checksum the difference of the addresses besides. A partial one is
// the sum of the pseudo-header, which has no ports.
static __always_inline int write_tcp(struct tcphdr *tcp, void *end, const struct found *p, const struct leave *l,
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
static __always_inline int write_udp(struct udphdr *udp, void *end, const struct found *p, const struct leave *l,
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

static __always_inline __u64 address_difference(const struct found *p, const struct leave *l)
{
	const struct ip_address *s = &p->key.src, *d = &p->key.dst;
	struct ip_address from_src = {{~s->word[0], ~s->word[1], ~s->word[2], ~s->word[3]}};
	struct ip_address from_dst = {{~d->word[0], ~d->word[1], ~d->word[2], ~d->word[3]}};

	return sum_address(&from_src) + sum_address(&from_dst) + sum_address(&l->src) + sum_address(&l->dst);
}

static __always_inline int write_ipv4(struct iphdr *ip, void *end, const struct leave *l, __u64 addresses)
{
	__u16 *ttl = (__u16 *)&ip->ttl; // and the protocol
	__u16 is;

	if ((void *)(ip + 1) > end)
		return 0;
	is = *ttl;
	ip->ttl--;
	ip->check = change(ip->check, addresses + *ttl + (__u16)~is);
	if (l->translated) {
		ip->saddr = l->src.word[3];
		ip->daddr = l->dst.word[3];
	}
	return 1;
}

static __always_inline int write_ipv6(struct ipv6hdr *ip, void *end, const struct leave *l)
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
static __always_inline int rewrite(struct xdp_md *ctx, const struct found *p, const struct leave *l)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + ETH_HLEN + (l->egress.tags & 3) * 4;
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
	write_link(data, p, l);
	return p->ipv6 ? write_ipv6(ip, end, l) : write_ipv4(ip, end, l, addresses);
}

// pass_on writes before the packet what from_wire_tc reads.
static __always_inline int pass_on(struct xdp_md *ctx, const struct flow_control *f, const struct leave *l)
{
	struct onward *o = (void *)(long)ctx->data_meta;

	if ((void *)(o + 1) > (void *)(long)ctx->data)
		return XDP_ABORTED;
	*o = (struct onward){.seal = seal_of(f), .ifindex = l->egress.ifindex, .kind = l->egress.kind};
	return XDP_PASS;
}

// carry returns the action, or NOT_CARRIED.
static __always_inline int carry(struct xdp_md *ctx, const struct config *c)
{
	const struct flow_control *f = the_flow_control();
	struct found p = {};
	struct leave l = {};

	if (!f || !f->carry || !find_packet(ctx, c, &p) || !decide(c, f, &p, &l) || !make_room(ctx, &p, &l))
		return NOT_CARRIED;
	if (!rewrite(ctx, &p, &l))
		return XDP_ABORTED;
	count_bytes(CARRIED_BY_XDP, p.l3 + p.length + p.pad);
	return l.egress.kind == EGRESS_WIRE ? XDP_REDIRECT : pass_on(ctx, f, &l);
}
