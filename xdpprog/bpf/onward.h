// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// What an XDP hook writes before packets that from_wire_tc is to lead on.
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "flow_table.h"
#include "shared.h"

// seal_of is what nobody knows who does not know the seed, which it does not tell either.
static __always_inline __u64 seal_of(const struct flow_control *c)
{
	__u64 seal = (c->seed[0] ^ HASH_HIGH) * (c->seed[1] | 1);

	return seal ^ seal >> 32;
}
