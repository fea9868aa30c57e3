// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Reasons of the pods' hooks: enum trunk_reason of bpf/shared.h, which begins at 0.
const (
	// FromPort: handed to userspace by the trunk.
	FromPort Reason = numReasons + iota
	// UnreadableDropped: an ARP, IPv4 or IPv6 header that is cut or none.
	UnreadableDropped
	// UnknownDeviceDropped: of port 0; the device is no port's.
	UnknownDeviceDropped
	// CutEthernetDropped: shorter than an Ethernet header.
	CutEthernetDropped
	// SourceMACDropped: the source MAC is not the station's.
	SourceMACDropped
	// TaggedDropped: an 802.1Q or 802.1ad tag; ports of the trunk have none.
	TaggedDropped
	// EtherTypeDropped: neither IPv4, IPv6 nor ARP.
	EtherTypeDropped
	// IPv4SourceDropped: the source is no address of the station.
	IPv4SourceDropped
	// IPv6SourceDropped: the source is no address of the station, nor one that it has on its link only.
	IPv6SourceDropped
	// ARPMACDropped: the sender's MAC in the body is not the station's.
	ARPMACDropped
	// ARPAddressDropped: the sender's address is no address of the station.
	ARPAddressDropped
	// NoTrunkDropped: Attach was not called.
	NoTrunkDropped
	// ToPort: handed to the station.
	ToPort
	// UnknownPortDropped: of port 0; the destination MAC names no port.
	UnknownPortDropped
	// Carried: from the station to another port, as userspace decided for the flow.
	Carried
	// CarriedTo: from another port to the station, or out of the port.
	CarriedTo
	// UnwritableDropped: to be carried, and the kernel had no memory to rewrite it.
	UnwritableDropped
	// AbsentDropped: for userspace, which is silent.
	AbsentDropped
	// AbsentPassed: for userspace, which is silent; given to the host's own stack, or from that to a pod.
	AbsentPassed

	endReasons
)

const numTrunkReasons = endReasons - numReasons

var trunkReasonNames = [numTrunkReasons]string{
	"from_port", "unreadable_dropped", "unknown_device_dropped", "cut_ethernet_dropped", "source_mac_dropped",
	"tagged_dropped", "ethertype_dropped", "ipv4_source_dropped", "ipv6_source_dropped", "arp_mac_dropped",
	"arp_address_dropped", "no_trunk_dropped", "to_port", "unknown_port_dropped", "carried", "carried_to",
	"unwritable_dropped", "absent_dropped", "absent_passed",
}

// trunkCounters is struct trunk_counters of bpf/shared.h.
type trunkCounters [numTrunkReasons]counterValue

// carriedCounters is struct carried_counters of bpf/shared.h.
type carriedCounters struct{ From, To counterValue }

// maxCarriedCounters is MAX_CARRIED_COUNTERS of bpf/port_counters.h.
const maxCarriedCounters = 4096

// addCounters gives a port counters, unless it has some.
func (t *Trunk) addCounters(id uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err == nil {
		err = t.maps["port_counters"].Update(id, make([]trunkCounters, cpus), ebpf.UpdateNoExist)
	}
	if errors.Is(err, ebpf.ErrKeyExist) {
		return nil
	}
	if err == nil && id < maxCarriedCounters {
		err = t.maps["carried_counters"].Put(id, make([]carriedCounters, cpus))
	}
	if err != nil {
		return fmt.Errorf("add counters: %w", err)
	}
	return nil
}

// Counters reads the counters of every reason of a port, from FromPort on, since the port was added. Those of port 0
// are of packets that belong to no port.
func (t *Trunk) Counters(id uint32) ([]Counter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var perCPU []trunkCounters
	var carried []carriedCounters
	err := t.maps["port_counters"].Lookup(id, &perCPU)
	if err == nil && id < maxCarriedCounters {
		err = t.maps["carried_counters"].Lookup(id, &carried)
	}
	if err != nil {
		return nil, fmt.Errorf("read counters of port %d: %w", id, err)
	}
	counters := make([]Counter, numTrunkReasons)
	for i := range counters {
		c := &counters[i]
		c.Reason = FromPort + Reason(i)
		c.Name = c.Reason.String()
		for _, values := range perCPU {
			c.add(values[i])
		}
	}
	for _, c := range carried {
		counters[Carried-FromPort].add(c.From)
		counters[CarriedTo-FromPort].add(c.To)
	}
	return counters, nil
}

func (c *Counter) add(v counterValue) {
	c.Packets += v.Packets
	c.Bytes += v.Bytes
}
