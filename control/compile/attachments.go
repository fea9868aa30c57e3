// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net"
	"net/netip"

	"github.com/viaduct-net/viaduct/control/model"
)

// Attachment is an interface of a pod on this node, and the port that it is. It is immutable once it was attached.
type Attachment struct {
	// Port is the name of its port: no two attachments have one.
	Port string
	// Device is the host's end of the veth pair, and MAC that of the pod's end.
	Device  string
	IfIndex uint32 // of it; 0: not known
	MAC     net.HardwareAddr
	// Direct: an XDP hook on the device takes the packets, and not the trunk.
	Direct bool
	// Addresses are the pod's own. Each becomes a route to the port.
	Addresses []netip.Addr
	// PodNamespace and PodName are those of its Pod object, which may come later, or never. Without a namespace its
	// addresses have no identity.
	PodNamespace, PodName string
	// PodUID is what the runtime calls the pod, empty where it does not say. Nothing is compiled of it.
	PodUID          string
	Egress, Ingress Rate // out of the pod, and into it
	HostPorts       []HostPort
}

// Rate bounds one direction.
type Rate struct {
	BitsPerSecond uint64 // 0: no bound
	BurstBits     uint64 // over the rate at once
}

// attachmentKind is the kind of attachments in reports. No object has it.
const attachmentKind = "Attachment"

// attachmentKey is how reports name the attachment of a port.
func attachmentKey(port string) model.Key { return model.Key{Kind: attachmentKind, Name: port} }

// Origin is what a refusal of the dataplane calls the attachment of the port.
func Origin(port string) string { return (&model.Object{Key: attachmentKey(port)}).Origin() }

// pod is the key of its Pod object.
func (a *Attachment) pod() model.Key {
	return model.Key{Kind: "Pod", Namespace: a.PodNamespace, Name: a.PodName}
}

// Attach adds attachments, or replaces those of the same ports, and removes those of the ports that are listed. Of
// several of one port the last stays.
func (c *Compiler) Attach(set []*Attachment, removed []string) {
	for _, port := range removed {
		c.address(port, -1)
		c.attachedOf.remove(c.attachments[port])
		delete(c.attachments, port)
		c.attached[port] = struct{}{}
	}
	for _, a := range set {
		c.address(a.Port, -1)
		c.attachedOf.remove(c.attachments[a.Port])
		c.attachments[a.Port] = &model.Object{Key: attachmentKey(a.Port), Spec: a}
		c.attachedOf.add(a)
		c.address(a.Port, 1)
		c.attached[a.Port] = struct{}{}
	}
}

// address counts the addresses of the port's attachment, if there is one.
func (c *Compiler) address(port string, by int) {
	o := c.attachments[port]
	if o == nil {
		return
	}
	for _, a := range o.Spec.(*Attachment).Addresses {
		if c.addressed[a] += by; c.addressed[a] == 0 {
			delete(c.addressed, a)
		}
	}
}

// Attached says, after a compilation, which number the port of an attachment has; 0: it has none. The error is why
// something of it is left out of the snapshot; nil: nothing is.
func (c *Compiler) Attached(port string) (number uint32, err *model.Error) {
	for _, err := range []*model.Error{
		c.ports.errorOf(attachedAs(port)), c.routes.errorOf(attachedAs(port)), c.identities.errorOf(placedAs(port)),
	} {
		if err != nil {
			return 0, err
		}
	}
	return c.ports.number(port), nil
}

// Attachments says how many there are.
func (c *Compiler) Attachments() int { return len(c.attachments) }

// podOf is the attachment's Pod object; nil while there is none.
func (c *Compiler) podOf(a *Attachment) *model.Object { return c.Object(a.pod()) }
