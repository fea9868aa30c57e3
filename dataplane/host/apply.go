// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"net/netip"
)

// Config is what a snapshot asks of the host's stack. Bits of prefixes behind their lengths are zero.
type Config struct {
	Routes []Route // prefixes are unique
	// Masquerade are the pods' prefixes: what leaves the node from them to anywhere but Masquerade and Direct gets the
	// address of the device that it leaves by. None: nothing does.
	Masquerade []netip.Prefix
	Direct     []netip.Prefix
	// Forward has the host forward packets, of each family that has routes.
	Forward bool
}

// Route is a route of the host's main table.
type Route struct {
	Prefix netip.Prefix
	Via    netip.Addr // the next router; the zero Addr: the dataplane, by PairStack, which must be there
}

// Apply brings routes, forwarding and masquerade to the config. Where one of them cannot be had, a note says so and
// the others are in force; the next Apply tries again. An error is of the machine (netlink does not answer); what was
// in force stays, in parts.
//
// An unchanged config costs a dump of our own routes, a few reads of sysctls and one question to nftables.
func (s *Stack) Apply(c Config) ([]Note, error) {
	return nil, errors.ErrUnsupported
}

// Remove takes everything of ours out of the stack: routes, the nftables table, the devices; and gives the sysctls that
// this Stack changed their values back, unless somebody has changed them since. It may be called again, and without
// anything having been made.
func (s *Stack) Remove() error {
	return errors.ErrUnsupported
}
