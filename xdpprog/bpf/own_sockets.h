// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Whether a packet is for a socket of the host's. An address may be the host's and the dataplane's at once: of what
// comes to it, that is the host's for which it has a socket.
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "services.h"

// socket_state is that of the socket that the host has for what comes from src to dst and their ports, one of
// BPF_TCP_…; 0: it has none.
static __noinline int socket_state(struct __sk_buff *skb, const struct ip_address *src, const struct ip_address *dst,
				   const __be16 ports[2], __u8 proto)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sock;
	__u32 size = sizeof(t.ipv6);
	int state;

	if (is_mapped(dst)) {
		t.ipv4.saddr = src->word[3];
		t.ipv4.daddr = dst->word[3];
		t.ipv4.sport = ports[0];
		t.ipv4.dport = ports[1];
		size = sizeof(t.ipv4);
	} else {
		__builtin_memcpy(t.ipv6.saddr, src, sizeof(*src));
		__builtin_memcpy(t.ipv6.daddr, dst, sizeof(*dst));
		t.ipv6.sport = ports[0];
		t.ipv6.dport = ports[1];
	}
	// Each reads it for itself: the verifier has one load be of one kind of pointer.
	if (proto == IPPROTO_TCP) {
		sock = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
		if (!sock)
			return 0;
		state = sock->state;
		barrier_var(state);
		bpf_sk_release(sock);
		return state;
	}
	if (proto != IPPROTO_UDP)
		return 0;
	sock = bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	if (!sock)
		return 0;
	state = sock->state;
	bpf_sk_release(sock);
	return state;
}

// has_socket says whether the host has a connection with what comes from src to dst and their ports, or listens there.
static __always_inline int has_socket(struct __sk_buff *skb, const struct ip_address *src, const struct ip_address *dst,
				      const __be16 ports[2], __u8 proto)
{
	return socket_state(skb, src, dst, ports, proto) != 0;
}

// has_connection says whether it is connected with the other end. Of UDP that is a state, too: a socket that is not
// connected is closed.
static __always_inline int has_connection(struct __sk_buff *skb, const struct ip_address *src,
					  const struct ip_address *dst, const __be16 ports[2], __u8 proto)
{
	int state = socket_state(skb, src, dst, ports, proto);

	return state && state != BPF_TCP_LISTEN && state != BPF_TCP_CLOSE;
}
