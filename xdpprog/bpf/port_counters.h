// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// What hooks did with the packets of ports. All hooks of a node have the same map.
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "shared.h"

// By PortID; those of NO_PORT are of packets that belong to none.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct trunk_counters);
	__uint(max_entries, 1);
} port_counters SEC(".maps");

#define NO_PORT 0

static __always_inline void note(__u32 port, __u32 reason, __u32 bytes)
{
	struct trunk_counters *c = bpf_map_lookup_elem(&port_counters, &port);

	if (c && reason < NUM_TRUNK_REASONS) {
		c->of[reason].packets++;
		c->of[reason].bytes += bytes;
	}
}
