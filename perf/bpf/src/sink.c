// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The sink: counts probe packets and drops them, lets everything else (ARP, ND, TCP of the other scenarios) pass. At
// XDP where a driver receives; at tcx where what bpf_redirect_peer delivers, which passes no driver, is received too.

#include <linux/pkt_cls.h>

#include "probe.h"

#define BUCKETS 512 /* 8 for each power of two: an upper edge is at most 12.5 % away */

struct sink_config {
	__u32 timed;
};

struct sink_counts {
	__u64 packets;
	__u64 bytes;
	__u64 other; /* passed on */
};

volatile const struct sink_config config;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sink_counts);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} latency SEC(".maps");

static __always_inline __u32 log2_64(__u64 v)
{
	__u32 r = 0;

	if (v >> 32) {
		v >>= 32;
		r += 32;
	}
	if (v >> 16) {
		v >>= 16;
		r += 16;
	}
	if (v >> 8) {
		v >>= 8;
		r += 8;
	}
	if (v >> 4) {
		v >>= 4;
		r += 4;
	}
	if (v >> 2) {
		v >>= 2;
		r += 2;
	}
	return r + (v >> 1);
}

/* Three bits below the leading one choose the bucket within its power of two; below 8 ns each value has its own. */
static __always_inline __u32 bucket(__u64 ns)
{
	__u32 e;

	if (ns < 8)
		return ns;
	e = log2_64(ns);
	return ((e - 2) << 3 | ((ns >> (e - 3)) & 7)) & (BUCKETS - 1);
}

static __always_inline void time_probe(void *payload, void *end)
{
	struct stamp *stamp = payload;
	__u64 now, *n;
	__u32 b;

	if ((void *)(stamp + 1) > end)
		return;
	now = bpf_ktime_get_ns();
	if (now < stamp->sent_ns)
		return;
	b = bucket(now - stamp->sent_ns);
	n = bpf_map_lookup_elem(&latency, &b);
	if (n)
		(*n)++;
}

/* The UDP header of a packet, NULL if it is not plain UDP. */
static __always_inline struct udphdr *udp_of(void *data, void *end)
{
	struct ethhdr *eth = data;
	void *l4;

	if ((void *)(eth + 1) > end)
		return NULL;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->ihl != 5 || ip->protocol != IPPROTO_UDP)
			return NULL;
		l4 = ip + 1;
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->nexthdr != IPPROTO_UDP)
			return NULL;
		l4 = ip + 1;
	} else {
		return NULL;
	}
	return l4 + sizeof(struct udphdr) > end ? NULL : l4;
}

/* Counts the packet if it is a probe. */
static __always_inline int counted(void *data, void *end, __u64 len)
{
	struct udphdr *udp = udp_of(data, end);
	struct sink_counts *c;
	__u32 zero = 0;

	c = bpf_map_lookup_elem(&counts, &zero);
	if (!c)
		return 0;
	if (!udp || (__u16)(bpf_ntohs(udp->dest) - PROBE_DPORT) >= PROBE_DPORTS) {
		c->other++;
		return 0;
	}
	c->packets++;
	c->bytes += len;
	if (config.timed)
		time_probe(udp + 1, end);
	return 1;
}

SEC("xdp.frags")
int count(struct xdp_md *ctx)
{
	return counted((void *)(long)ctx->data, (void *)(long)ctx->data_end, bpf_xdp_get_buff_len(ctx)) ? XDP_DROP
													: XDP_PASS;
}

/* Of a probe, the headers and the stamp are in the linear part: the generator's frames are. */
SEC("tcx/ingress")
int count_received(struct __sk_buff *skb)
{
	return counted((void *)(long)skb->data, (void *)(long)skb->data_end, skb->len) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

static __always_inline void swap(void *a, void *b, __u32 size)
{
	__u8 *left = a, *right = b, kept;

#pragma unroll
	for (int i = 0; i < 16; i++) {
		if (i >= size)
			break;
		kept = left[i];
		left[i] = right[i];
		right[i] = kept;
	}
}

/* Sends probes of IPv4 back to where they come from: no checksum changes by it. */
SEC("tcx/ingress")
int answer(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct udphdr *udp = (void *)(ip + 1);
	struct ethhdr *eth = data;

	if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) || !udp_of(data, end) ||
	    (__u16)(bpf_ntohs(udp->dest) - PROBE_DPORT) >= PROBE_DPORTS)
		return TC_ACT_UNSPEC;
	swap(eth->h_dest, eth->h_source, ETH_ALEN);
	swap(&ip->saddr, &ip->daddr, sizeof(ip->saddr));
	swap(&udp->source, &udp->dest, sizeof(udp->source));
	return bpf_redirect(skb->ifindex, 0);
}

/* Takes what was sent back so, which nobody asked for. */
SEC("tcx/ingress")
int take_answer(struct __sk_buff *skb)
{
	struct udphdr *udp = udp_of((void *)(long)skb->data, (void *)(long)skb->data_end);

	return udp && (__u16)(bpf_ntohs(udp->source) - PROBE_DPORT) < PROBE_DPORTS ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
