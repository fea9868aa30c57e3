// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The hook from_wire of a port that the dataplane owns: every packet goes to userspace.
#include "maps.h"

SEC("xdp.frags")
int from_wire_owned(struct xdp_md *ctx)
{
	return to_userspace(ctx);
}

char _license[] SEC("license") = "Dual BSD/GPL";
