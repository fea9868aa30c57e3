// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The hook from_port at the host's end of a port's veth: what the station behind it may send is carried to where it
// goes, if userspace has said so for its flow, or goes to userspace by the trunk, marked with the PortID, in the queue
// of its flow. Nothing goes on into the host's stack by the port's own device; while userspace is silent, by the host's
// port, if that is wanted then.
#include "trunk.h"
#include "carry_skb.h"
#include "flow.h"
#include "parse.h"

// Each parser says FROM_PORT or a _DROPPED reason. What cannot be read is dropped here: the workers are all pods', and
// no flood of it shall reach them. Headers are read where they lie, since a carried packet's time is mostly that of
// calls of helpers.

static __always_inline int has_ipv4(const struct station *s, __be32 address)
{
#pragma unroll
	for (int i = 0; i < MAX_ADDRESSES; i++)
		if (i < s->ipv4_count && s->ipv4[i] == address)
			return 1;
	return 0;
}

static __always_inline int has_ipv6(const struct station *s, const __u64 address[2])
{
#pragma unroll
	for (int i = 0; i < MAX_ADDRESSES; i++)
		if (i < s->ipv6_count && s->ipv6[i][0] == address[0] && s->ipv6[i][1] == address[1])
			return 1;
	return 0;
}

// same_mac: addresses are read by words, which are aligned in all headers.
static __always_inline int same_mac(const void *a, const void *b)
{
	const __u16 *first = a, *second = b;

	return !((first[0] ^ second[0]) | (first[1] ^ second[1]) | (first[2] ^ second[2]));
}

// judge_arp lets in the sender addresses of the station, and none at all: the probes of RFC 5227.
static __always_inline int judge_arp(const struct arp_ipv4 *arp, const void *end, const struct station *s)
{
	__be32 sender;

	if ((void *)(arp + 1) > end || arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_len != ETH_ALEN || arp->protocol_len != sizeof(sender))
		return UNREADABLE_DROPPED;
	if (!same_mac(s->mac, arp->sender_mac))
		return ARP_MAC_DROPPED;
	__builtin_memcpy(&sender, arp->sender, sizeof(sender));
	if (!s->router && sender != 0 && !has_ipv4(s, sender))
		return ARP_ADDRESS_DROPPED;
	return FROM_PORT;
}

static __always_inline int judge_ipv4(const struct iphdr *ip, const void *end, const struct station *s)
{
	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return UNREADABLE_DROPPED;
	return s->router || has_ipv4(s, ip->saddr) ? FROM_PORT : IPV4_SOURCE_DROPPED;
}

static __always_inline int is_multicast(const __u64 address[2])
{
	return *(const __u8 *)address == 0xff;
}

static __always_inline int is_link_local(const __u64 address[2])
{
	return (address[0] & bpf_cpu_to_be64(0xffc0ULL << 48)) == bpf_cpu_to_be64(0xfe80ULL << 48);
}

// is_neighbourly: sources that a station has beside its addresses on its own link, RFC 4291 sections 2.5.2 and 2.5.6.
static __always_inline int is_neighbourly(const __u64 src[2], const __u64 dst[2])
{
	if (is_link_local(src))
		return is_link_local(dst) || is_multicast(dst);
	return !(src[0] | src[1]) && is_multicast(dst);
}

static __always_inline int judge_ipv6(const struct ipv6hdr *ip, const void *end, const struct station *s)
{
	__u64 src[2], dst[2];

	if ((void *)(ip + 1) > end || ip->version != 6)
		return UNREADABLE_DROPPED;
	__builtin_memcpy(src, &ip->saddr, sizeof(src));
	__builtin_memcpy(dst, &ip->daddr, sizeof(dst));
	return s->router || has_ipv6(s, src) || is_neighbourly(src, dst) ? FROM_PORT : IPV6_SOURCE_DROPPED;
}

// judge drops tagged packets: a port of the trunk has no VLANs, and the XDP hook behind it would not see a tag that
// stands beside the packet. to_router says whether the packet is sent to the dataplane and not to all.
static __always_inline int judge(struct __sk_buff *skb, const struct station *s, int *to_router)
{
	const struct ethhdr *eth;
	const void *last, *packet;

	if (!pull(skb))
		return CUT_ETHERNET_DROPPED;
	eth = head(skb);
	last = end(skb);
	packet = eth + 1;
	if (packet > last)
		return CUT_ETHERNET_DROPPED;
	if (!same_mac(s->mac, eth->h_source))
		return SOURCE_MAC_DROPPED;
	if (skb->vlan_present || is_tag(eth->h_proto))
		return TAGGED_DROPPED;
	*to_router = is_router(eth->h_dest);
	switch (bpf_ntohs(eth->h_proto)) {
	case ETH_P_IP:
		return judge_ipv4(packet, last, s);
	case ETH_P_IPV6:
		return judge_ipv6(packet, last, s);
	case ETH_P_ARP:
		return judge_arp(packet, last, s);
	}
	return ETHERTYPE_DROPPED;
}

