// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"github.com/viaduct-net/viaduct/control/model"
)

// attachedOf are the attachments of this node, by namespace and pod; and of each, whether its port was compiled as one
// whose flows the kernel does not carry.
type attachedOf map[string]map[model.Key]map[*Attachment]bool

func (of attachedOf) add(a *Attachment) {
	pods := of[a.PodNamespace]
	if pods == nil {
		pods = map[model.Key]map[*Attachment]bool{}
		of[a.PodNamespace] = pods
	}
	if pods[a.pod()] == nil {
		pods[a.pod()] = map[*Attachment]bool{}
	}
	pods[a.pod()][a] = false
}

// remove takes an attachment out; nil: there is none.
func (of attachedOf) remove(o *model.Object) {
	if o == nil {
		return
	}
	a := o.Spec.(*Attachment)
	pods := of[a.PodNamespace]
	if delete(pods[a.pod()], a); len(pods[a.pod()]) == 0 {
		delete(pods, a.pod())
	}
	if len(pods) == 0 {
		delete(of, a.PodNamespace)
	}
}

// note remembers what an attachment's port was compiled as.
func (of attachedOf) note(a *Attachment, noOffload bool) bool {
	of[a.PodNamespace][a.pod()][a] = noOffload
	return noOffload
}

// noOffload says whether an attachment's flows are to go through userspace alone: as its pod says, or else its
// namespace.
func (c *Compiler) noOffload(a *Attachment) bool {
	if o := c.podOf(a); o != nil {
		if said := o.Spec.(*model.Pod).Offload; said != "" {
			return said == "false"
		}
	}
	o := c.Object(model.Key{Kind: "Namespace", Name: a.PodNamespace})
	return o != nil && o.Spec.(*model.Namespace).Offload == "false"
}

// reconsiderOffload has attachments compiled again for which pods or namespaces that changed say something else.
func (c *Compiler) reconsiderOffload(w *work) {
	look := func(attachments map[*Attachment]bool) {
		for a, was := range attachments {
			if c.noOffload(a) != was {
				c.attached[a.Port] = struct{}{}
			}
		}
	}
	for _, key := range w.changed["Pod"] {
		look(c.attachedOf[key.Namespace][key])
	}
	for _, key := range w.changed["Namespace"] {
		for _, attachments := range c.attachedOf[key.Name] {
			look(attachments)
		}
	}
}
