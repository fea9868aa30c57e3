// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The least that an XDP program can do to forward: every frame leaves by the device that a devmap has, as it came. The
// program of each port has a map of its own.

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} out SEC(".maps");

SEC("xdp.frags")
int to_device(struct xdp_md *ctx)
{
	return bpf_redirect_map(&out, 0, XDP_DROP);
}