// read_flow is of what was judged, and of ARP that of nobody.
static __always_inline void read_flow(struct __sk_buff *skb, struct flow *f)
{
	struct transport t = {};
	struct ipv6hdr six;
	struct iphdr ip;

	switch (bpf_ntohs(skb->protocol)) {
	case ETH_P_IP:
		if (!read(skb, ETH_HLEN, &ip, sizeof(ip)))
			return;
		f->src[0] = ip.saddr;
		f->dst[0] = ip.daddr;
		if (!(ip.frag_off & bpf_htons(IPV4_FRAGMENT)))
			read_transport(skb, ETH_HLEN + ip.ihl * 4, ip.protocol, f);
		return;
	case ETH_P_IPV6:
		if (!read(skb, ETH_HLEN, &six, sizeof(six)))
			return;
		__builtin_memcpy(f->src, &six.saddr, sizeof(f->src));
		__builtin_memcpy(f->dst, &six.daddr, sizeof(f->dst));
		if (find_transport(skb, ETH_HLEN + sizeof(six), six.nexthdr, &t) && !is_fragment(&t))
			read_transport(skb, t.at, t.proto, f);
	}
}

// is_routed says whether a router leads the packet on: it is addressed to one, and neither end is of the link alone.
static __always_inline int is_routed(struct __sk_buff *skb, const struct flow *f)
{
	const struct ethhdr *eth = head(skb);

	if ((void *)(eth + 1) > end(skb) || !is_router(eth->h_dest) || !(f->src[0] | f->src[1]))
		return 0;
	return !is_link_local(f->src) && !is_link_local(f->dst) && !is_multicast(f->dst);
}

// port_at_destination is the PortID of the station that has the packet's destination, or NO_PORT.
static __always_inline __u32 port_at_destination(struct __sk_buff *skb, const struct flow *f)
{
	struct ip_address address = mapped4(f->dst[0]);
	const __u32 *port;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		__builtin_memcpy(&address, f->dst, sizeof(address));
	port = bpf_map_lookup_elem(&addresses, &address);
	return port ? *port : NO_PORT;
}

// pass has the host's stack be the router between stations, to which packets come as they do from the dataplane: what
// a pod sends, from an address of its own, enters the stack by the host's port, and what leaves the stack there goes to
// the pod that has the address. Nothing goes back to where it came from. It returns the action.
static __always_inline int pass(struct __sk_buff *skb, __u32 port, __u32 host, const struct flow *f)
{
	__u32 ifindex = skb->ifindex, to = port == host ? port_at_destination(skb, f) : host;
	const struct station *s = bpf_map_lookup_elem(&stations, &ifindex);
	const struct port *p = bpf_map_lookup_elem(&ports, &to);
	struct port_mac macs[2] = {{}, mac_of(0)};
	struct egress e = {};

	if (!s || !p || !p->host_ifindex != (port == host) || (s->router && port != host) || !is_routed(skb, f))
		return TC_ACT_SHOT;
	__builtin_memcpy(&macs[0], p->mac, sizeof(macs[0]));
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	e.kind = p->host_ifindex ? EGRESS_HOST : EGRESS_POD;
	e.ifindex = p->host_ifindex ? p->host_ifindex : p->ifindex;
	return leave(skb, &e);
}

// absent is for what userspace does not take.
static __always_inline int absent(struct __sk_buff *skb, __u32 port, const struct flow_control *c, const struct flow *f)
{
	int action = TC_ACT_SHOT;

	if (c->on_absence == ABSENCE_PASS)
		action = pass(skb, port, c->host_port, f);
	return count(skb, port, action == TC_ACT_SHOT ? ABSENT_DROPPED : ABSENT_PASSED, action);
}

// to_userspace marks the packet and sends it by the trunk, unless nobody is there to take it. It is a function of its
// own so that a packet that is carried runs through as little code as can be, most of which is in no cache.
static __noinline int to_userspace(struct __sk_buff *skb, __u32 port)
{
	const struct flow_control *c = the_control();
	struct port_mac mac = mac_of(port);
	const struct trunk *t = the_trunk();
	struct flow f = {};
	__u32 queue;

	read_flow(skb, &f);
	queue = queue_of(c, t, &f, port);
	if (c && is_silent(c, queue))
		return absent(skb, port, c, &f);
	if (!t)
		return drop(skb, port, NO_TRUNK_DROPPED);
	if (bpf_skb_store_bytes(skb, ETH_ALEN, &mac, sizeof(mac), 0))
		return drop(skb, port, CUT_ETHERNET_DROPPED);
	return count(skb, port, FROM_PORT, into_trunk(skb, t, queue));
}

SEC("tc")
int from_port(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, len = skb->len, egress = 0;
	const struct station *s = bpf_map_lookup_elem(&stations, &ifindex);
	__u32 port = s ? s->port : NO_PORT;
	int reason = UNKNOWN_DEVICE_DROPPED, action = TC_ACT_UNSPEC, to_router = 0;

	if (s)
		reason = judge(skb, s, &to_router);
	if (reason == FROM_PORT && to_router)
		action = carry(skb, port, &egress);
	if (action == TC_ACT_SHOT)
		reason = UNWRITABLE_DROPPED;
	if (reason != FROM_PORT)
		return drop(skb, port, reason);
	if (action == TC_ACT_UNSPEC)
		return to_userspace(skb, port);
	note_carried(port, len, port_of_egress(egress), skb->len);
	return action;
}

char _license[] SEC("license") = "Dual BSD/GPL";
