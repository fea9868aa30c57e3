// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The sink: counts probe packets and drops them, lets everything else (ARP, ND, TCP of the other scenarios) pass.

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

SEC("xdp.frags")
int count(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = udp_of(data, end);
	struct sink_counts *c;
	__u32 zero = 0;

	c = bpf_map_lookup_elem(&counts, &zero);
	if (!c)
		return XDP_PASS;
	if (!udp || (__u16)(bpf_ntohs(udp->dest) - PROBE_DPORT) >= PROBE_DPORTS) {
		c->other++;
		return XDP_PASS;
	}
	c->packets++;
	c->bytes += bpf_xdp_get_buff_len(ctx);
	if (config.timed)
		time_probe(udp + 1, end);
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
