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
	WIRE_ABSENT_DROPPED,
	WIRE_ABSENT_PASSED,
	WIRE_CARRIED,
	NUM_REASONS,
};

// What happened for one reason, on one CPU.
struct counter {
	__u64 packets;
	__u64 bytes; // of the whole frame, all fragments, without the FCS
};

// What changes while the program runs.
struct config {
	__u8 mac[6]; // of the device: packets to another one are not carried
	__u8 tc;     // not 0: from_wire_tc is there to lead on what is passed to it
	__u8 reserved;
	__u32 port;	  // PortID of packets without tags; 0: they are not carried
	__u32 on_absence; // XDP_DROP or XDP_PASS: what a packet gets that has no socket to go to
};

// VLAN identifiers, outer first, 0 for none.
struct vlans {
	__u16 outer;
	__u16 inner;
};

// What stands before a packet that an XDP hook has rewritten and passes, for from_wire_tc to lead on.
struct onward {
	__u64 seal;    // as seal_of says: nobody else can have written this
	__u32 ifindex; // as in struct egress
	__u32 kind;
};

// Bytes before a packet that from_wire_tc is to lead on, and where struct onward is in them: at their end, so that it
// can be found too where they are taken to begin, and end, by a link's header later.
#define ONWARD_SIZE 32
#define ONWARD_AT   16

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

// Why a hook of the pods' did with a packet what it did. The names for people stand in trunkcounters.go, in the same
// order.
enum trunk_reason {
	FROM_PORT,
	UNREADABLE_DROPPED,
	UNKNOWN_DEVICE_DROPPED,
	CUT_ETHERNET_DROPPED,
	SOURCE_MAC_DROPPED,
	TAGGED_DROPPED,
	ETHERTYPE_DROPPED,
	IPV4_SOURCE_DROPPED,
	IPV6_SOURCE_DROPPED,
	ARP_MAC_DROPPED,
	ARP_ADDRESS_DROPPED,
	NO_TRUNK_DROPPED,
	TO_PORT,
	UNKNOWN_PORT_DROPPED,
	CARRIED,
	CARRIED_TO,
	UNWRITABLE_DROPPED,
	ABSENT_DROPPED,
	ABSENT_PASSED,
	NUM_TRUNK_REASONS,
};

// The counters of one port, on one CPU.
struct trunk_counters {
	struct counter of[NUM_TRUNK_REASONS];
};

// What hooks carried of one port's, on one CPU, beside its other counters.
struct carried_counters {
	struct counter from; // CARRIED
	struct counter to;   // CARRIED_TO
};

// Addresses of one family that a station may have.
#define MAX_ADDRESSES 4

// What from_port must know of a device: whose it is, and what the only one behind it may call itself.
struct station {
	__u32 port; // PortID
	__u8 mac[6];
	__u8 router; // not 0: addresses are not checked
	__u8 ipv4_count;
	__u8 ipv6_count;
	__u8 reserved[3];
	__be32 ipv4[MAX_ADDRESSES];
	__u64 ipv6[MAX_ADDRESSES][2]; // network byte order
};

// What to_port must know of a port.
struct port {
	__u32 ifindex;	    // the host's end of its veth
	__u32 host_ifindex; // not 0: of the device in the host's own stack, whose ingress takes what is for this port
	__u8 mac[6];	    // of its station
	__u8 reserved[2];
};

// Where from_port hands packets to userspace.
struct trunk {
	__u32 ifindex; // of the trunk's inner device; 0: there is none
	__u32 queues;  // transmit queues to spread over, at least 1
};

