// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"fmt"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Limit is a port's bandwidth in both directions. Its buckets live on from tables to tables for as long as the limit is
// the same.
type Limit struct {
	From, To *Bucket // packets that the port sends in, and that leave by it; nil: no limit
	config   *api.Limit
}

// buildLimits gives the ports their limits.
func (b *build) buildLimits() error {
	for i, cfg := range b.snap.GetLimits() {
		if err := b.buildLimit(fmt.Sprintf("limits[%d]", i), cfg); err != nil {
			return err
		}
	}
	return nil
}

// The least rate, in bits a second, and the least burst, in bytes: below, a packet takes minutes.
const (
	minRate  = 1000
	minBurst = 1
)

func (b *build) buildLimit(field string, cfg *api.Limit) error {
	port := b.t.Port(packet.PortID(cfg.GetPort()))
	if port == nil {
		return b.invalid(cfg.GetOrigin(), field+".port", "there is no port %d", cfg.GetPort())
	}
	for part, rate := range map[string]uint64{
		".from_port_bits_per_second": cfg.GetFromPortBitsPerSecond(),
		".to_port_bits_per_second":   cfg.GetToPortBitsPerSecond(),
	} {
		if rate != 0 && rate < minRate {
			return b.invalid(cfg.GetOrigin(), field+part, "%d is less than %d", rate, minRate)
		}
	}
	if was := b.formerLimit(port.ID); was != nil && sameLimit(was.config, cfg) {
		port.Limit = was
		return nil
	}
	port.Limit = &Limit{
		From:   newBucket(cfg.GetFromPortBitsPerSecond(), cfg.GetFromPortBurstBytes()),
		To:     newBucket(cfg.GetToPortBitsPerSecond(), cfg.GetToPortBurstBytes()),
		config: cfg,
	}
	return nil
}

func (b *build) formerLimit(id packet.PortID) *Limit {
	if b.prev == nil {
		return nil
	}
	if p := b.prev.Port(id); p != nil {
		return p.Limit
	}
	return nil
}

func sameLimit(x, y *api.Limit) bool {
	return slices.Equal(
		[]uint64{x.FromPortBitsPerSecond, x.FromPortBurstBytes, x.ToPortBitsPerSecond, x.ToPortBurstBytes},
		[]uint64{y.FromPortBitsPerSecond, y.FromPortBurstBytes, y.ToPortBitsPerSecond, y.ToPortBurstBytes})
}
