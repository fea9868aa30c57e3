// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// compileEgress enters the addresses of namespaces towards what is outside the cluster, of those that changed.
func (c *Compiler) compileEgress(w *work) {
	keys := slices.SortedFunc(slices.Values(w.changed["Namespace"]), model.Key.Compare) // origins are numbered so
	for _, key := range keys {
		was := c.egress[key.Name]
		delete(c.egress, key.Name)
		if o := c.Object(key); o != nil && len(o.Spec.(*model.Namespace).Egress) > 0 {
			is := &api.Egress{Namespace: key.Name, Origin: c.origins.refer(o)}
			for _, a := range o.Spec.(*model.Namespace).Egress {
				is.Addresses = append(is.Addresses, a.AsSlice())
			}
			c.egress[key.Name] = is
			if was == nil || !proto.Equal(was, is) {
				w.delta.Set.Egress = append(w.delta.Set.Egress, is)
			}
		}
		if was == nil {
			continue
		}
		c.origins.forget(key)
		if c.egress[key.Name] == nil {
			w.delta.RemovedEgress = append(w.delta.RemovedEgress, key.Name)
		}
	}
}
