// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// Plain says whether policy lets all TCP between two of the node's pods.
func (e *Engine) Plain(a, b netip.Addr) bool {
	from, to := e.tables.ByName(e.portOf(a)), e.tables.ByName(e.portOf(b))
	q := tables.Query(from, to, packet.AddrFrom(a), packet.AddrFrom(b), packet.ProtoTCP, 0)
	return e.tables.Policy.Plain(&q)
}