// Why from_uplink did with a packet what it did. The names for people stand in uplinkcounters.go, in the same order.
enum uplink_reason {
	SERVICE_TAKEN,
	FRAGMENT_TAKEN,
	ERROR_TAKEN,
	EGRESS_TAKEN,
	NOT_OURS_LEFT,
	OTHER_HOST_LEFT,
	TAGGED_LEFT,
	OPTIONS_LEFT,
	UNREADABLE_LEFT,
	FORGED_LEFT,
	NO_TRUNK_UPLINK_DROPPED,
	UPLINK_CARRIED,
	UNWRITABLE_UPLINK_DROPPED,
	ABSENT_UPLINK_DROPPED,
	ABSENT_LEFT,
	NUM_UPLINK_REASONS,
};

// An address of either family: IPv4 as ::ffff:a.b.c.d, RFC 4291 section 2.5.5.2.
struct ip_address {
	__be32 word[4];
};

// Where a service takes traffic. Those of node ports, and of host ports of all addresses, have the unspecified address
// of their family.
struct frontend {
	struct ip_address address;
	__be16 port;
	__u8 proto;
	__u8 reserved;
};

// What an address is, as far as services go.
#define AT_FRONTEND   1	 // some frontend has it
#define AT_NODE_PORTS 2	 // node ports are there
#define AT_LOOPBACK   4	 // node ports are there for the node's own sockets
#define AT_EGRESS     8	 // pods have it towards what is outside the cluster; with AT_HOST, the host too
#define AT_HOST	      16 // one of the host's own: nothing comes from there

// What changes while the hooks of services run.
struct node {
	__u64 netns;	 // cookie of the host's network namespace
	__u32 host_port; // PortID of the host's stack; 0: there is none
	__u32 reserved;
	struct ip_address dataplane[2]; // its own addresses, IPv4 and IPv6; :: for none
};

// Fragments of one packet: RFC 791, RFC 8200 section 4.5.
struct fragment {
	struct ip_address src;
	struct ip_address dst;
	__be32 id;
	__u32 proto;
};

// What a socket of the node was translated to, but for the address, of which a family has one.
struct asked {
	__u64 socket; // cookie
	__be16 port;
	__u8 ipv6;
	__u8 reserved[5];
};

// The kernel's flow table: flow_table.h. Go has the same layout in dataplane/offload.
#define FLOW_LAYOUT  2	   // changes with any of these
#define FLOW_SLOTS   8	   // of a bucket
#define MAX_EGRESSES 65536 // ports that a record may lead to, less the first, which is none

struct flow_bucket {
	__u64 slot[FLOW_SLOTS];
};

// One direction of a flow. Written by userspace but for what counts.
struct flow_way {
	__u64 packets;
	__u64 bytes; // of IP packets
	__u32 used;  // when last, in 2^24 ns of CLOCK_MONOTONIC
	__be32 ack;  // TCP: the acknowledgement number that was sent last, or of a young record, what is expected first
	__u32 from;  // PortID by which packets come; 0: this direction is not carried, nor found
	__u32 to;    // number of the egress; 0: packets go to userspace, none by a pair
	__u8 mac[6]; // destination on the egress' link
	__be16 far_dst_port;
	__u16 mtu;		   // of the largest IP packet, bytes
	__u16 answered;		   // TCP, of the other end: not 0: its SYN-ACK has been seen; see ANSWERED_…
	struct ip_address far_dst; // the same in both directions
	__u32 fin;		   // TCP: the sequence number behind its FIN; 0: it has sent none
};

// The SYN-ACK of struct flow_way, and the window scale in it, in the lowest four bits.
#define ANSWERED       0x20
#define ANSWERED_SCALE 0x10 // it had one

// Both directions of a flow, three cache lines. Near are the ends of what its opener sends, far of what the other end
// gets; they differ where the flow is translated. A pair (of addresses: all TCP between them) has no ports.
struct flow_record {
	struct ip_address near_src;
	struct ip_address near_dst;
	struct ip_address far_src;
	__be16 near_src_port;
	__be16 near_dst_port;
	__be16 far_src_port;
	__u8 proto;
	__u8 flags;	  // FLOW_…
	__u32 generation; // of policy that let it
	__u32 version;	  // odd while userspace writes it, and another one when it is another flow's
	struct flow_way way[2];
};

