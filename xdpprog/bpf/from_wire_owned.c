// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The hook from_wire of a port that the dataplane owns: packets of flows that userspace has decided about are carried,
// every other one goes to userspace.
#include "carry_xdp.h"
#include "maps.h"

SEC("xdp.frags")
int from_wire_owned(struct xdp_md *ctx)
{
	const struct config *c = the_config();
	int action;

	if (!c)
		return XDP_ABORTED;
	action = carry(ctx, c);
	return action == NOT_CARRIED ? to_userspace(ctx, c) : action;
}

char _license[] SEC("license") = "Dual BSD/GPL";
