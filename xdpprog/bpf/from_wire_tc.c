// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The hook from_wire_tc at the ingress of a device whose XDP hook carries: packets that the XDP hook has rewritten for
// a pod or for the host, and passed, it leads on. The kernel has merged them meanwhile (GRO), which it does not do with
// what XDP redirects. It decides nothing: what the XDP hook has not written before a packet goes on to the host's
// stack.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "flow_table.h"
#include "onward.h"

#define GO_ON -1 // TCX_NEXT, linux/bpf.h

SEC("tc")
int from_wire_tc(struct __sk_buff *skb)
{
	void *end = (void *)(long)skb->data;
	const struct onward *o = (void *)(long)skb->data_meta;
	const struct flow_control *c = the_control();

	if (!c || (void *)(o + 1) > end || o->seal != seal_of(c))
		return GO_ON;
	if (o->kind == EGRESS_POD)
		return bpf_redirect_peer(o->ifindex, 0);
	return bpf_redirect(o->ifindex, BPF_F_INGRESS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
