// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The hooks of the node's own sockets, at a cgroup. What such a socket asks for at an address of the node or at
// loopback never leaves the host's stack: where that is a node port, or a frontend at that address, the destination
// becomes the dataplane's own address, where the same port is, before there is a packet. The application hears of the
// address that it asked for.
//
// A cgroup's hooks are for the sockets of all network namespaces: those of others than the host's are left alone.
#include "services.h"

// The addresses that were asked for. Of several at one port of the node a UDP socket hears of the last.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct asked);
	__type(value, struct ip_address);
	__uint(max_entries, 16384);
} asked SEC(".maps");

static __always_inline struct asked key_of(struct bpf_sock_addr *ctx, const struct ip_address *a, __be16 port)
{
	return (struct asked){.socket = bpf_get_socket_cookie(ctx), .port = port, .ipv6 = !is_mapped(a)};
}

static __always_inline const struct node *node_of(struct bpf_sock_addr *ctx)
{
	const struct node *n = the_node();

	return n && bpf_get_netns_cookie(ctx) == n->netns ? n : NULL;
}

// canonical: all of 127.0.0.0/8 is one address, and so is the unspecified one, which the stack takes for it.
static __always_inline struct ip_address canonical(const struct ip_address *a)
{
	if (is_mapped(a)) {
		if (!a->word[3] || (a->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000))
			return mapped(bpf_htonl(0x7f000001));
	} else if (!(a->word[0] | a->word[1] | a->word[2] | a->word[3])) {
		return (struct ip_address){{0, 0, 0, bpf_htonl(1)}};
	}
	return *a;
}

// is_taken says whether a service has the port at the address, one of the host's.
static __always_inline int is_taken(const struct ip_address *at, __u8 proto, __be16 port)
{
	__u32 uses = uses_of(at);

	if (uses & AT_LOOPBACK)
		return has_node_port(at, proto, port);
	return uses & AT_HOST && is_frontend(at, uses, proto, port);
}

// translate makes the destination the dataplane's and says whether it did.
static __always_inline int translate(struct bpf_sock_addr *ctx, struct ip_address *to)
{
	struct ip_address at = canonical(to), dataplane;
	const struct node *n = node_of(ctx);
	__be16 port = ctx->user_port;
	struct asked key;

	if (!n || !is_taken(&at, ctx->protocol, port))
		return 0;
	dataplane = is_mapped(to) ? n->dataplane[0] : n->dataplane[1];
	if (!dataplane.word[3])
		return 0;
	key = key_of(ctx, to, port);
	bpf_map_update_elem(&asked, &key, to, BPF_ANY);
	*to = dataplane;
	return 1;
}

// restore makes the dataplane's address that which the application asked for, and says whether it did.
static __always_inline int restore(struct bpf_sock_addr *ctx, struct ip_address *from)
{
	const struct node *n = node_of(ctx);
	const struct ip_address *before, *dataplane;
	struct asked key;

	if (!n)
		return 0;
	dataplane = is_mapped(from) ? &n->dataplane[0] : &n->dataplane[1];
	if (from->word[3] != dataplane->word[3] || from->word[2] != dataplane->word[2] ||
	    from->word[1] != dataplane->word[1] || from->word[0] != dataplane->word[0])
		return 0;
	key = key_of(ctx, from, ctx->user_port);
	before = bpf_map_lookup_elem(&asked, &key);
	if (!before)
		return 0;
	*from = *before;
	return 1;
}

static __always_inline struct ip_address ipv6_of(const struct bpf_sock_addr *ctx)
{
	return (struct ip_address){{ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}};
}

static __always_inline void set_ipv6(struct bpf_sock_addr *ctx, const struct ip_address *a)
{
	ctx->user_ip6[0] = a->word[0];
	ctx->user_ip6[1] = a->word[1];
	ctx->user_ip6[2] = a->word[2];
	ctx->user_ip6[3] = a->word[3];
}

// Programs at a cgroup return 1: the call goes on.

static __always_inline int translate_ipv4(struct bpf_sock_addr *ctx)
{
	struct ip_address to = mapped(ctx->user_ip4);

	if (translate(ctx, &to))
		ctx->user_ip4 = to.word[3];
	return 1;
}

static __always_inline int translate_ipv6(struct bpf_sock_addr *ctx)
{
	struct ip_address to = ipv6_of(ctx);

	if (translate(ctx, &to))
		set_ipv6(ctx, &to);
	return 1;
}

static __always_inline int restore_ipv4(struct bpf_sock_addr *ctx)
{
	struct ip_address from = mapped(ctx->user_ip4);

	if (restore(ctx, &from))
		ctx->user_ip4 = from.word[3];
	return 1;
}

static __always_inline int restore_ipv6(struct bpf_sock_addr *ctx)
{
	struct ip_address from = ipv6_of(ctx);

	if (restore(ctx, &from))
		set_ipv6(ctx, &from);
	return 1;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return translate_ipv4(ctx);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return translate_ipv6(ctx);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return translate_ipv4(ctx);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return translate_ipv6(ctx);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore_ipv4(ctx);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore_ipv6(ctx);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return restore_ipv4(ctx);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return restore_ipv6(ctx);
}

char _license[] SEC("license") = "Dual BSD/GPL";
