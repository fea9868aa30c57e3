// SPDX-License-Identifier: Apache-2.0

// Package verdict names what can happen to a packet, and why. The one list here serves the packet loop's counters,
// traces, the replay report, the CLI, metrics and docs.
package verdict

// Verdict is what happened to a packet. The zero value drops.
type Verdict uint8

const (
	// Dropped: the packet's frames were freed; the reason says why.
	Dropped Verdict = iota
	// Forwarded: the packet was handed to its output port.
	Forwarded
	// Consumed: the packet was addressed to, or answered by, the dataplane itself.
	Consumed
	// Held: the packet is in flight inside the dataplane, waiting for a neighbour to be resolved.
	Held
)

// String returns the verdict's name as printed everywhere: "dropped", "forwarded", "consumed" or "held".
func (v Verdict) String() string {
	return [...]string{"dropped", "forwarded", "consumed", "held"}[v&3]
}

// Reason says why a packet had its verdict. Every reason belongs to exactly one verdict.
type Reason uint8

// The reasons. Their names, verdicts and meanings stand in the table below, in the same order.
const (
	// None is no decision: the next step of the pipeline judges on. It never reaches a counter.
	None Reason = iota

	Routed
	WaitingForNeighbor
	WaitingForLimit
	WaitingForFragment

	ARPConsumed
	NDConsumed
	EchoReplied
	TTLExceeded
	HopLimitExceeded
	NoRoute
	Unreachable
	Prohibited
	NeighborFailed
	FragmentationNeeded
	PacketTooBig
	PortUnreachable
	ProtocolUnreachable
	LocalICMP

	TruncatedEthernet
	NotOurMAC
	SourceMACInvalid
	UnknownVLAN
	TooManyVLANTags
	UnknownEtherType
	MalformedARP
	MalformedIPv4
	MalformedIPv6
	TruncatedIP
	BadIPv4Checksum
	BadIPv4Options
	SourceRouted
	BadExtensionHeader
	TooManyExtensionHeaders
	RoutingHeader0
	MalformedFragment
	TinyFragment
	TruncatedTransport
	MalformedTCP
	MalformedUDP
	MalformedSCTP
	MalformedICMP
	BadICMPChecksum
	MalformedND
	MartianSource
	MartianDestination
	SpoofedSource
	UnknownPort
	LinkLocalForward
	MulticastForward
	BroadcastForward
	Blackhole
	ICMPRateLimited
	NoErrorAboutError
	NeighborQueueFull
	NeighborTableFull
	NoOutputPort
	TxRingFull
	NoFrame
	PortClosed
	TooLargeForPort
	LocalFragment
	OverLimit
	MulticastSource
	BroadcastSource
	BogonSource
	EgressDenied
	IngressDenied
	BadTCPFlags
	TCPOutOfWindow
	TCPWithoutFlow
	SCTPWithoutFlow
	ICMPWithoutFlow
	FlowTableFull
	FlowLimit
	SourceLimit
	SYNFlood
	FragmentOverlap
	FragmentTimeout
	FragmentQueueFull
	ServiceRefused
	ServiceReset
	ServiceNoLocal
	ServiceSourceDenied
	NoNATAddress
	NATPortsExhausted
	NATCollision
	NATUnsupported
	NoDirectBackend

	// NumReasons is the number of reasons, for arrays indexed by Reason.
	NumReasons
)

type entry struct {
	name    string
	verdict Verdict
	doc     string
}

