// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ErrNoPools says that there is no pool to lease from.
var ErrNoPools = errors.New("lease: the node has no pod CIDR")

// ErrClosed says that the store was closed.
var ErrClosed = errors.New("lease: the store is closed")

// ErrKey says that a key cannot name an attachment: a field is empty, too long, or has a zero byte.
var ErrKey = errors.New("lease: bad key")

// ExhaustedError says that no pool of a family has an address left.
type ExhaustedError struct {
	Family int // 4 or 6
	Pools  []netip.Prefix
}

func (e *ExhaustedError) Error() string {
	pools := make([]string, len(e.Pools))
	for i, p := range e.Pools {
		pools[i] = p.String()
	}
	return fmt.Sprintf("lease: no IPv%d address is free in %s", e.Family, strings.Join(pools, ", "))
}

// TakenError says that an address that was asked for is another attachment's.
type TakenError struct {
	Address netip.Addr
	By      Key
}

func (e *TakenError) Error() string { return fmt.Sprintf("lease: %s is leased to %s", e.Address, e.By) }

// PortTakenError says that a host port is another attachment's.
type PortTakenError struct {
	Port HostPort // that was asked for
	By   Key
	Pod  string // "default/web", whose it is; empty: not known
}

func (e *PortTakenError) Error() string {
	by := e.By.String()
	if e.Pod != "" {
		by = fmt.Sprintf("pod %s (%s)", e.Pod, by)
	}
	return fmt.Sprintf("lease: host port %s is taken by %s", e.Port, by)
}

// OutsideError says that an address that was asked for is never leased: it is in no pool, excluded, a network's or a
// broadcast address, or the node's own.
type OutsideError struct{ Address netip.Addr }

func (e *OutsideError) Error() string { return fmt.Sprintf("lease: %s is not for pods", e.Address) }
