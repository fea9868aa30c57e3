// SPDX-License-Identifier: Apache-2.0

// Package handover is how a dataplane gives its sockets, their memory and its flows to a successor, over a unix socket:
// what is said, in which order, and who owns what if either end fails.
//
//	successor                             predecessor
//	Hello: who I am            ─────────►
//	                           ◄───────── Offer: the snapshot in force, the workers' memory; or Refusal
//	(builds all it can)
//	Ready                      ─────────► (stops its workers between two passes)
//	                           ◄───────── State: sockets, owners of frames, flows; or Refusal
//	(takes them up)
//	Commit                     ─────────► (leaves everything as it is, and ends)
//
// The commit point is that Commit is sent. Until then the successor has touched nothing: neither rings nor frames,
// hooks nor flows; whatever fails leaves the predecessor to go on. The predecessor waits for a bounded time. When
// that is over it first closes its half of the socket, from when on Commit cannot be sent (unix_dgram_sendmsg in
// net/unix/af_unix.c), and then looks whether it was: so both always mean the same.
//
// Files: handover.go (the messages), conn.go (their form), flows.go (the file of flows), learned.go (what was learned
// of the network), peer.go (who is at the other end).
package handover

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// Layout is that of the messages. Builds whose layouts differ do not hand over to each other.
const Layout = 1

// Hello is what a successor says of itself.
type Hello struct {
	Layout  int
	Version string
	PID     int
	Pins    string // directory of pinned hooks
	// PinsDevice and PinsInode are that directory's: its name may be another one's in another mount namespace.
	PinsDevice, PinsInode uint64
	Sockets               string // backend
	Ring                  int    // descriptors
	Workers               int    // for how many CPUs are given, 0: any number
	State                 string // directory of the last good snapshot
	Node                  string
}

// Refusal is why the predecessor goes on.
type Refusal struct{ Reason string }

// Offer is what a successor needs before its predecessor stops. Its files are the snapshot in force (control.Snapshot,
// encoded) and each worker's memory.
type Offer struct {
	Version string
	// Fresh is why the successor gets flows alone, and has to open sockets of its own: its predecessor then stops as it
	// always does. Empty: it gets the sockets.
	Fresh      string
	Snapshot   bool     // there is one
	Slots      []string // names of devices by their index in the tables
	Workers    []Memory
	Generation uint32 // of the policy in force
}

// Memory is a worker's UMEM.
type Memory struct {
	xsk.UMEMConfig
	Huge bool
}

// State is what the workers left between two passes. Its files are the flows (conntrack's export) and the sockets, in
// the order of Devices.
type State struct {
	Workers []Worker
	Devices []Device
	Flows   int // how many there are in the file
	// Learned is what ports have learned (Learned.Append).
	Learned []byte `json:",omitempty"`
	// Neighbors are those whose MAC addresses are known, by ports.
	Neighbors []Neighbor
}

// Neighbor is one of them.
type Neighbor struct {
	Port packet.PortID
	Addr packet.Addr
	MAC  packet.MAC
}

// Worker is what a worker left.
type Worker struct {
	Owners  []byte // of its chunks: see xsk.UMEMState
	Waiting []Packet
}

// Packet is one that waits; Device is an index of Offer.Slots.
type Packet struct {
	Device int
	Descs  []xsk.Desc
}

// Device is a device with its sockets.
type Device struct {
	Name    string
	Index   int // of Offer.Slots
	IfIndex int
	Mode    string // of its hook: native or generic
	Port    string // that opened it
	Asked   []uint32
	Shared  bool
	Sockets []Socket
}

// Socket is a device's socket, and the worker that has it.
type Socket struct {
	Queue  uint32
	Worker int
	State  xsk.SocketState
}
