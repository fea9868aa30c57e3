// SPDX-License-Identifier: Apache-2.0

package xdpprog

import "fmt"

// Reason says why a hook did with a packet what it did: enum reason of bpf/shared.h, and behind it, enum trunk_reason
// and enum uplink_reason.
type Reason uint32

const (
	// ToUserspace: redirected to the queue's socket, which counts what it could not take.
	ToUserspace Reason = iota
	// PassedNotOurs: shared; addressed to none of our addresses.
	PassedNotOurs
	// PassedTruncated: shared; shorter than its headers say.
	PassedTruncated
	// PassedTooManyTags: shared; more than two VLAN tags.
	PassedTooManyTags
	// PassedMalformed: shared; a header contradicts itself.
	PassedMalformed
	// NoSocketDropped: for userspace, but the queue has no socket; OnAbsence is Drop.
	NoSocketDropped
	// NoSocketPassed: for userspace, but the queue has no socket; OnAbsence is Pass.
	NoSocketPassed
	// WireAbsentDropped: for userspace, which shows no sign of life; OnAbsence is Drop.
	WireAbsentDropped
	// WireAbsentPassed: for userspace, which shows no sign of life; OnAbsence is Pass.
	WireAbsentPassed
	// WireCarried: of a flow that userspace has decided about; it left as that says.
	WireCarried

	numReasons
)

var reasonNames = [numReasons]string{
	"to_userspace", "passed_not_ours", "passed_truncated", "passed_too_many_tags", "passed_malformed",
	"no_socket_dropped", "no_socket_passed", "absent_dropped", "absent_passed", "carried",
}

// String returns the reason's name as printed everywhere, such as "no_socket_dropped".
func (r Reason) String() string {
	switch {
	case r < numReasons:
		return reasonNames[r]
	case r < endReasons:
		return trunkReasonNames[r-numReasons]
	case r < endUplinkReasons:
		return uplinkReasonNames[r-endReasons]
	}
	return fmt.Sprintf("reason(%d)", uint32(r))
}

// Counter is what happened for one reason, on all CPUs, since the port was first attached.
type Counter struct {
	Reason  Reason
	Name    string // Reason.String()
	Packets uint64
	Bytes   uint64 // of whole frames, without the FCS
}

// counterValue is struct counter of bpf/shared.h.
type counterValue struct{ Packets, Bytes uint64 }

// Counters reads the counters of every reason, indexed by Reason.
func (p *Port) Counters() ([]Counter, error) {
	counters := make([]Counter, numReasons)
	for r := range numReasons {
		var perCPU []counterValue
		if err := p.maps["counters"].Lookup(uint32(r), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", r, err)
		}
		c := &counters[r]
		c.Reason, c.Name = r, r.String()
		for _, v := range perCPU {
			c.Packets += v.Packets
			c.Bytes += v.Bytes
		}
	}
	return counters, nil
}
