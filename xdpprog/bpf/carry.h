// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Which packets hooks carry by the kernel's flow table, and where to: what is the same for all hooks. Packets that
// userspace has to see, or would drop, are not carried: those that begin a connection or reset it, those whose TTL
// ends, fragments, options, what is malformed (dataplane/packet/parse.go), what is larger than its way. The answer to
// a SYN and FINs are carried where the connection's record says so.
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow_table.h"

// A packet that is of a kind that may be carried.
struct carried {
	struct flow_key key;
	__u32 len;    // of the IP packet, bytes
	__u32 header; // of network and transport, bytes: what each segment of it has
	__be32 seq;   // TCP
	__be32 ack;   // TCP
	__u8 flags;   // TCP
	__u8 scale;   // TCP, of a SYN-ACK: ANSWERED_…
	__u8 ipv6;
	__u8 partial; // XDP: the checksum is the sum of the pseudo-header alone
};

// What becomes of it.
struct carriage {
	struct ip_address src; // the ends that it gets, if it is translated
	struct ip_address dst;
	__be16 src_port;
	__be16 dst_port;
	__u8 mac[6]; // destination
	__u8 translated;
	__u32 egress; // number of where it leaves
};

#define TCP_FIN	   0x01
#define TCP_SYN	   0x02
#define TCP_RST	   0x04
#define TCP_ACK	   0x10
#define TCP_URG	   0x20
#define TCP_HEADER 20
#define UDP_HEADER 8

#define IPV4_DF 0x4000

// Bits of sets of TCP flags, of those that go together: flagSets in dataplane/conntrack/segment.go.
#define FLAG_SET(flags) (1ULL << (flags))
#define FLAG_SETS                                                                                                      \
	(FLAG_SET(TCP_SYN) | FLAG_SET(TCP_SYN | TCP_URG) | FLAG_SET(TCP_SYN | TCP_ACK) | FLAG_SET(TCP_RST) |           \
	 FLAG_SET(TCP_RST | TCP_ACK) | FLAG_SET(TCP_ACK) | FLAG_SET(TCP_ACK | TCP_URG) | FLAG_SET(TCP_FIN | TCP_ACK) | \
	 FLAG_SET(TCP_FIN | TCP_ACK | TCP_URG))

#define OPTION_END    0
#define OPTION_NOP    1
#define OPTION_WSCALE 3
#define MAX_OPTIONS   12 // that are read of a SYN-ACK
#define MAX_SCALE     14 // RFC 7323 section 2.3
#define UNREAD	      0xff

// read_scale reads the window scale of a SYN-ACK, as scaleOf in dataplane/conntrack/segment.go: options that do not
// parse end the search. It stays UNREAD where the options are not there, or are many.
static __always_inline void read_scale(const void *options, const void *end, __u32 len, struct carried *c)
{
	__u32 at = 0;

	c->scale = UNREAD;
	for (int i = 0; i < MAX_OPTIONS; i++) {
		const __u8 *o = options + (at & 63);

		if (at >= len)
			goto none;
		if ((const void *)(o + 1) > end)
			return;
		if (o[0] == OPTION_END)
			goto none;
		if (o[0] == OPTION_NOP) {
			at++;
			continue;
		}
		if (at + 2 > len)
			goto none;
		if ((const void *)(o + 2) > end)
			return;
		if (o[1] < 2 || at + o[1] > len)
			goto none;
		if (o[0] == OPTION_WSCALE && o[1] == 3) {
			if ((const void *)(o + 3) > end)
				return;
			c->scale = ANSWERED_SCALE | (o[2] > MAX_SCALE ? MAX_SCALE : o[2]);
			return;
		}
		at += o[1];
	}
	return;
none:
	c->scale = 0;
}

// Readers of headers, which say whether the packet may be carried. They read what lies before end.

