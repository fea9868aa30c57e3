// SPDX-License-Identifier: Apache-2.0

package xdpprog

import "fmt"

// Reasons of from_uplink: enum uplink_reason of bpf/shared.h, which begins at 0.
const (
	// ServiceTaken: addressed to a frontend; handed to userspace.
	ServiceTaken Reason = endReasons + iota
	// FragmentTaken: a fragment of a packet whose first one was taken.
	FragmentTaken
	// ErrorTaken: an ICMP error about a packet from a frontend.
	ErrorTaken
	// EgressTaken: to an address that is AtEgress.
	EgressTaken
	// NotOursLeft: for the host's stack, or others that it forwards to.
	NotOursLeft
	// OtherHostLeft: the destination MAC is not the device's.
	OtherHostLeft
	// TaggedLeft: an 802.1Q or 802.1ad tag, that of another device.
	TaggedLeft
	// OptionsLeft: IPv4 options.
	OptionsLeft
	// UnreadableLeft: a header that is cut or none, or more IPv6 extension headers than are walked.
	UnreadableLeft
	// ForgedLeft: for a service, from an address of this node: the stack drops it.
	ForgedLeft
	// NoTrunkUplinkDropped: for a service, and there is no trunk or no port of the host's.
	NoTrunkUplinkDropped
	// UplinkCarried: for a service, and straight to the pod, as userspace decided for the flow.
	UplinkCarried
	// UnwritableUplinkDropped: to be carried, and the kernel had no memory to rewrite it.
	UnwritableUplinkDropped
	// AbsentUplinkDropped: for a service, and userspace is silent.
	AbsentUplinkDropped
	// AbsentLeft: for a service, and userspace is silent; left to the host's stack.
	AbsentLeft

	endUplinkReasons
)

const numUplinkReasons = endUplinkReasons - endReasons

var uplinkReasonNames = [numUplinkReasons]string{
	"service_taken", "fragment_taken", "error_taken", "egress_taken", "not_ours_left", "other_host_left", "tagged_left",
	"options_left", "unreadable_left", "forged_left", "no_trunk_uplink_dropped",
	"uplink_carried", "unwritable_uplink_dropped", "absent_uplink_dropped", "absent_left",
}

// Counters reads the counters of every reason of from_uplink, from ServiceTaken on, at all devices together.
func (s *Services) Counters() ([]Counter, error) {
	counters := make([]Counter, numUplinkReasons)
	for i := range counters {
		var perCPU []counterValue
		if err := s.maps["uplink_counters"].Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counters of uplinks: %w", err)
		}
		c := &counters[i]
		c.Reason = ServiceTaken + Reason(i)
		c.Name = c.Reason.String()
		for _, v := range perCPU {
			c.Packets += v.Packets
			c.Bytes += v.Bytes
		}
	}
	return counters, nil
}
