// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The hook from_wire of an uplink that the dataplane shares with the kernel: packets of flows that userspace has
// decided about are carried; what else is addressed to us goes to userspace; everything else, and everything odd, goes
// to the kernel as if there were no hook.
#include "carry_xdp.h"
#include "maps.h"
#include "parse.h"

// Our addresses and prefixes. The value is TAKES_PACKETS where somebody else answers for them on the link.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address_key);
	__type(value, __u8);
	__uint(max_entries, 65536);
} addresses SEC(".maps");

#define TAKES_PACKETS 2

// Each parser says TO_USERSPACE for what is ours and one of the PASSED_ reasons for what is not.

// ours: asked says that the packet asks on the link whose the address is.
static __always_inline int ours(struct address_key *key, int asked)
{
	const __u8 *takes = bpf_map_lookup_elem(&addresses, key);

	return takes && !(asked && *takes == TAKES_PACKETS) ? TO_USERSPACE : PASSED_NOT_OURS;
}

static __always_inline int ours_ipv4(const void *address, int asked)
{
	struct address_key key = {.prefixlen = 32 + 32, .family = FAMILY_IPV4};

	__builtin_memcpy(key.address, address, 4);
	return ours(&key, asked);
}

static __always_inline int ours_ipv6(const void *address, int asked)
{
	struct address_key key = {.prefixlen = 32 + 128, .family = FAMILY_IPV6};

	__builtin_memcpy(key.address, address, 16);
	return ours(&key, asked);
}

// remaining is the number of bytes from the cursor on, those in fragments included.
static __always_inline __u32 remaining(struct xdp_md *ctx, struct cursor *c)
{
	return bpf_xdp_get_buff_len(ctx) - c->taken;
}

static __always_inline int judge_arp(struct cursor *c)
{
	struct arp_ipv4 *arp = take(c, sizeof(*arp));

	if (!arp)
		return PASSED_TRUNCATED;
	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_len != ETH_ALEN ||
	    arp->protocol_len != 4)
		return PASSED_MALFORMED;
	return ours_ipv4(arp->target, 1);
}

static __always_inline int judge_ipv4(struct xdp_md *ctx, struct cursor *c)
{
	__u32 left = remaining(ctx, c);
	struct iphdr *ip = take(c, sizeof(*ip));
	__u32 len;

	if (!ip)
		return PASSED_TRUNCATED;
	len = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || ip->ihl < 5 || len < ip->ihl * 4)
		return PASSED_MALFORMED;
	if (len > left)
		return PASSED_TRUNCATED;
	return ours_ipv4(&ip->daddr, 0);
}

// judge_nd looks at what a solicitation or advertisement is about: its destination is a multicast group.
static __always_inline int judge_nd(struct ipv6hdr *ip, struct cursor *c)
{
	struct nd *nd = take(c, sizeof(*nd));

	if (!nd || (nd->type != ND_SOLICITATION && nd->type != ND_ADVERTISEMENT))
		return PASSED_NOT_OURS;
	if (nd->code != 0 || ip->hop_limit != ND_HOP_LIMIT || bpf_ntohs(ip->payload_len) < sizeof(*nd))
		return PASSED_MALFORMED;
	return ours_ipv6(nd->target, 1);
}

static __always_inline int judge_ipv6(struct xdp_md *ctx, struct cursor *c)
{
	__u32 left = remaining(ctx, c);
	struct ipv6hdr *ip = take(c, sizeof(*ip));

	if (!ip)
		return PASSED_TRUNCATED;
	if (ip->version != 6)
		return PASSED_MALFORMED;
	if (sizeof(*ip) + bpf_ntohs(ip->payload_len) > left)
		return PASSED_TRUNCATED;
	if (ours_ipv6(&ip->daddr, 0) == TO_USERSPACE)
		return TO_USERSPACE;
	return ip->nexthdr == IPPROTO_ICMPV6 ? judge_nd(ip, c) : PASSED_NOT_OURS;
}

static __always_inline int judge(struct xdp_md *ctx)
{
	struct cursor c = cursor_of(ctx);
	struct ethhdr *eth = take(&c, sizeof(*eth));
	struct vlan_tag *tag;
	__be16 proto;

	if (!eth)
		return PASSED_TRUNCATED;
	proto = eth->h_proto;
#pragma unroll
	for (int i = 0; i < MAX_TAGS; i++) {
		if (!is_tag(proto))
			break;
		tag = take(&c, sizeof(*tag));
		if (!tag)
			return PASSED_TRUNCATED;
		proto = tag->proto;
	}
	if (is_tag(proto))
		return PASSED_TOO_MANY_TAGS;
	switch (bpf_ntohs(proto)) {
	case ETH_P_IP:
		return judge_ipv4(ctx, &c);
	case ETH_P_IPV6:
		return judge_ipv6(ctx, &c);
	case ETH_P_ARP:
		return judge_arp(&c);
	}
	return PASSED_NOT_OURS;
}

SEC("xdp.frags")
int from_wire_shared(struct xdp_md *ctx)
{
	const struct config *c = the_config();
	int action, reason;

	if (!c)
		return XDP_ABORTED;
	action = carry(ctx, c);
	if (action != NOT_CARRIED)
		return action;
	reason = judge(ctx);
	return reason == TO_USERSPACE ? to_userspace(ctx, c) : count(ctx, reason, XDP_PASS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
