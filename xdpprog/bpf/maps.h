// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The maps of a port. Each port has its own, which a restarted dataplane takes over from their pins.
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "carry.h"
#include "shared.h"

// The AF_XDP socket of each receive queue. The loader sets its size to the port's number of queues.
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct counter);
	__uint(max_entries, NUM_REASONS);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct config);
	__uint(max_entries, 1);
} config SEC(".maps");

static __always_inline void count_bytes(__u32 reason, __u64 bytes)
{
	struct counter *c = bpf_map_lookup_elem(&counters, &reason);

	if (c) {
		c->packets++;
		c->bytes += bytes;
	}
}

// count notes the packet under its reason and returns the action, so that a verdict is one line.
static __always_inline int count(struct xdp_md *ctx, __u32 reason, int action)
{
	count_bytes(reason, bpf_xdp_get_buff_len(ctx));
	return action;
}

// the_config is never NULL, which the verifier does not know.
static __always_inline const struct config *the_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

// to_userspace hands the packet to the socket of the queue it came in on. bpf_redirect_map returns the action in its
// flags when there is no such socket (net/core/filter.c, __bpf_xdp_redirect_map).
static __always_inline int to_userspace(struct xdp_md *ctx, const struct config *c)
{
	__u32 absent = c->on_absence == XDP_PASS ? XDP_PASS : XDP_DROP;
	const struct flow_control *f = the_control();
	int action;

	if (f && is_silent(f, ctx->rx_queue_index)) // its sockets may be there
		return count(ctx, absent == XDP_PASS ? WIRE_ABSENT_PASSED : WIRE_ABSENT_DROPPED, absent);
	action = bpf_redirect_map(&sockets, ctx->rx_queue_index, absent);
	if (action == XDP_REDIRECT)
		return count(ctx, TO_USERSPACE, action);
	return count(ctx, absent == XDP_PASS ? NO_SOCKET_PASSED : NO_SOCKET_DROPPED, action);
}
