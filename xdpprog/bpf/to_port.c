// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The hook to_port at the trunk's inner device: what userspace sends to a port, which the destination MAC names, gets
// the station's MAC and goes to the station. Nothing goes on into the host's stack.
#include "trunk.h"

// port_of returns the PortID that a MAC address stands for, or NO_PORT.
static __always_inline __u32 port_of(const struct port_mac *mac)
{
	if (mac->prefix[0] != 0x02 || mac->prefix[1] != 0x76 || mac->prefix[2] != 0x64)
		return NO_PORT;
	return mac->id[0] << 16 | mac->id[1] << 8 | mac->id[2];
}

// deliver: bpf_redirect_peer takes the packet into the pod's namespace on this CPU and at once, but refuses a peer in
// the same namespace (net/core/filter.c, skb_do_redirect).
static __always_inline int deliver(const struct port *p)
{
	return p->host_ifindex ? bpf_redirect(p->host_ifindex, BPF_F_INGRESS) : bpf_redirect_peer(p->ifindex, 0);
}

SEC("tc")
int to_port(struct __sk_buff *skb)
{
	struct port_mac mac;
	struct port *p;
	__u32 id;

	if (bpf_skb_load_bytes(skb, 0, &mac, sizeof(mac)))
		return drop(skb, NO_PORT, CUT_ETHERNET_DROPPED);
	id = port_of(&mac);
	p = bpf_map_lookup_elem(&ports, &id);
	if (!p)
		return drop(skb, NO_PORT, UNKNOWN_PORT_DROPPED);
	if (bpf_skb_store_bytes(skb, 0, p->mac, ETH_ALEN, 0))
		return drop(skb, id, CUT_ETHERNET_DROPPED);
	return count(skb, id, TO_PORT, deliver(p));
}

char _license[] SEC("license") = "Dual BSD/GPL";
