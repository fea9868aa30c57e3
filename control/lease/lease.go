// SPDX-License-Identifier: Apache-2.0

// Package lease keeps the attachments of pods, and who has which address. What it says has happened is on disk: a
// process or a machine may stop at any point without an address lost or leased twice.
//
// Addresses are one space, whatever pools there are: a lease is of an address, not of a pool, so that pools may go,
// come back and overlap. The order of the files is that of an attachment's way to disk: store.go takes what is asked,
// writer.go gathers what is asked at the same time into one transaction, book.go, address.go and hostport.go decide,
// space.go and pool.go find addresses, record.go and disk.go write, view.go shows what is on disk.
package lease

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Key names an attachment as CNI does: one interface of one container in one network.
type Key struct{ Network, Container, Interface string }

func (k Key) String() string { return k.Network + "/" + k.Container + "/" + k.Interface }

// valid says whether a key may be one of the file's, where zero bytes separate its fields and JSON spells them.
func (k Key) valid() bool {
	const most = 4096 // bytes; bbolt takes 32 KiB
	for _, field := range []string{k.Network, k.Container, k.Interface} {
		if field == "" || len(field) > most || strings.ContainsRune(field, 0) || !utf8.ValidString(field) {
			return false
		}
	}
	return true
}

// Bandwidth bounds what an interface receives (ingress) and sends (egress): rates in bits per second, bursts in bits.
// Zeros are no bound.
type Bandwidth struct{ IngressRate, IngressBurst, EgressRate, EgressBurst uint64 }

// HostPort leads from a port of the node to one of the pod.
type HostPort struct {
	// HostIP is an address of the node; the unspecified one of a family: every one of that; the zero one: every one.
	HostIP                  netip.Addr
	HostPort, ContainerPort uint16
	Protocol                string // "tcp", "udp" or "sctp"
}

// Attachment is an interface of a pod, and its port. Port, Addresses and Created are the store's to say, the rest is
// whoever's that adds it.
type Attachment struct {
	Key
	// Port is the port's name, unique on the node: "default/web", with ":net1" for an interface other than eth0, the
	// first 12 characters of the container where no pod is known; where that is taken, "@" and 8 characters of the
	// container follow.
	Port string
	// Netns is the path of the network namespace; device and inode of the file tell it from a later one of that path.
	Netns                   string
	NetnsDevice, NetnsInode uint64
	PodNamespace, PodName   string
	PodUID                  string
	Device                  string // the host's end of the veth pair
	IfIndex                 uint32 // of it: one that is made again under its name is another one
	MAC                     net.HardwareAddr
	Direct                  bool         // XDP on the pod's own veth; else by the trunk
	Addresses               []netip.Addr // leased or delegated, IPv4 first
	Delegated               bool         // the addresses come from elsewhere and are not leased
	Bandwidth               Bandwidth
	HostPorts               []HostPort // ordered, each once
	Created                 time.Time
}

// clone shares nothing with a.
func (a Attachment) clone() Attachment {
	a.MAC, a.Addresses = slices.Clone(a.MAC), slices.Clone(a.Addresses)
	a.HostPorts = slices.Clone(a.HostPorts)
	return a
}

// Usage is how much of a pool is leased.
type Usage struct {
	Prefix netip.Prefix
	// Size is the number of addresses that may be leased; it saturates. Of pools that overlap, an address is the first
	// one's.
	Size   uint64
	Leased uint64
	// Retired is a pool that is no longer configured and of which addresses are leased.
	Retired bool
}
