// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The generator: run by BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES, once for each frame. Frames come from a
// page pool and return to it after the forwarder has edited them (net/bpf/test_run.c writes a page only when it is
// first allocated), so every header byte is written here, every time, from a template.

#include "probe.h"

#define MAX_HEADER  (sizeof(struct ethhdr) + sizeof(struct ipv6hdr) + sizeof(struct udphdr))
#define MAX_WAIT_NS 50000   /* softirqs are off while a test-run batch runs: wait this long at most */
#define MAX_LAG_NS  1000000 /* a thread that was held up for longer does not make up for it */

struct gen_config {
	__u8 header[64];     /* Ethernet, IP and UDP or TCP; zero where this program writes. The rest is padding. */
	__u32 ip_sum;	     /* sum of the header's IPv4 words as they stand, not folded */
	__u32 udp_sum;	     /* the same for UDP or TCP: pseudo-header, ports and length as they stand */
	__u32 destination;   /* IPv4 address, or bits 32 to 63 of the IPv6 one, of prefix 0; host byte order */
	__u32 prefix_stride; /* from one prefix to the next, in units of destination */
	__u32 prefixes;
	__u32 flows;
	__u32 step; /* from one frame's flow to the next one's, less than flows or 1 */
	__u32 ifindex;
	__u32 ipv6;
	__u32 timed;
	__u32 random_sources; /* bits of the IPv4 source address that a TCP request fills in */
	__u64 interval_ns;    /* between two frames of one thread, 0: as fast as possible */
};

/* One for each CPU, and the generator pins one thread to a CPU. */
struct gen_state {
	__u64 sent;
	__u64 limit;  /* stop after this many */
	__u64 due_ns; /* when the next frame may leave */
	__u64 flow;   /* the next one */
};

volatile const struct gen_config config;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gen_state);
} states SEC(".maps");

/* Written by userspace to end all threads: what is left of a test run is then dropped. */
__u32 stopped;

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static long wait_step(__u32 i, void *ctx)
{
	return bpf_ktime_get_ns() >= *(__u64 *)ctx;
}

/* Whether the frame may leave. */
static __always_inline int paced(struct gen_state *s)
{
	__u64 now = bpf_ktime_get_ns(), until = s->due_ns;

	if (now + MAX_WAIT_NS < until)
		until = now + MAX_WAIT_NS;
	if (now < until)
		bpf_loop(1 << 12, wait_step, &until, 0);
	now = bpf_ktime_get_ns();
	if (now < s->due_ns)
		return 0;
	if (now - s->due_ns > MAX_LAG_NS)
		s->due_ns = now;
	s->due_ns += config.interval_ns;
	return 1;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct gen_state *s;
	struct udphdr *udp;
	__u32 zero = 0, flow, dst, len;
	__u64 ip_sum, udp_sum;
	__u64 *words = data;

	s = bpf_map_lookup_elem(&states, &zero);
	if (!s || stopped || s->sent >= s->limit)
		return XDP_DROP;
	if (config.interval_ns && !paced(s))
		return XDP_DROP;

	len = config.ipv6 ? MAX_HEADER : MAX_HEADER - sizeof(struct ipv6hdr) + sizeof(struct iphdr);
	if (data + len > end)
		return XDP_ABORTED;

	flow = s->flow;
	s->flow = flow + config.step >= config.flows ? flow + config.step - config.flows : flow + config.step;
	/* A prime step spreads neighbouring flows over far prefixes. */
	dst = bpf_htonl(config.destination + (flow * 7919) % config.prefixes * config.prefix_stride);

#pragma unroll
	for (int i = 0; i < 5; i++)
		words[i] = ((volatile const __u64 *)config.header)[i];
	if (config.ipv6) {
		struct ipv6hdr *ip = data + sizeof(struct ethhdr);

		words[5] = ((volatile const __u64 *)config.header)[5];
		words[6] = ((volatile const __u64 *)config.header)[6];
		*(__u32 *)(data + 56) = *(volatile const __u32 *)(config.header + 56);
		*(__u16 *)(data + 60) = *(volatile const __u16 *)(config.header + 60);
		ip->daddr.in6_u.u6_addr32[1] = dst;
		udp = (void *)(ip + 1);
	} else {
		struct iphdr *ip = data + sizeof(struct ethhdr);

		*(__u16 *)(data + 40) = *(volatile const __u16 *)(config.header + 40);
		ip->daddr = dst;
		ip_sum = (__u64)config.ip_sum + dst;
		ip->check = fold(ip_sum);
		udp = (void *)(ip + 1);
	}
	udp->source = bpf_htons(PROBE_SPORT + (flow & ((1 << PROBE_FLOW_BITS) - 1)));
	udp->dest = bpf_htons(PROBE_DPORT + (flow >> PROBE_FLOW_BITS));
	udp_sum = (__u64)config.udp_sum + dst + udp->source + udp->dest;

	if (config.timed) {
		struct stamp *stamp = (void *)(udp + 1);

		if ((void *)(stamp + 1) > end)
			return XDP_ABORTED;
		stamp->sent_ns = bpf_ktime_get_ns();
		udp_sum += (stamp->sent_ns & 0xffffffff) + (stamp->sent_ns >> 32);
	}
	udp->check = fold(udp_sum);
	if (!udp->check)
		udp->check = 0xffff; /* RFC 768: zero would say that there is none */

	s->sent++;
	return bpf_redirect(config.ifindex, 0);
}

/* A TCP connection request (SYN) over IPv4, from a random source, port and sequence number. */
SEC("xdp")
int request(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct tcphdr *tcp = (void *)(ip + 1);
	__u64 *words = data, sum;
	struct gen_state *s;
	__u32 zero = 0;

	s = bpf_map_lookup_elem(&states, &zero);
	if (!s || stopped || s->sent >= s->limit)
		return XDP_DROP;
	if (config.interval_ns && !paced(s))
		return XDP_DROP;
	if (data + sizeof(config.header) > end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < 8; i++)
		words[i] = ((volatile const __u64 *)config.header)[i];

	ip->saddr |= bpf_htonl(bpf_get_prandom_u32() & config.random_sources);
	ip->daddr = bpf_htonl(config.destination);
	sum = (__u64)config.ip_sum + (ip->saddr & bpf_htonl(config.random_sources)) + ip->daddr;
	ip->check = fold(sum);
	tcp->source = bpf_htons(1024 + (bpf_get_prandom_u32() & 0x7fff));
	tcp->seq = bpf_get_prandom_u32();
	sum = (__u64)config.udp_sum + (ip->saddr & bpf_htonl(config.random_sources)) + ip->daddr + tcp->source +
	      tcp->seq;
	tcp->check = fold(sum);

	s->sent++;
	return bpf_redirect(config.ifindex, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
