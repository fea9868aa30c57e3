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

// What was carried from ports and to them, by PortID. PortIDs are small numbers, and an array is asked without a call;
// what is carried of a port whose number is larger stands in port_counters.
#define MAX_CARRIED_COUNTERS 4096

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct carried_counters);
	__uint(max_entries, MAX_CARRIED_COUNTERS);
} carried_counters SEC(".maps");

#define NO_PORT 0

static __noinline void note(__u32 port, __u32 reason, __u32 bytes)
{
	struct trunk_counters *c = bpf_map_lookup_elem(&port_counters, &port);

	if (c && reason < NUM_TRUNK_REASONS) {
		c->of[reason].packets++;
		c->of[reason].bytes += bytes;
	}
}

// note_carried counts a packet that one port sent and another one gets, with the bytes that it had and has.
static __always_inline void note_carried(__u32 from, __u32 sent, __u32 to, __u32 got)
{
	struct carried_counters *c = bpf_map_lookup_elem(&carried_counters, &from);

	if (c) {
		c->from.packets++;
		c->from.bytes += sent;
	} else {
		note(from, CARRIED, sent);
	}
	c = bpf_map_lookup_elem(&carried_counters, &to);
	if (c) {
		c->to.packets++;
		c->to.bytes += got;
	} else {
		note(to, CARRIED_TO, got);
	}
}
