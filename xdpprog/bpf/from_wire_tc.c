// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The hook from_wire_tc at the ingress of a device whose XDP hook carries: packets that the XDP hook has rewritten for
// a pod or for the host, and passed, it leads on. The kernel has merged them meanwhile (GRO), which it does not do with
// what XDP redirects. It decides nothing: what the XDP hook has not written before a packet goes on to the host's
// stack.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "flow_table.h"
#include "onward.h"

#define GO_ON		-1 // TCX_NEXT, linux/bpf.h
#define PACKET_IS_HOSTS 0  // PACKET_HOST of linux/if_packet.h

// find is what the XDP hook has written, where it is seen to be; NULL: nothing.
static __always_inline const struct onward *find(const struct __sk_buff *skb, __u32 at, __u64 seal)
{
	const struct onward *o = (void *)(long)skb->data_meta + at;

	return (void *)(o + 1) <= (void *)(long)skb->data && o->seal == seal ? o : NULL;
}

// lead_on: a packet with the MAC address of a pod is none for this host to the kernel, and before Linux 6.15 what is
// redirected to a peer keeps its type, by which it would be nobody's there.
static __always_inline int lead_on(struct __sk_buff *skb, __u32 ifindex, __u32 kind)
{
	if (kind != EGRESS_POD)
		return bpf_redirect(ifindex, BPF_F_INGRESS);
	if (skb->pkt_type != PACKET_IS_HOSTS)
		bpf_skb_change_type(skb, PACKET_IS_HOSTS);
	return bpf_redirect_peer(ifindex, 0);
}

// bare has a packet have its link's header again. The kernel that copied it for a generic XDP hook has forgotten how
// long that is (mac_len: net/core/skbuff.c, skb_pp_cow_data), and shows it without: it is behind what the hook has
// written.
static __always_inline int bare(struct __sk_buff *skb, const struct onward *o)
{
	__u32 ifindex = o->ifindex, kind = o->kind;
	const struct ethhdr *eth = (void *)(o + 1);
	struct ethhdr header;

	if ((void *)(eth + 1) > (void *)(long)skb->data)
		return TC_ACT_SHOT;
	header = *eth;
	if (bpf_skb_change_head(skb, sizeof(header), 0) || bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0))
		return TC_ACT_SHOT;
	return lead_on(skb, ifindex, kind);
}

SEC("tc")
int from_wire_tc(struct __sk_buff *skb)
{
	const struct flow_control *c = the_control();
	const struct onward *o;
	__u64 seal;

	if (!c || skb->data_meta == skb->data)
		return GO_ON;
	seal = seal_of(c);
	o = find(skb, ONWARD_AT, seal);
	if (o)
		return lead_on(skb, o->ifindex, o->kind);
	o = find(skb, ONWARD_AT - ETH_HLEN, seal);
	return o ? bare(skb, o) : GO_ON;
}

char _license[] SEC("license") = "Dual BSD/GPL";
