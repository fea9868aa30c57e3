// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The hook from_uplink at a device by which the host's stack reaches the network: what is addressed to a service comes
// in as if it came by the host's port. It is carried to where it goes, if userspace has said so for its flow, or goes
// to userspace by the trunk. Everything else, and what cannot be told, is left to the programs behind this one and to
// the stack.
//
// The stack's own checks of sources come behind this hook, so what pretends to be from this node is left to them.
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "carry_skb.h"
#include "own_sockets.h"
#include "parse.h"
#include "port_counters.h"
#include "services.h"
#include "to_trunk.h"

// Prefixes of this node's pods.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address_key);
	__type(value, __u8); // nothing
	__uint(max_entries, 65536);
} pods SEC(".maps");

// When the first fragment was taken, in ns since boot, of packets that services get in pieces.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct fragment);
	__type(value, __u64);
	__uint(max_entries, 8192);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct counter);
	__uint(max_entries, NUM_UPLINK_REASONS);
} uplink_counters SEC(".maps");

// TCX_NEXT of linux/bpf.h: on to the next program, and behind the last to the host's stack.
#define LEFT TC_ACT_UNSPEC

// PACKET_HOST of linux/if_packet.h: the destination MAC is the device's.
#define FOR_THIS_HOST 0

// For how long fragments of a packet are waited for: net.ipv4.ipfrag_time. Identifications are used again after it.
#define FRAGMENT_LIFE 30000000000ULL

// Types of ICMP errors: RFC 792, RFC 4443 section 2.1.
#define ICMP_UNREACHABLE   3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER	   12
#define ICMPV6_LAST_ERROR  127
#define ICMP_HEADER	   8

// Types of neighbour discovery: RFC 4861 section 4.
#define ND_FIRST 133
#define ND_LAST	 137

// What is known of a packet.
struct parsed {
	struct ip_address src;
	struct ip_address dst;
	struct flow flow;
	struct transport transport;
};

static __always_inline int count(struct __sk_buff *skb, __u32 reason, int action)
{
	struct counter *c = bpf_map_lookup_elem(&uplink_counters, &reason);

	if (c) {
		c->packets++;
		c->bytes += skb->len;
	}
	return action;
}

// parse_ipv4 and parse_ipv6 say NOT_OURS_LEFT for what can be judged. The place of the packet is told, since they read
// what ICMP errors quote, too.

