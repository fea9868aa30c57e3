// SPDX-License-Identifier: Apache-2.0

package push

import (
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
)

// resume goes on from what the follower has in force, where that is of another control process, or older than what
// was acked last: numbers that were free since may be in use there.
func (p *pusher) resume(inForce *api.Snapshot) {
	if inForce == nil || p.pushed && inForce.Epoch <= p.epoch && inForce.Epoch >= p.view.acked {
		return
	}
	p.epoch = max(p.epoch, inForce.Epoch)
	p.latest, p.delta, p.dirty = nil, nil, true
	const maxNumber = 1<<28 - 1
	if !numbered(inForce.Ports, api.MaxPort) || !numbered(inForce.Groups, maxNumber) ||
		!numbered(inForce.Identities, maxNumber) || !numbered(inForce.PeerSets, maxNumber) ||
		!numbered(inForce.Services, maxNumber) {
		p.log.Warn("what the dataplane has in force is not numbered as it should be: ports and flows begin anew",
			zap.Uint64("epoch", inForce.Epoch))
		inForce = nil
	}
	p.compiler.Resume(inForce)
}

// numbered says whether the numbers are from 1 to the largest, in order, each once.
func numbered[T interface{ GetId() uint32 }](list []T, largest uint32) bool {
	last := uint32(0)
	for _, one := range list {
		if one.GetId() <= last || one.GetId() > largest {
			return false
		}
		last = one.GetId()
	}
	return true
}
