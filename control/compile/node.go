// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// everyone is the name of the NodeConfig of all nodes that have none of their own.
const everyone = "default"

// builtIn is what holds for a node that no NodeConfig is for.
var builtIn = model.DefaultNodeConfig()

// self is the node that is compiled for.
type self struct {
	name   string
	object *model.Object // its NodeConfig; its Node when what is built in holds
	config *model.NodeConfig
	node   *model.Object // its Node; nil: there is none
	pods   bool          // it has pods, or may have: then it has a host port
	// dataplane are the dataplane's own addresses, IPv4 and IPv6, and crowded those that pods have in their place; zero:
	// none.
	dataplane, crowded [2]netip.Addr
}

// ErrNoNode is wrapped by errors that say why it is not known which node this is, and what to do.
var ErrNoNode = errors.New("it is not known which node this is")

// choose finds the node's settings: its own NodeConfig, everyone's, the only one if that may be, or those built in
// for a node that Kubernetes knows.
func (c *Compiler) choose() (self, error) {
	configs := c.objects["NodeConfig"]
	if o := c.nodeConfig(c.node.Name); o != nil {
		return c.as(c.node.Name, o), nil
	}
	if o := c.nodeConfig(everyone); o != nil && c.node.Name != "" {
		return c.as(c.node.Name, o), nil
	}
	if c.node.Sole && len(configs) == 1 {
		for key, o := range configs {
			return c.as(key.Name, o), nil
		}
	}
	if o := c.Object(model.Key{Kind: "Node", Name: c.node.Name}); o != nil {
		return c.as(c.node.Name, o), nil
	}
	return self{}, c.unknownNode()
}

func (c *Compiler) nodeConfig(name string) *model.Object {
	return c.Object(model.Key{Kind: "NodeConfig", Name: name})
}

// as is the node with the name and the settings of the object.
func (c *Compiler) as(name string, o *model.Object) self {
	config, written := o.Spec.(*model.NodeConfig)
	if !written {
		config = builtIn
	}
	s := self{name: name, object: o, config: config, node: c.Object(model.Key{Kind: "Node", Name: name})}
	_, cidrs := c.podCIDRs(&s, name)
	s.pods = len(cidrs) > 0 || len(c.attachments) > 0
	for _, cidr := range cidrs {
		address, family := model.DataplaneAddress(cidr), b2i(cidr.Addr().Is6())
		switch {
		case !address.IsValid() || s.dataplane[family].IsValid():
		case c.addressed[address] == 0:
			s.dataplane[family], s.crowded[family] = address, netip.Addr{}
		case !s.crowded[family].IsValid():
			s.crowded[family] = address
		}
	}
	return s
}

func (c *Compiler) unknownNode() error {
	configs := c.objects["NodeConfig"]
	if len(configs) == 0 {
		return fmt.Errorf("%w: there is no NodeConfig, and no Node %q: write a NodeConfig that names the ports",
			ErrNoNode, c.node.Name)
	}
	const shown = 5
	var names []string
	for key := range configs {
		names = append(names, key.Name)
	}
	slices.Sort(names)
	more := ""
	if len(names) > shown {
		names, more = names[:shown], fmt.Sprintf(" and %d more", len(names)-shown)
	}
	return fmt.Errorf("%w: --node is %q, and there are the NodeConfigs %q%s; one named %q is for every node without "+
		"its own", ErrNoNode, c.node.Name, names, more, everyone)
}

// compileNode enters the settings, when anything about the node itself changed, or about what the cluster is.
func (c *Compiler) compileNode(w *work) {
	if !w.whole && len(w.changed["Node"])+len(w.changed["NodeConfig"])+len(w.changed["ServiceCIDR"]) == 0 {
		return
	}
	origin := c.settings.GetOrigin()
	if w.whole {
		for _, key := range c.keys(w, "NodeConfig") {
			w.look(key)
		}
		origin = c.origins.refer(c.self.object)
		if w.former.object != nil {
			c.origins.forget(w.former.object.Key)
		}
	}
	if next := c.nodeSettings(origin); !proto.Equal(c.settings, next) {
		c.settings, w.delta.Set.Node = next, next
	}
}

// Excluded are the addresses of the node's pod CIDRs that no pod is to have.
func (c *Compiler) Excluded() []netip.Prefix {
	if c.self.config == nil {
		return nil
	}
	return c.self.config.ExcludedAddresses
}

var uplinkModes = map[string]api.Uplink_Mode{
	"kernel": api.Uplink_MODE_KERNEL,
	"shared": api.Uplink_MODE_SHARED,
	"owned":  api.Uplink_MODE_OWNED,
}

func (c *Compiler) nodeSettings(origin uint32) *api.NodeSettings {
	config := c.self.config
	n := &api.NodeSettings{
		Name:       c.self.name,
		Origin:     origin,
		Workers:    config.Workers,
		Mtu:        config.MTU,
		Offload:    config.Offload,
		Masquerade: config.Masquerade,

		FailSafeIngress: failSafe(config.FailSafe.Ingress),
		FailSafeEgress:  failSafe(config.FailSafe.Egress),
		Flows:           config.Flows,
		FlowsPerPort:    config.FlowsPerPort,
	}
	if config.OnAbsence == "pass" {
		n.OnAbsence = api.OnAbsence_ON_ABSENCE_PASS
	}
	_, cidrs := c.podCIDRs(&c.self, c.self.name)
	for _, p := range cidrs {
		n.PodPrefixes = append(n.PodPrefixes, prefixOf(p))
	}
	for _, a := range c.self.dataplane {
		if a.IsValid() {
			n.DataplaneAddresses = append(n.DataplaneAddresses, a.AsSlice())
		}
	}
	for _, p := range config.NodePortAddresses {
		n.NodePortPrefixes = append(n.NodePortPrefixes, prefixOf(p))
	}
	n.Unmasqueraded = c.unmasqueraded()
	if u := config.Uplink; u != nil {
		n.Uplink = &api.Uplink{Device: u.Device, Mode: uplinkModes[u.Mode]}
	}
	return n
}

func failSafe(ports []model.FailSafePort) (list []*api.PortRange) {
	for _, p := range ports {
		list = append(list, &api.PortRange{Protocol: protocols[p.Protocol], First: uint32(p.Port), Last: uint32(p.Port)})
	}
	return list
}

// labels are the node's: its Node object's, and over them its NodeConfig's.
func (s *self) labels() map[string]string {
	labels := map[string]string{}
	if s.node != nil {
		maps.Copy(labels, s.node.Labels)
	}
	maps.Copy(labels, s.object.Labels)
	return labels
}

// podCIDRs are where a node's pods have their addresses, and the object that says so: its NodeConfig, or its Node
// when that says nothing. The object is nil when there is neither. Which NodeConfig is this node's, s says.
func (c *Compiler) podCIDRs(s *self, name string) (*model.Object, []netip.Prefix) {
	config := c.nodeConfig(name)
	if name == s.name && s.object.Key.Kind == "NodeConfig" {
		config = s.object
	}
	if config != nil {
		if cidrs := config.Spec.(*model.NodeConfig).PodCIDRs; len(cidrs) > 0 {
			return config, cidrs
		}
	}
	if node := c.Object(model.Key{Kind: "Node", Name: name}); node != nil {
		return node, node.Spec.(*model.Node).PodCIDRs
	}
	return nil, nil
}
