// SPDX-License-Identifier: Apache-2.0

// Package host keeps what the dataplane needs in the host's own network stack: the trunk, the host's pair, kernel
// routes, sysctls, masquerade and the rule against forged sources.
//
// Everything here is read before it is changed, so that each call brings whatever is there (after a crash, of another
// version, after somebody's hands) to what is asked for, costs little when nothing differs, and touches nothing that is
// not ours: devices are ours by their names, routes by their protocol, the nftables table by its name. Several
// dataplanes may run side by side, each in a network namespace of its own.
package host

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names of the devices.
const (
	TrunkInner = "viaduct-trunk0" // the kernel's end of the trunk: hooks redirect into it, and to_port is behind it
	TrunkOuter = "viaduct-trunk1" // userspace's end of the trunk: XDP and the sockets
	PairStack  = "viaduct0"       // the host port: what the host's stack knows
	PairHook   = "viaduct-host"   // the other end of the host port, where from_port is
)

// Link is a device as the call that returned it left it. A later call may make it anew, with another index.
type Link struct {
	Name    string
	IfIndex int
	MAC     net.HardwareAddr
	Queues  int // receive queues, and as many transmit queues
}

// Note says what is not as asked for while everything else is: worth showing, no reason to stop.
type Note struct {
	Subject string // "route 10.244.1.0/24", "nftables"
	Reason  string // one line that says what to do
}

func (n Note) String() string { return n.Subject + ": " + n.Reason }

// Stack is the host's network stack in one network namespace. Its methods are for one goroutine at a time.
type Stack struct {
	links      *netlink.Handle
	forwarding [2]settings // of IPv4 and of IPv6
	rules      rules
	answers    bool // see Answers
}

// Open returns the stack of the calling thread's network namespace. All its methods must be called in that namespace.
func Open() (*Stack, error) {
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	if err := links.SetStrictCheck(true); err != nil { // with it the kernel filters dumps itself
		links.Close()
		return nil, fmt.Errorf("have route netlink filter its dumps (Linux 4.20): %w", err)
	}
	return &Stack{links: links}, nil
}

// Close lets go of the stack and leaves everything in it as it is.
func (s *Stack) Close() { s.links.Close() }

// Remove takes everything of ours out of the stack: routes, the nftables table, the devices; and gives the sysctls of
// the whole host that this Stack changed their values back, unless somebody has changed them since. It may be called
// again, and when nothing was made.
func (s *Stack) Remove() error {
	var errs []error
	notes, err := s.applyRoutes(nil)
	errs = append(errs, err)
	for _, n := range append(notes, s.applyRules(&Config{})...) {
		errs = append(errs, errors.New(n.String()))
	}
	errs = append(errs, s.applyAnswers(false))
	for _, name := range []string{PairStack, PairHook, TrunkInner, TrunkOuter} {
		errs = append(errs, s.removeVeth(name))
	}
	for i := range s.forwarding {
		errs = append(errs, s.forwarding[i].restore())
	}
	return errors.Join(errs...)
}