static __always_inline int read_tcp(const struct tcphdr *tcp, const void *end, __u32 len, struct carried *c)
{
	__u32 header;

	if ((const void *)tcp + TCP_HEADER > end)
		return 0;
	header = tcp->doff * 4;
	if (header < TCP_HEADER || header > len)
		return 0;
	c->key.src_port = tcp->source;
	c->key.dst_port = tcp->dest;
	c->header += header;
	c->seq = tcp->seq;
	c->ack = tcp->ack_seq;
	c->flags = ((const __u8 *)tcp)[13];
	if ((c->flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK))
		read_scale((const void *)tcp + TCP_HEADER, end, header - TCP_HEADER, c);
	return FLAG_SETS >> (c->flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK | TCP_URG)) & 1;
}

static __always_inline int read_udp(const struct udphdr *udp, const void *end, __u32 len, struct carried *c)
{
	if ((const void *)udp + UDP_HEADER > end)
		return 0;
	c->key.src_port = udp->source;
	c->key.dst_port = udp->dest;
	c->header += UDP_HEADER;
	return bpf_ntohs(udp->len) >= UDP_HEADER && bpf_ntohs(udp->len) <= len;
}

static __always_inline int read_ports(const void *at, const void *end, __u8 proto, struct carried *c)
{
	__u32 len = c->len - c->header;

	c->key.proto = proto;
	if (proto == IPPROTO_TCP)
		return read_tcp(at, end, len, c);
	return proto == IPPROTO_UDP && read_udp(at, end, len, c);
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline struct ip_address mapped4(__be32 ipv4)
{
	return (struct ip_address){{0, 0, bpf_htonl(0xffff), ipv4}};
}

static __always_inline int is_mapped4(const struct ip_address *a)
{
	return !(a->word[0] | a->word[1] | (a->word[2] ^ bpf_htonl(0xffff)));
}

static __always_inline int read_ipv4(const struct iphdr *ip, const void *end, struct carried *c)
{
	const __u32 *word = (const void *)ip;

	if ((const void *)(ip + 1) > end)
		return 0;
	c->len = bpf_ntohs(ip->tot_len);
	c->header = sizeof(*ip);
	if (ip->version != 4 || ip->ihl != 5 || ip->frag_off & ~bpf_htons(IPV4_DF) || ip->ttl <= 1 ||
	    c->len < c->header)
		return 0;
	if (fold((__u64)word[0] + word[1] + word[2] + word[3] + word[4]) != 0xffff)
		return 0;
	c->key.src = mapped4(ip->saddr);
	c->key.dst = mapped4(ip->daddr);
	return read_ports(ip + 1, end, ip->protocol, c);
}

// read_ipv6: mapped addresses are none of IPv6's on a wire, and here they are IPv4's.
static __always_inline int read_ipv6(const struct ipv6hdr *ip, const void *end, struct carried *c)
{
	if ((const void *)(ip + 1) > end)
		return 0;
	c->ipv6 = 1;
	c->header = sizeof(*ip);
	c->len = c->header + bpf_ntohs(ip->payload_len);
	__builtin_memcpy(&c->key.src, &ip->saddr, sizeof(c->key.src));
	__builtin_memcpy(&c->key.dst, &ip->daddr, sizeof(c->key.dst));
	if (ip->version != 6 || ip->hop_limit <= 1 || is_mapped4(&c->key.src) || is_mapped4(&c->key.dst))
		return 0;
	return read_ports(ip + 1, end, ip->nexthdr, c);
}

#define TCP_CONTROL (TCP_FIN | TCP_SYN | TCP_RST)

// is_plain says whether the packet neither opens nor ends a connection.
static __always_inline int is_plain(const struct carried *c)
{
	return c->key.proto != IPPROTO_TCP || !(c->flags & TCP_CONTROL);
}

static __always_inline int is_older(__u32 generation, __u32 than)
{
	return (__s32)(generation - than) < 0;
}

static __always_inline __u64 add(__u64 *counter, __u64 n)
{
	__u64 before = __sync_fetch_and_add(counter, n);

	barrier_var(before); // an addition that fetches is a barrier to memory, one that does not is none
	return before;
}

// copy_mac: addresses are at even places everywhere.
static __always_inline void copy_mac(void *to, const void *from)
{
	__u16 *a = to;
	const __u16 *b = from;

	a[0] = b[0];
	a[1] = b[1];
	a[2] = b[2];
}

static __always_inline void copy(const struct flow_record *r, const struct flow_way *w, __u32 way, struct carriage *to)
{
	to->translated = r->flags & FLOW_TRANSLATED;
	copy_mac(to->mac, w->mac);
	if (!to->translated)
		return;
	if (way) {
		to->src = r->near_dst;
		to->dst = r->near_src;
		to->src_port = r->near_dst_port;
		to->dst_port = r->near_src_port;
	} else {
		to->src = r->far_src;
		to->dst = w->far_dst;
		to->src_port = r->far_src_port;
		to->dst_port = w->far_dst_port;
	}
}

// may_leave says whether the hook can have the packet leave by an egress. Each kind of hook says so itself.
static __always_inline int may_leave(const struct carried *p, const struct egress *e);

static __always_inline const struct egress *egress_of(__u32 number)
{
	return bpf_map_lookup_elem(&egresses, &number);
}

// leads says whether a record's direction carries packets of which the largest segment has so many bytes.
static __always_inline int leads(const struct flow_control *c, const struct flow_record *r, const struct flow_way *w,
				 const struct carried *p, __u32 largest, struct carriage *to)
{
	const struct egress *e;

	to->egress = w->to;
	if (!to->egress || largest > w->mtu || is_older(r->generation, c->generation))
		return 0;
	e = egress_of(to->egress);
	return e && may_leave(p, e);
}

// behind is the sequence number behind a segment with FIN.
static __always_inline __u32 behind(const struct carried *p)
{
	return bpf_ntohl(p->seq) + p->len - p->header + 1;
}

// is_answer says whether the packet is the SYN-ACK to the SYN by which a young record was entered, without data.
static __always_inline int is_answer(const struct flow_way *w, const struct carried *p)
{
	__u8 flags = p->flags & (TCP_CONTROL | TCP_ACK | TCP_URG);

	return flags == (TCP_SYN | TCP_ACK) && p->scale != UNREAD && p->ack == w->ack && p->len == p->header;
}

// may_go says whether a record of a connection's own carries a segment, as far as the connection goes: nothing before
// the SYN has been answered but the answer, then of the opener's what acknowledges that, and of FINs those of one
// number. What else there is may be somebody else's: userspace finds out.
static __always_inline int may_go(const struct flow_record *r, __u32 way, const struct carried *p)
{
	const struct flow_way *w = &r->way[way & 1];
	__u8 control = p->flags & TCP_CONTROL;
	__u32 end;

	if (r->flags & FLOW_YOUNG && !r->way[1].answered)
		return way && is_answer(w, p);
	if (r->flags & FLOW_YOUNG && !way && bpf_ntohl(p->ack) - bpf_ntohl(w->ack) > r->way[1].bytes)
		return 0;
	if (!control)
		return 1;
	if (control != TCP_FIN || !(r->flags & FLOW_WHOLE))
		return 0;
	end = behind(p);
	return end && (!w->fin || w->fin == end);
}

// note_progress writes down how far a connection is, and has userspace look at it where it begins or ends: the ends of
// one that ends have little more to say. Of a SYN-ACK it is known what is to acknowledge it.
static __always_inline void note_progress(struct found *f, const struct carried *p)
{
	struct flow_record *r = f->record;
	struct flow_way *w = &r->way[f->way & 1];

	if (p->flags & TCP_SYN) {
		r->way[0].ack = bpf_htonl(bpf_ntohl(p->seq) + 1);
		*(volatile __u16 *)&w->answered = ANSWERED | p->scale;
	}
	if (p->flags & TCP_FIN)
		*(volatile __u32 *)&w->fin = behind(p);
	if (w->fin || r->flags & FLOW_YOUNG)
		tell(f->number);
}

// repeat says what becomes of a packet by the record that was found for its key, and counts it. It returns 0 where
// userspace is to see the packet, also when it has changed the record in between.
static __always_inline int repeat(const struct flow_control *c, struct found *f, const struct flow_key *k,
				  const struct carried *p, __u32 largest, struct carriage *to)
{
	struct flow_record *r = f->record;
	int connection = p->key.proto == IPPROTO_TCP && k->src_port | k->dst_port;
	__u32 way = f->way & 1, version;
	struct flow_way *w = &r->way[way];

	version = *(volatile __u32 *)&r->version;
	add(&w->packets, 1);
	if (version & 1 || !is_of(r, way, k) || !leads(c, r, w, p, largest, to))
		goto not_carried;
	if (connection && !may_go(r, way, p))
		goto not_carried;
	copy(r, w, way, to);
	add(&w->bytes, p->len);
	if (*(volatile __u32 *)&r->version != version) {
		add(&w->bytes, -(__u64)p->len);
		goto not_carried;
	}
	w->used = bpf_ktime_get_coarse_ns() >> 24;
	if (p->key.proto == IPPROTO_TCP)
		w->ack = p->ack;
	if (connection)
		note_progress(f, p);
	return 1;
not_carried:
	add(&w->packets, -1ULL);
	return 0;
}

// note_end: an end of a connection has sent a FIN, or a RST, upon which nothing is left to take up.
static __always_inline void note_end(const struct flow_key *opener, __u32 end, int reset)
{
	void *openings = openings_of(opener->port);
	struct opening *o = openings ? bpf_map_lookup_elem(openings, opener) : NULL;

	if (o && (reset || (__sync_fetch_and_or(&o->ended, end) | end) == (ENDED_OPENER | ENDED_OTHER)))
		bpf_map_delete_elem(openings, opener);
}

// note_connection tells userspace of a connection that it does not see. The other end's packets come in by other_port;
// what they are found by is written to other, since the stack is small.
static __always_inline void note_connection(const struct carried *p, __u32 other_port, struct flow_key *other)
{
	struct opening o = {.used = bpf_ktime_get_coarse_ns() >> 24};
	void *openings;

	if ((p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && (openings = openings_of(p->key.port)))
		bpf_map_update_elem(openings, &p->key, &o, BPF_ANY);
	if (!(p->flags & (TCP_FIN | TCP_RST)))
		return;
	other->src = p->key.dst;
	other->dst = p->key.src;
	other->src_port = p->key.dst_port;
	other->dst_port = p->key.src_port;
	other->port = other_port;
	note_end(&p->key, ENDED_OPENER, p->flags & TCP_RST);
	note_end(other, ENDED_OTHER, p->flags & TCP_RST);
}

// by_pair is for TCP between two addresses, whatever its ports and its state.
static __always_inline int by_pair(const struct flow_control *c, const struct carried *p, __u32 largest,
				   struct carriage *to, struct found *f)
{
	struct flow_key pair = p->key;

	if (pair.proto != IPPROTO_TCP)
		return 0;
	pair.src_port = pair.dst_port = 0;
	if (!find_flow(c, &pair, f) || !repeat(c, f, &pair, p, largest, to))
		return 0;
	if (!is_plain(p))
		note_connection(p, f->record->way[(f->way & 1) ^ 1].from, &pair);
	return 1;
}

// find_carriage says what becomes of a packet; 0: userspace is to see it. largest is the largest IP packet that is made
// of it, bytes. A record of the connection itself goes before that of a pair.
//
// It is a global function, which the verifier looks at once and not in each state of who calls it.
__noinline int find_carriage(const struct carried *p, __u32 largest, struct carriage *to)
{
	const struct flow_control *c = the_control();
	struct found f;

	if (!c || !p || !to)
		return 0;
	if (!find_flow(c, &p->key, &f))
		return by_pair(c, p, largest, to, &f);
	return repeat(c, &f, &p->key, p, largest, to);
}

static __always_inline int may_carry(void)
{
	const struct flow_control *c = the_control();

	return c && c->carry;
}

// is_silent says whether userspace has stopped to say that it is alive, or says so of all but who takes a queue's
// packets.
static __always_inline int is_silent(const struct flow_control *c, __u32 queue)
{
	return c->hung & QUEUE_BIT(queue) || (c->heart && (__s64)(bpf_ktime_get_coarse_ns() - c->heart) > HEART_STOPS);
}