var reasons = [NumReasons]entry{
	None: {"none", Dropped, "no decision"},

	Routed:             {"routed", Forwarded, "sent to the next hop of its route"},
	WaitingForNeighbor: {"waiting_for_neighbor", Held, "queued until the next hop's link-layer address is known"},
	WaitingForLimit:    {"waiting_for_limit", Held, "queued until a port's bandwidth limit lets it leave"},

	WaitingForFragment: {"waiting_for_fragment", Held, "queued until the first fragment of its datagram has come"},

	ARPConsumed:         {"arp", Consumed, "ARP request or reply handled by the dataplane"},
	NDConsumed:          {"nd", Consumed, "IPv6 neighbour discovery message handled by the dataplane"},
	EchoReplied:         {"echo_replied", Consumed, "ICMP echo request to an address of ours, answered"},
	TTLExceeded:         {"ttl_exceeded", Consumed, "IPv4 TTL ran out; ICMP time exceeded sent"},
	HopLimitExceeded:    {"hop_limit_exceeded", Consumed, "IPv6 hop limit ran out; ICMPv6 time exceeded sent"},
	NoRoute:             {"no_route", Consumed, "no route to the destination; ICMP unreachable sent"},
	Unreachable:         {"unreachable_route", Consumed, "the route says unreachable; ICMP unreachable sent"},
	Prohibited:          {"prohibit_route", Consumed, "the route says prohibit; ICMP prohibited sent"},
	NeighborFailed:      {"neighbor_failed", Consumed, "the next hop did not answer; ICMP host unreachable sent"},
	FragmentationNeeded: {"fragmentation_needed", Consumed, "IPv4 packet with DF over the next hop's MTU; ICMP sent"},
	PacketTooBig:        {"packet_too_big", Consumed, "IPv6 packet over the next hop's MTU; ICMPv6 sent"},
	PortUnreachable:     {"port_unreachable", Consumed, "UDP or TCP to an address of ours; ICMP port unreachable sent"},
	ProtocolUnreachable: {"protocol_unreachable", Consumed, "unserved protocol to us; ICMP unreachable sent"},
	LocalICMP:           {"local_icmp", Consumed, "ICMP message to an address of ours, no answer due"},

	TruncatedEthernet:       {"truncated_ethernet", Dropped, "shorter than an Ethernet header with its tags"},
	NotOurMAC:               {"not_our_mac", Dropped, "unicast destination MAC is not the port's"},
	SourceMACInvalid:        {"source_mac_invalid", Dropped, "source MAC is multicast, zero or the port's own"},
	UnknownVLAN:             {"unknown_vlan", Dropped, "no port has these VLAN tags on this device"},
	TooManyVLANTags:         {"too_many_vlan_tags", Dropped, "more than two VLAN tags"},
	UnknownEtherType:        {"unknown_ethertype", Dropped, "neither ARP, IPv4 nor IPv6"},
	MalformedARP:            {"malformed_arp", Dropped, "ARP message of wrong size, type or addresses"},
	MalformedIPv4:           {"malformed_ipv4", Dropped, "IPv4 header with wrong version, lengths or bits (RFC 791)"},
	MalformedIPv6:           {"malformed_ipv6", Dropped, "IPv6 header with wrong version or lengths (RFC 8200)"},
	TruncatedIP:             {"truncated_ip", Dropped, "the frame ends before the IP packet does"},
	BadIPv4Checksum:         {"bad_ipv4_checksum", Dropped, "IPv4 header checksum is wrong"},
	BadIPv4Options:          {"bad_ipv4_options", Dropped, "IPv4 options that do not parse"},
	SourceRouted:            {"source_routed", Dropped, "IPv4 loose or strict source route option (RFC 7126)"},
	BadExtensionHeader:      {"bad_extension_header", Dropped, "IPv6 extension header truncated or out of order"},
	TooManyExtensionHeaders: {"too_many_extension_headers", Dropped, "more IPv6 extension headers than are followed"},
	RoutingHeader0:          {"routing_header_0", Dropped, "IPv6 type 0 routing header (RFC 5095)"},
	MalformedFragment:       {"malformed_fragment", Dropped, "fragment with impossible offset or length"},
	TinyFragment:            {"tiny_fragment", Dropped, "first fragment too short for its transport header (RFC 1858)"},
	TruncatedTransport:      {"truncated_transport", Dropped, "the packet ends inside its transport header"},
	MalformedTCP:            {"malformed_tcp", Dropped, "TCP header with wrong data offset"},
	MalformedUDP:            {"malformed_udp", Dropped, "UDP header with wrong length"},
	MalformedSCTP:           {"malformed_sctp", Dropped, "SCTP common header without a whole chunk header"},
	MalformedICMP:           {"malformed_icmp", Dropped, "ICMP message shorter than its type asks for"},
	BadICMPChecksum:         {"bad_icmp_checksum", Dropped, "ICMP message to us with a wrong checksum"},
	MalformedND:             {"malformed_nd", Dropped, "ND message that RFC 4861 says to discard"},
	MartianSource:           {"martian_source", Dropped, "source address that may not be on a wire (RFC 1812 5.3.7)"},
	MartianDestination:      {"martian_destination", Dropped, "destination address that may not be seen on a wire"},
	SpoofedSource:           {"spoofed_source", Dropped, "source address that the pod behind the port does not have"},
	UnknownPort:             {"unknown_port", Dropped, "came by the trunk from no port of the tables in force"},
	LinkLocalForward:        {"link_local_forward", Dropped, "link-local address may not be forwarded"},
	MulticastForward:        {"multicast_forward", Dropped, "multicast without a multicast route"},
	BroadcastForward:        {"broadcast_forward", Dropped, "broadcast is not forwarded"},
	Blackhole:               {"blackhole_route", Dropped, "the route says blackhole"},
	ICMPRateLimited:         {"icmp_rate_limited", Dropped, "an ICMP answer was due, but over its rate limit"},
	NoErrorAboutError:       {"no_error_about_error", Dropped, "an ICMP error was due about what may not have one"},
	NeighborQueueFull:       {"neighbor_queue_full", Dropped, "too many packets wait for neighbours"},
	NeighborTableFull:       {"neighbor_table_full", Dropped, "the neighbour table is full"},
	NoOutputPort:            {"no_output_port", Dropped, "the route's port does not exist or is down"},
	TxRingFull:              {"tx_ring_full", Dropped, "the output port's tx ring was full"},
	NoFrame:                 {"no_frame", Dropped, "no free frame for a fragment or an answer"},
	PortClosed:              {"port_closed", Dropped, "its port closed while it was in flight"},
	TooLargeForPort:         {"too_large_for_port", Dropped, "larger than the port's sockets can carry"},
	LocalFragment:           {"local_fragment", Dropped, "fragment to the dataplane itself, which does not reassemble"},
	OverLimit:               {"over_limit", Dropped, "too much waits already for a port's bandwidth limit"},
	MulticastSource:         {"multicast_source", Dropped, "source address is a group's (RFC 1122 3.2.1.3)"},
	BroadcastSource:         {"broadcast_source", Dropped, "source address is a broadcast address (RFC 1122 3.2.1.3)"},
	BogonSource:             {"bogon_source", Dropped, "source address of a range that is nobody's (RFC 6890)"},
	EgressDenied:            {"egress_denied", Dropped, "policy does not let its source send it"},
	IngressDenied:           {"ingress_denied", Dropped, "policy does not let its destination have it"},
	BadTCPFlags:             {"bad_tcp_flags", Dropped, "TCP flags that do not go together (RFC 9293 3.10.7)"},
	TCPOutOfWindow:          {"tcp_out_of_window", Dropped, "TCP segment outside its flow's window (RFC 9293, 5961)"},
	TCPWithoutFlow:          {"tcp_without_flow", Dropped, "TCP segment that opens no flow and belongs to none"},
	SCTPWithoutFlow:         {"sctp_without_flow", Dropped, "SCTP packet that opens no flow and belongs to none"},
	ICMPWithoutFlow:         {"icmp_without_flow", Dropped, "ICMP error or reply about no flow that is known"},
	FlowTableFull:           {"flow_table_full", Dropped, "no room for another flow, and none that may go"},
	FlowLimit:               {"flow_limit", Dropped, "its port has opened as many flows as it may"},
	SourceLimit:             {"source_limit", Dropped, "its source has as many unanswered flows as it may"},
	SYNFlood:                {"syn_flood", Dropped, "first TCP SYN of a connection under a flood; repeated, it passes"},
	FragmentOverlap:         {"fragment_overlap", Dropped, "its datagram's fragments overlap or contradict (RFC 5722)"},
	FragmentTimeout:         {"fragment_timeout", Dropped, "the first fragment of its datagram did not come in time"},
	FragmentQueueFull:       {"fragment_queue_full", Dropped, "too many fragments wait for their datagram's first"},

	ServiceRefused: {"service_refused", Consumed, "nobody answers for the service; RST or ICMP unreachable sent"},
	ServiceReset:   {"service_reset", Consumed, "its backend is gone from the service; RST sent"},

	ServiceNoLocal:      {"service_no_local", Dropped, "the service's traffic policy is Local, and nobody here answers"},
	ServiceSourceDenied: {"service_source_denied", Dropped, "the service does not let its source come"},
	NoNATAddress:        {"no_nat_address", Dropped, "no address of the family to translate its source to"},
	NATPortsExhausted:   {"nat_ports_exhausted", Dropped, "every source port is taken towards its destination"},
	NATCollision:        {"nat_collision", Dropped, "its ends are those of a translated flow that it is not of"},
	NATUnsupported:      {"nat_unsupported", Dropped, "what translation would break: AH, UDP-Lite, a fragment of SCTP"},
	NoDirectBackend:     {"no_direct_backend", Dropped, "sent on by another node for a backend that no service here has"},
}

// String returns the reason's name as used in counters, JSON and metrics: lower case with underscores.
func (r Reason) String() string {
	if r >= NumReasons {
		return "invalid"
	}
	return reasons[r].name
}

// Verdict returns the verdict the reason belongs to.
func (r Reason) Verdict() Verdict {
	if r >= NumReasons {
		return Dropped
	}
	return reasons[r].verdict
}

// Doc returns one line that explains the reason to a person.
func (r Reason) Doc() string {
	if r >= NumReasons {
		return ""
	}
	return reasons[r].doc
}