#define FLOW_TRANSLATED 1
#define FLOW_PAIR	2
#define FLOW_WHOLE	64  // FINs are carried too
#define FLOW_YOUNG	128 // TCP: as far as userspace knows its handshake goes on

enum egress_kind {
	EGRESS_NONE, // packets go to userspace
	EGRESS_POD,  // by bpf_redirect_peer into the namespace of a pod
	EGRESS_HOST, // to the ingress of a device of the host's own stack
	EGRESS_WIRE, // out of a device
};

// A port that packets leave by.
struct egress {
	__u32 ifindex; // of the device: a pod's host end, the host's own end, the wire's
	__u32 port;    // PortID
	__u8 mac[6];   // source on the link
	__u8 kind;
	__u8 tags;	 // VLAN tags to push, 0 to 2
	__be16 outer[2]; // TPID and TCI of the outer one
	__be16 inner[2]; // and of the inner one
	__u64 reserved;
};

// What becomes of packets for userspace while that is silent.
enum absence {
	ABSENCE_DROP,
	ABSENCE_PASS, // to the host's own stack, and from it to the pods
};

// What hooks know of userspace.
struct flow_control {
	__u64 seed[2]; // of key_hash
	__u64 heart;   // when userspace was last seen alive, ns of CLOCK_MONOTONIC; 0: it has not begun to say so
	__u32 layout;  // FLOW_LAYOUT
	__u32 bucket_mask;
	__u32 records;
	__u32 generation; // the oldest of policy whose records count (by difference: it wraps)
	__u32 carry;	  // 0: nothing is carried
	__u32 on_absence; // enum absence: what is for userspace, once that is silent
	__u64 hung;	  // queues whose workers do not get on, by QUEUE_BIT, while others do
	__u32 host_port;  // PortID of the host's stack, to which packets pass; 0: there is none
	__u32 reserved;
};

#define QUEUE_BIT(queue) (1ULL << ((queue)&63))

#define HEART_STOPS 800000000 // ns after which userspace counts as silent; it is to beat every 100 ms

_Static_assert(sizeof(struct flow_bucket) == 64, "a cache line");
_Static_assert(sizeof(struct flow_way) == 64, "a cache line");
_Static_assert(sizeof(struct flow_record) == 192, "three cache lines");
_Static_assert(sizeof(struct egress) == 32, "offload in Go");
_Static_assert(sizeof(struct flow_control) == 64, "offload in Go");
_Static_assert(sizeof(struct ip_address) == 16, "mappedAddress in Go");
_Static_assert(sizeof(struct frontend) == 20, "frontendKey in Go");
_Static_assert(sizeof(struct node) == 48, "nodeValue in Go");
_Static_assert(NUM_UPLINK_REASONS == 15, "numUplinkReasons in Go");
_Static_assert(sizeof(struct counter) == 16, "counterValue in Go");
_Static_assert(sizeof(struct trunk_counters) == 19 * 16, "trunkCounters in Go");
_Static_assert(sizeof(struct carried_counters) == 2 * 16, "carriedCounters in Go");
_Static_assert(sizeof(struct station) == 96, "stationValue in Go");
_Static_assert(sizeof(struct port) == 16, "portValue in Go");
_Static_assert(sizeof(struct trunk) == 8, "trunkValue in Go");
_Static_assert(NUM_TRUNK_REASONS == 19, "numTrunkReasons in Go");
_Static_assert(sizeof(struct config) == 16, "configValue in Go");
_Static_assert(sizeof(struct vlans) == 4, "vlansKey in Go");
_Static_assert(sizeof(struct onward) == 16, "a multiple of 4 and no more than metadata can be");
_Static_assert(sizeof(struct address_key) == 24, "addressKey in Go");
_Static_assert(NUM_REASONS == 10, "numReasons in Go");