static __always_inline int parse_ipv4(struct __sk_buff *skb, __u32 at, struct parsed *p)
{
	struct transport *t = &p->transport;
	struct iphdr ip;

	if (!read(skb, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return UNREADABLE_LEFT;
	if (ip.ihl > 5)
		return OPTIONS_LEFT;
	p->src = mapped(ip.saddr);
	p->dst = mapped(ip.daddr);
	p->flow.src[0] = ip.saddr;
	p->flow.dst[0] = ip.daddr;
	t->at = at + sizeof(ip);
	t->proto = ip.protocol;
	t->offset = ip.frag_off & bpf_htons(IPV4_OFFSET);
	t->more = !!(ip.frag_off & bpf_htons(IPV4_FRAGMENT & ~IPV4_OFFSET));
	t->id = ip.id;
	return NOT_OURS_LEFT;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, __u32 at, struct parsed *p)
{
	struct ipv6hdr ip;

	if (!read(skb, at, &ip, sizeof(ip)) || ip.version != 6)
		return UNREADABLE_LEFT;
	__builtin_memcpy(&p->src, &ip.saddr, sizeof(p->src));
	__builtin_memcpy(&p->dst, &ip.daddr, sizeof(p->dst));
	__builtin_memcpy(p->flow.src, &ip.saddr, sizeof(p->flow.src));
	__builtin_memcpy(p->flow.dst, &ip.daddr, sizeof(p->flow.dst));
	p->transport.at = at + sizeof(ip);
	p->transport.proto = ip.nexthdr;
	return NOT_OURS_LEFT;
}

// walk_extensions: not before the address is known to be a service's, since of most packets it is not.
static __always_inline int walk_extensions(struct __sk_buff *skb, struct parsed *p)
{
	struct transport *t = &p->transport;

	return is_mapped(&p->dst) || find_transport(skb, t->at, t->proto, t);
}

// is_forged says whether the packet pretends to be from this node.
static __always_inline int is_forged(const struct parsed *p)
{
	struct address_key key = {.prefixlen = 32 + 128, .family = FAMILY_IPV6};

	if (uses_of(&p->src) & (AT_HOST | AT_LOOPBACK))
		return 1;
	if (is_mapped(&p->src)) {
		key.prefixlen = 32 + 32;
		key.family = FAMILY_IPV4;
		__builtin_memcpy(key.address, &p->src.word[3], sizeof(p->src.word[3]));
	} else {
		__builtin_memcpy(key.address, &p->src, sizeof(p->src));
	}
	return !!bpf_map_lookup_elem(&pods, &key);
}

// key_of_fragment: the protocol stands in all fragments, in IPv6 too, where that of the first one holds.
static __always_inline struct fragment key_of_fragment(const struct parsed *p)
{
	return (struct fragment){.src = p->src, .dst = p->dst, .id = p->transport.id, .proto = p->transport.proto};
}

static __always_inline int judge_fragment(const struct parsed *p)
{
	struct fragment key = key_of_fragment(p);
	const __u64 *since = bpf_map_lookup_elem(&fragments, &key);

	return since && bpf_ktime_get_ns() - *since < FRAGMENT_LIFE ? FRAGMENT_TAKEN : NOT_OURS_LEFT;
}

// note_fragment has the fragments behind a first one go where that goes. One that is left ends what an earlier packet
// with its identification began.
static __always_inline void note_fragment(const struct parsed *p, int taken)
{
	struct fragment key = key_of_fragment(p);
	__u64 now = bpf_ktime_get_ns();

	if (taken)
		bpf_map_update_elem(&fragments, &key, &now, BPF_ANY);
	else
		bpf_map_delete_elem(&fragments, &key);
}

static __always_inline int is_error(const struct ip_address *to, __u8 proto, __u8 type)
{
	if (is_mapped(to))
		return proto == IPPROTO_ICMP &&
		       (type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER);
	return proto == IPPROTO_ICMPV6 && type <= ICMPV6_LAST_ERROR;
}

// judge_error takes an error about what a service or a pod with an egress address sent: what is quoted is from a
// frontend, or from an egress address and from no socket of the host's.
static __noinline int judge_error(struct __sk_buff *skb, __u32 at, __u32 ipv6)
{
	struct parsed quoted = {};
	__be16 ports[2], back[2];
	__u32 uses;
	__u8 proto;
	int reason;

	reason = ipv6 ? parse_ipv6(skb, at, &quoted) : parse_ipv4(skb, at, &quoted);
	if (reason != NOT_OURS_LEFT || !walk_extensions(skb, &quoted) || quoted.transport.offset)
		return NOT_OURS_LEFT;
	uses = uses_of(&quoted.src);
	proto = quoted.transport.proto;
	if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6)
		return uses & AT_EGRESS ? ERROR_TAKEN : NOT_OURS_LEFT;
	if (!has_ports(proto) || !read(skb, quoted.transport.at, ports, sizeof(ports)))
		return NOT_OURS_LEFT;
	if (is_frontend(&quoted.src, uses, proto, ports[0]))
		return ERROR_TAKEN;
	if (!(uses & AT_EGRESS))
		return NOT_OURS_LEFT;
	back[0] = ports[1];
	back[1] = ports[0];
	return has_socket(skb, &quoted.dst, &quoted.src, back, proto) ? NOT_OURS_LEFT : ERROR_TAKEN;
}

static __always_inline int is_nd(__u8 proto, __u8 type)
{
	return proto == IPPROTO_ICMPV6 && type >= ND_FIRST && type <= ND_LAST;
}

// judge_shared judges what is for an egress address that is the host's, too, and is for no frontend.
static __always_inline int judge_shared(struct __sk_buff *skb, struct parsed *p)
{
	const struct transport *t = &p->transport;
	__be16 ports[2];
	__u8 type;
	int taken;

	if (t->offset)
		return judge_fragment(p);
	if (t->proto == IPPROTO_ICMP || t->proto == IPPROTO_ICMPV6) {
		if (!read(skb, t->at, &type, sizeof(type)))
			return UNREADABLE_LEFT;
		if (is_error(&p->dst, t->proto, type))
			return judge_error(skb, t->at + ICMP_HEADER, !is_mapped(&p->dst));
		taken = type == (is_mapped(&p->dst) ? ICMP_ECHO_REPLY : ICMPV6_ECHO_REPLY);
	} else if (has_ports(t->proto)) {
		if (!read(skb, t->at, ports, sizeof(ports)))
			return UNREADABLE_LEFT;
		taken = !has_socket(skb, &p->src, &p->dst, ports, t->proto);
	} else {
		return NOT_OURS_LEFT;
	}
	if (t->more)
		note_fragment(p, taken);
	else if (taken)
		read_transport(skb, t->at, t->proto, &p->flow);
	return taken ? EGRESS_TAKEN : NOT_OURS_LEFT;
}

// judge_egress: an egress address that nobody else has is the dataplane's as a whole.
static __always_inline int judge_egress(struct __sk_buff *skb, __u32 uses, struct parsed *p)
{
	const struct transport *t = &p->transport;
	__u8 type;

	if (uses & AT_HOST)
		return judge_shared(skb, p);
	if (is_fragment(t))
		return EGRESS_TAKEN;
	if (read(skb, t->at, &type, sizeof(type)) && is_nd(t->proto, type))
		return NOT_OURS_LEFT;
	read_transport(skb, t->at, t->proto, &p->flow);
	return EGRESS_TAKEN;
}

static __always_inline int judge_transport(struct __sk_buff *skb, __u32 uses, struct parsed *p)
{
	const struct transport *t = &p->transport;
	struct flow *f = &p->flow;
	__be16 ports[2];
	__u8 type;
	int taken;

	if (t->proto == IPPROTO_ICMP || t->proto == IPPROTO_ICMPV6) {
		if (!read(skb, t->at, &type, sizeof(type)))
			return UNREADABLE_LEFT;
		if (!is_error(&p->dst, t->proto, type))
			return NOT_OURS_LEFT;
		return judge_error(skb, t->at + ICMP_HEADER, !is_mapped(&p->dst));
	}
	if (!has_ports(t->proto))
		return NOT_OURS_LEFT;
	if (!read(skb, t->at, ports, sizeof(ports)))
		return UNREADABLE_LEFT;
	taken = is_frontend(&p->dst, uses, t->proto, ports[1]);
	if (taken &&
	    uses & AT_HOST) // a frontend's port may be one that the host has chosen for a connection of its own
		taken = !has_connection(skb, &p->src, &p->dst, ports, t->proto);
	if (t->more)
		note_fragment(p, taken);
	if (!taken)
		return NOT_OURS_LEFT;
	if (!t->more) { // those of a fragmented packet all go one way
		f->src_port = ports[0];
		f->dst_port = ports[1];
		f->proto = t->proto;
	}
	return SERVICE_TAKEN;
}

static __always_inline int judge_ip(struct __sk_buff *skb, struct parsed *p)
{
	__u32 uses = uses_of(&p->dst);
	int reason;

	if (!(uses & (AT_FRONTEND | AT_NODE_PORTS | AT_EGRESS)))
		return NOT_OURS_LEFT;
	if (!walk_extensions(skb, p))
		return UNREADABLE_LEFT;
	if (p->transport.offset)
		reason = judge_fragment(p);
	else
		reason = judge_transport(skb, uses, p);
	if (reason == NOT_OURS_LEFT && uses & AT_EGRESS)
		reason = judge_egress(skb, uses, p);
	if (reason <= EGRESS_TAKEN && is_forged(p))
		return FORGED_LEFT;
	return reason;
}

// judge says what becomes of the packet, and in which queue it goes to userspace: a device that has tags has other
// devices for them. What it has on the stack is gone before the packet is carried: the kernel lets calls have 512 bytes
// together.
static __noinline int judge(struct __sk_buff *skb, __u32 *queue)
{
	const struct node *n = the_node();
	struct parsed p = {};
	int reason;

	if (skb->pkt_type != FOR_THIS_HOST)
		return OTHER_HOST_LEFT;
	if (skb->vlan_present)
		return TAGGED_LEFT;
	switch (bpf_ntohs(skb->protocol)) {
	case ETH_P_8021Q:
	case ETH_P_8021AD:
		return TAGGED_LEFT;
	case ETH_P_IP:
		reason = parse_ipv4(skb, ETH_HLEN, &p);
		break;
	case ETH_P_IPV6:
		reason = parse_ipv6(skb, ETH_HLEN, &p);
		break;
	default:
		return NOT_OURS_LEFT;
	}
	if (reason == NOT_OURS_LEFT)
		reason = judge_ip(skb, &p);
	if (reason <= EGRESS_TAKEN && n)
		*queue = queue_of(the_control(), the_trunk(), &p.flow, n->host_port);
	return reason;
}

// to_userspace sends the packet as one that the host's port sends to its router, the dataplane. It is a function of its
// own as judge is.
static __noinline int to_userspace(struct __sk_buff *skb, __u32 host_port, __u32 queue, __u32 reason)
{
	const struct trunk *t = the_trunk();
	struct port_mac macs[2];

	if (!t)
		return count(skb, NO_TRUNK_UPLINK_DROPPED, TC_ACT_SHOT);
	macs[0] = mac_of(0);
	macs[1] = mac_of(host_port);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return count(skb, UNREADABLE_LEFT, LEFT);
	return count(skb, reason, into_trunk(skb, t, queue));
}

// carried_on carries a packet of a service's flow and returns the action; TC_ACT_UNSPEC: it is not carried.
static __always_inline int carried_on(struct __sk_buff *skb, __u32 host_port)
{
	__u32 len = skb->len, to = 0;
	int action = carry(skb, host_port, &to);

	if (action == TC_ACT_UNSPEC)
		return action;
	if (action == TC_ACT_SHOT)
		return count(skb, UNWRITABLE_UPLINK_DROPPED, action);
	note_carried(host_port, len, port_of_egress(to), skb->len);
	return count(skb, UPLINK_CARRIED, action);
}

static __always_inline int absent(struct __sk_buff *skb, const struct flow_control *c)
{
	if (c->on_absence == ABSENCE_PASS)
		return count(skb, ABSENT_LEFT, LEFT);
	return count(skb, ABSENT_UPLINK_DROPPED, TC_ACT_SHOT);
}

SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	const struct flow_control *c = the_control();
	const struct node *n = the_node();
	int reason, action = TC_ACT_UNSPEC;
	__u32 queue = 0;

	reason = judge(skb, &queue);
	if (reason > EGRESS_TAKEN)
		return count(skb, reason, LEFT);
	if (!n || !n->host_port)
		return count(skb, NO_TRUNK_UPLINK_DROPPED, TC_ACT_SHOT);
	if (reason == SERVICE_TAKEN || reason == EGRESS_TAKEN)
		action = carried_on(skb, n->host_port);
	if (action != TC_ACT_UNSPEC)
		return action;
	if (c && is_silent(c, queue))
		return absent(skb, c);
	return to_userspace(skb, n->host_port, queue, reason);
}

char _license[] SEC("license") = "Dual BSD/GPL";
