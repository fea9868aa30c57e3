// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The hook from_port at the host's end of a port's veth: what the station behind it may send goes to userspace by the
// trunk, marked with the PortID, in the queue of its flow. Nothing goes on into the host's stack.
#include "trunk.h"
#include "flow.h"
#include "flow_table.h"
#include "parse.h"

// Each parser says FROM_PORT or a _DROPPED reason, and fills in the flow. What cannot be read is dropped here: the
// workers are all pods', and no flood of it shall reach them.

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

static __always_inline int has_mac(const struct station *s, const __u8 mac[ETH_ALEN])
{
	__u64 theirs = 0, its = 0;

	__builtin_memcpy(&theirs, mac, ETH_ALEN);
	__builtin_memcpy(&its, s->mac, ETH_ALEN);
	return theirs == its;
}

// judge_arp lets in the sender addresses of the station, and none at all: the probes of RFC 5227.
static __always_inline int judge_arp(struct __sk_buff *skb, const struct station *s)
{
	struct arp_ipv4 arp;
	__be32 sender;

	if (!read(skb, ETH_HLEN, &arp, sizeof(arp)) || arp.hardware != bpf_htons(1) ||
	    arp.protocol != bpf_htons(ETH_P_IP) || arp.hardware_len != ETH_ALEN || arp.protocol_len != sizeof(sender))
		return UNREADABLE_DROPPED;
	if (!has_mac(s, arp.sender_mac))
		return ARP_MAC_DROPPED;
	__builtin_memcpy(&sender, arp.sender, sizeof(sender));
	if (!s->router && sender != 0 && !has_ipv4(s, sender))
		return ARP_ADDRESS_DROPPED;
	return FROM_PORT;
}

static __always_inline int judge_ipv4(struct __sk_buff *skb, const struct station *s, struct flow *f)
{
	struct iphdr ip;

	if (!read(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return UNREADABLE_DROPPED;
	if (!s->router && !has_ipv4(s, ip.saddr))
		return IPV4_SOURCE_DROPPED;
	f->src[0] = ip.saddr;
	f->dst[0] = ip.daddr;
	if (!(ip.frag_off & bpf_htons(IPV4_FRAGMENT)))
		read_transport(skb, ETH_HLEN + ip.ihl * 4, ip.protocol, f);
	return FROM_PORT;
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

static __always_inline int judge_ipv6(struct __sk_buff *skb, const struct station *s, struct flow *f)
{
	struct transport t = {};
	struct ipv6hdr ip;

	if (!read(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 6)
		return UNREADABLE_DROPPED;
	__builtin_memcpy(f->src, &ip.saddr, sizeof(f->src));
	__builtin_memcpy(f->dst, &ip.daddr, sizeof(f->dst));
	if (!s->router && !has_ipv6(s, f->src) && !is_neighbourly(f->src, f->dst))
		return IPV6_SOURCE_DROPPED;
	if (find_transport(skb, ETH_HLEN + sizeof(ip), ip.nexthdr, &t) && !is_fragment(&t))
		read_transport(skb, t.at, t.proto, f);
	return FROM_PORT;
}

// judge drops tagged packets: a port of the trunk has no VLANs, and the XDP hook behind it would not see a tag that
// stands beside the packet.
static __always_inline int judge(struct __sk_buff *skb, const struct station *s, struct flow *f)
{
	struct ethhdr eth;

	if (!read(skb, 0, &eth, sizeof(eth)))
		return CUT_ETHERNET_DROPPED;
	if (!has_mac(s, eth.h_source))
		return SOURCE_MAC_DROPPED;
	if (skb->vlan_present || is_tag(eth.h_proto))
		return TAGGED_DROPPED;
	switch (bpf_ntohs(eth.h_proto)) {
	case ETH_P_IP:
		return judge_ipv4(skb, s, f);
	case ETH_P_IPV6:
		return judge_ipv6(skb, s, f);
	case ETH_P_ARP:
		return judge_arp(skb, s);
	}
	return ETHERTYPE_DROPPED;
}

// to_userspace marks the packet and sends it by the trunk.
static __always_inline int to_userspace(struct __sk_buff *skb, __u32 port, const struct flow *f)
{
	struct port_mac mac = mac_of(port);
	const struct trunk *t = the_trunk();

	if (!t)
		return drop(skb, port, NO_TRUNK_DROPPED);
	if (bpf_skb_store_bytes(skb, ETH_ALEN, &mac, sizeof(mac), 0))
		return drop(skb, port, CUT_ETHERNET_DROPPED);
	return count(skb, port, FROM_PORT, into_trunk(skb, t, f, port));
}

SEC("tc")
int from_port(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct station *s = bpf_map_lookup_elem(&stations, &ifindex);
	struct flow f = {};
	int reason;

	if (!s)
		return drop(skb, NO_PORT, UNKNOWN_DEVICE_DROPPED);
	reason = judge(skb, s, &f);
	if (reason != FROM_PORT)
		return drop(skb, s->port, reason);
	return to_userspace(skb, s->port, &f);
}

char _license[] SEC("license") = "Dual BSD/GPL";
