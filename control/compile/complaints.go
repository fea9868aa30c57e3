// SPDX-License-Identifier: Apache-2.0

package compile

import "github.com/viaduct-net/viaduct/control/model"

// complaints are what of objects does not count, while the objects do.
type complaints struct {
	of         map[model.Key][]*model.Error
	judgedAnew bool // of may say something else than when this was last unset
}

func newComplaints() complaints {
	return complaints{of: map[model.Key][]*model.Error{}, judgedAnew: true}
}

// compileComplaints notes those of objects that changed, and of the node itself.
func (c *Compiler) compileComplaints(w *work) {
	for _, keys := range w.changed {
		for _, key := range keys {
			var list []*model.Error
			if o := c.Object(key); o != nil {
				for _, one := range o.Complaints {
					list = append(list, model.NewError(o.Place, o.Key, one.Field, one.Reason))
				}
			}
			c.complaints.put(key, list)
		}
	}
	if w.whole {
		c.complaints.put(ownAddress, c.crowded())
	}
}

func (l *complaints) put(key model.Key, list []*model.Error) {
	if len(list) > 0 {
		l.of[key], l.judgedAnew = list, true
	} else if len(l.of[key]) > 0 {
		delete(l.of, key)
		l.judgedAnew = true
	}
}

// ownAddress is the key of what is said of the dataplane's own addresses. No object has it.
var ownAddress = model.Key{Kind: "dataplane address"}

// crowded says which of the dataplane's own addresses pods have, that had them before they were the dataplane's.
func (c *Compiler) crowded() (list []*model.Error) {
	object, _ := c.podCIDRs(&c.self, c.self.name)
	for _, a := range c.self.crowded {
		if a.IsValid() {
			list = append(list, refuse(object, "podCIDRs",
				"a pod has %s, the dataplane's own address: until it is gone services do not answer the node itself", a))
		}
	}
	return list
}
