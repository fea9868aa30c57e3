// SPDX-License-Identifier: Apache-2.0

package push

import (
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
)

// mostWithheld is how many objects are withheld in a row, before the dataplane takes anything: each costs a whole
// snapshot. After a pause it goes on.
const mostWithheld = 64

// withhold has the next snapshot be without the object that a whole one was refused for, and says whether that can be.
func (p *pusher) withhold(nack *api.Nack) bool {
	if p.withheld == mostWithheld || nack.Object == "" {
		return false
	}
	key := keyOf(nack.Object)
	if !p.compiler.Withhold(key, nack.Field, nack.Reason) {
		return false
	}
	p.withheld++
	p.dirty = true
	p.log.Warn("withheld from the dataplane until it changes", zap.Error(p.compiler.Withheld(key)))
	return true
}
