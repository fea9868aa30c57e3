/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What generator and sink agree on: how a probe packet looks. */
#ifndef PERF_PROBE_H
#define PERF_PROBE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Source ports hold the low 15 bits of the flow, destination ports the rest, counted from these. */
#define PROBE_SPORT	1024
#define PROBE_DPORT	2000
#define PROBE_DPORTS	64
#define PROBE_FLOW_BITS 15

/* The first bytes of the UDP payload of a timed probe. The rest of the payload is zero. */
struct stamp {
	__u64 sent_ns; /* bpf_ktime_get_ns(), host byte order: one machine has one clock */
};

#endif
