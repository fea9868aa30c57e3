// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// What the hooks know of services: where they take traffic. All hooks of a node have the same maps, which a restarted
// dataplane takes over from their pins.
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "shared.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct frontend);
	__type(value, __u8); // nothing
	__uint(max_entries, 131072);
} frontends SEC(".maps");

// AT_ bits by address. What is not in it is asked nothing more of.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip_address);
	__type(value, __u32);
	__uint(max_entries, 65536);
} service_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct node);
	__uint(max_entries, 1);
} node SEC(".maps");

static __always_inline const struct node *the_node(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&node, &zero);
}

static __always_inline struct ip_address mapped(__be32 ipv4)
{
	return (struct ip_address){{0, 0, bpf_htonl(0xffff), ipv4}};
}

static __always_inline int is_mapped(const struct ip_address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);
}

// uses_of returns the AT_ bits of an address.
static __always_inline __u32 uses_of(const struct ip_address *a)
{
	const __u32 *uses = bpf_map_lookup_elem(&service_addresses, a);

	return uses ? *uses : 0;
}

static __always_inline int has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

// has_node_port says whether there is a node port for an address of the family of a.
static __always_inline int has_node_port(const struct ip_address *a, __u8 proto, __be16 port)
{
	struct frontend f = {.port = port, .proto = proto};

	if (is_mapped(a))
		f.address = mapped(0);
	return !!bpf_map_lookup_elem(&frontends, &f);
}

// is_frontend says whether a service takes what is for the address, which has these uses.
static __always_inline int is_frontend(const struct ip_address *a, __u32 uses, __u8 proto, __be16 port)
{
	struct frontend f = {.address = *a, .port = port, .proto = proto};

	if (!has_ports(proto))
		return 0;
	if (uses & AT_FRONTEND && bpf_map_lookup_elem(&frontends, &f))
		return 1;
	return uses & AT_NODE_PORTS && has_node_port(a, proto, port);
}
