// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// What the programs and the Go side both know. Sizes and values are asserted on both sides: layout_test.go.
#pragma once

#include <linux/types.h>

// Why a packet had its XDP action. The names for people stand in counters.go, in the same order.
enum reason {
	TO_USERSPACE,
	PASSED_NOT_OURS,
	PASSED_TRUNCATED,
	PASSED_TOO_MANY_TAGS,
	PASSED_MALFORMED,
	NO_SOCKET_DROPPED,
	NO_SOCKET_PASSED,
	NUM_REASONS,
};

// What happened for one reason, on one CPU.
struct counter {
	__u64 packets;
	__u64 bytes; // of the whole frame, all fragments, without the FCS
};

// What changes while the program runs.
struct config {
	__u32 on_absence; // XDP_DROP or XDP_PASS: what a packet gets that has no socket to go to
};

enum family {
	FAMILY_IPV4 = 4,
	FAMILY_IPV6 = 6,
};

// A key of the trie of our addresses. The family is part of the prefix, so that ::/0 does not hold IPv4.
struct address_key {
	__u32 prefixlen;  // bits of family and address together: 32 and the prefix's length
	__u32 family;	  // enum family, host byte order
	__u8 address[16]; // network byte order; IPv4 in the first four bytes, zeros behind
};

_Static_assert(sizeof(struct counter) == 16, "counterValue in Go");
_Static_assert(sizeof(struct config) == 4, "configValue in Go");
_Static_assert(sizeof(struct address_key) == 24, "addressKey in Go");
_Static_assert(NUM_REASONS == 7, "numReasons in Go");
