// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	netutils "k8s.io/utils/net"
)

// Service is what is used of a service. A list of addresses has each once.
type Service struct {
	// Fronted: it takes traffic. Headless ones do not, ExternalNames do not, and those that are said to be another
	// proxy's are not ours; nothing else is known of them.
	Fronted bool
	// Addresses are its own, one of each family that it is of. Without any it is of the families below, else of those of
	// its other addresses.
	Addresses []netip.Addr
	Families  []int // 4 or 6
	Ports     []ServicePort
	// External are addresses that somebody routes to the nodes, and LoadBalancer those of load balancers that let
	// packets be as they are.
	External, LoadBalancer []netip.Addr
	// Sources that may come to LoadBalancer; empty: all.
	Sources []netip.Prefix
	// InternalLocal and ExternalLocal: only backends on the node that traffic comes to answer, clients of the cluster
	// and outside ones.
	InternalLocal, ExternalLocal bool
	AffinitySeconds              uint32 // for which a client keeps its backend; 0: not at all
	HealthCheckPort              uint16 // of the node, at which load balancers ask for local backends; 0: none
	// Selector is of those whose endpoints nobody may write, as no API server knows them: pods that it selects answer
	// where no EndpointSlice is there. Nil: of slices alone.
	Selector Selector
	// Unready: pods that it selects answer before they are ready. Where there are EndpointSlices they say it.
	Unready bool

	Annotations ServiceAnnotations
}

// ServicePort is a port of a service.
type ServicePort struct {
	Name     string // may be empty
	Protocol string // "TCP", "UDP" or "SCTP"
	Port     uint16
	NodePort uint16 // 0: none
	// Target is the pods' port, by number or by name. Where there are EndpointSlices they say it.
	Target     uint16
	TargetName string
}

// ServiceLabel is the label of EndpointSlices with the name of the service that they are of.
const ServiceLabel = discoveryv1.LabelServiceName

// Affinity in seconds, as Kubernetes has it.
const (
	someAffinity = 3 * 3600 // when not said
	maxAffinity  = 24 * 3600
)

// What one service may have. An API server has no such limits, and what it takes of one is to cost no other anything.
const (
	maxServicePorts = 4096
	maxAddresses    = 256 // in each list
	maxSources      = 1024
)

func serviceOf(c *checker, from *corev1.Service) *Service {
	s := &Service{Annotations: c.serviceAnnotations(from.Annotations)}
	c.within("spec", func() {
		c.oneOf("type", string(from.Spec.Type), "ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
		s.Fronted = from.Spec.Type != corev1.ServiceTypeExternalName && from.Spec.ClusterIP != corev1.ClusterIPNone &&
			!slices.Contains(from.Spec.ClusterIPs, corev1.ClusterIPNone) && !othersService(from.Labels)
		c.serviceSpec(s, &from.Spec)
	})
	c.within("status.loadBalancer", func() { c.loadBalancer(s, from) })
	if !s.Fronted {
		return &Service{}
	}
	return s
}

// othersService says whether a service, or an EndpointSlice, says that it is not for a proxy of all services.
func othersService(labels map[string]string) bool {
	_, other := labels["service.kubernetes.io/service-proxy-name"]
	_, headless := labels[corev1.IsHeadlessService]
	return other || headless
}

// serviceSpec reads what is of the spec; what a service without frontends says is checked and not used.
func (c *checker) serviceSpec(s *Service, from *corev1.ServiceSpec) {
	clusterIPs, field := from.ClusterIPs, "clusterIPs"
	if len(clusterIPs) == 0 && from.ClusterIP != "" {
		clusterIPs, field = []string{from.ClusterIP}, "clusterIP"
	}
	if s.Fronted {
		s.Addresses = c.serviceAddresses(field, clusterIPs)
		c.complainUnless(len(s.Addresses) > 0, "spec.clusterIP",
			"nobody gives the service an address: say one, or None")
	}
	for i, family := range from.IPFamilies {
		switch c.oneOf(index("ipFamilies", i), string(family), "IPv4", "IPv6") {
		case "IPv4":
			s.Families = append(s.Families, 4)
		case "IPv6":
			s.Families = append(s.Families, 6)
		}
	}
	exposed := from.Type == corev1.ServiceTypeNodePort || from.Type == corev1.ServiceTypeLoadBalancer
	s.External = c.serviceAddresses("externalIPs", from.ExternalIPs)
	c.check(len(from.Ports) <= maxServicePorts, "ports", "at most %d, not %d", maxServicePorts, len(from.Ports))
	c.check(len(from.LoadBalancerSourceRanges) <= maxSources, "loadBalancerSourceRanges", "at most %d, not %d", maxSources,
		len(from.LoadBalancerSourceRanges))
	for i := range from.Ports {
		c.within(index("ports", i), func() { s.Ports = append(s.Ports, c.servicePort(&from.Ports[i], exposed)) })
	}
	c.distinctPorts(s)
	internal := c.oneOf("internalTrafficPolicy", stringOf(from.InternalTrafficPolicy), "Cluster", "Local")
	external := c.oneOf("externalTrafficPolicy", string(from.ExternalTrafficPolicy), "Cluster", "Local")
	s.InternalLocal = internal == "Local"
	s.ExternalLocal = external == "Local" && (exposed || len(from.ExternalIPs) > 0)
	s.AffinitySeconds = c.affinity(from)
	for i, text := range from.LoadBalancerSourceRanges {
		s.Sources = append(s.Sources, c.block(index("loadBalancerSourceRanges", i), strings.TrimSpace(text)))
	}
	slices.SortFunc(s.Sources, comparePrefixes)
	s.Sources = slices.Compact(s.Sources)
	if from.Type == corev1.ServiceTypeLoadBalancer && s.ExternalLocal && from.HealthCheckNodePort != 0 {
		s.HealthCheckPort = uint16(c.between("healthCheckNodePort", int64(from.HealthCheckNodePort), 1, maxPort))
	}
	if from.Type != corev1.ServiceTypeLoadBalancer {
		s.Sources = nil
	}
	for _, family := range s.Families {
		c.complainUnless(len(s.Sources) == 0 || slices.ContainsFunc(s.Sources, func(p netip.Prefix) bool {
			return p.Addr().Is4() == (family == 4)
		}), "spec.loadBalancerSourceRanges", "has no prefix of IPv%d: nobody may come by IPv%d", family, family)
	}
	distribution := stringOf(from.TrafficDistribution) // EndpointSlices have the hints that follow from it
	known := []string{"", corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone,
		corev1.ServiceTrafficDistributionPreferSameNode}
	c.complainUnless(slices.Contains(known, distribution), "spec.trafficDistribution", "%q is not known", distribution)
	if len(from.Selector) > 0 && !c.served {
		s.Unready = from.PublishNotReadyAddresses
		c.checkLabels("selector", from.Selector)
		for k, v := range from.Selector {
			s.Selector = append(s.Selector, Requirement{Key: intern(k), Operator: In, Values: []string{intern(v)}})
		}
		slices.SortFunc(s.Selector, Requirement.compare)
	}
}

func stringOf[T ~string](p *T) string {
	if p == nil {
		return ""
	}
	return string(*p)
}

// affinity is for how many seconds a client keeps its backend.
func (c *checker) affinity(from *corev1.ServiceSpec) uint32 {
	if c.oneOf("sessionAffinity", string(from.SessionAffinity), "None", "ClientIP") == "None" {
		return 0
	}
	config := from.SessionAffinityConfig
	if config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil {
		return someAffinity
	}
	return uint32(c.between("sessionAffinityConfig.clientIP.timeoutSeconds", int64(*config.ClientIP.TimeoutSeconds), 1,
		maxAffinity))
}

// servicePort reads a port. Node ports are of services that are exposed.
func (c *checker) servicePort(from *corev1.ServicePort, exposed bool) ServicePort {
	p := ServicePort{
		Name:     intern(from.Name),
		Protocol: intern(c.oneOf("protocol", string(from.Protocol), protocols...)),
		Port:     uint16(c.between("port", int64(from.Port), 1, maxPort)),
	}
	if from.Name != "" {
		valid := len(from.Name) <= maxName && framed(from.Name, lowerOrDigit, "-")
		c.check(valid, "name", "%q is not a port's name", from.Name)
	}
	if from.NodePort != 0 {
		c.check(exposed || c.served, "nodePort", "is of services of type NodePort or LoadBalancer")
		p.NodePort = uint16(c.between("nodePort", int64(from.NodePort), 1, maxPort))
	}
	switch target := from.TargetPort; {
	case target.Type == intstr.String && target.StrVal != "":
		p.TargetName = c.portName("targetPort", target.StrVal)
	case target.Type == intstr.Int && target.IntVal != 0:
		p.Target = uint16(c.between("targetPort", int64(target.IntVal), 1, maxPort))
	default:
		p.Target = p.Port
	}
	return p
}

// distinctPorts refuses ports that could not be told apart.
func (c *checker) distinctPorts(s *Service) {
	type place struct {
		protocol string
		port     uint16
	}
	names, ports, nodePorts := map[string]bool{}, map[place]bool{}, map[place]bool{}
	for i, p := range s.Ports {
		at, atNode := place{p.Protocol, p.Port}, place{p.Protocol, p.NodePort}
		switch {
		case p.Name == "" && len(s.Ports) > 1:
			c.check(false, index("ports", i)+".name", "must be said: there are several ports")
		case names[p.Name]:
			c.check(false, index("ports", i)+".name", "two ports are named %q", p.Name)
		case ports[at]:
			c.check(false, index("ports", i)+".port", "two ports are %s %d", p.Protocol, p.Port)
		case p.NodePort != 0 && nodePorts[atNode]:
			c.check(false, index("ports", i)+".nodePort", "two ports are %s %d", p.Protocol, p.NodePort)
		}
		names[p.Name], ports[at], nodePorts[atNode] = true, true, true
	}
}

// loadBalancer reads the addresses of load balancers. Those whose packets come with a node's address are of no
// interest. In a document, where nobody need write a status, the address that the spec asks for will do.
func (c *checker) loadBalancer(s *Service, from *corev1.Service) {
	if from.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	var texts []string
	for i, in := range from.Status.LoadBalancer.Ingress {
		mode := c.oneOf(index("ingress", i)+".ipMode", stringOf(in.IPMode), "VIP", "Proxy")
		if in.IP != "" && mode == "VIP" {
			texts = append(texts, in.IP)
		}
	}
	if len(from.Status.LoadBalancer.Ingress) == 0 && from.Spec.LoadBalancerIP != "" && !c.served {
		texts = []string{from.Spec.LoadBalancerIP}
	}
	s.LoadBalancer = c.serviceAddresses("ingress", texts)
}

// serviceAddresses reads addresses at which a service is, in order.
func (c *checker) serviceAddresses(field string, texts []string) (list []netip.Addr) {
	c.check(len(texts) <= maxAddresses, field, "at most %d, not %d", maxAddresses, len(texts))
	for i, text := range texts {
		where := index(field, i)
		if field == "clusterIP" {
			where = field
		}
		list = append(list, c.serviceAddress(where, text))
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// serviceAddress reads one. An API server lets IPv4 with leading zeros be, and IPv4 mapped into IPv6
// (k8s.io/apimachinery, IsValidIPForLegacyField).
func (c *checker) serviceAddress(field, text string) netip.Addr {
	if c.served {
		if a, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(text)); ok {
			text = a.Unmap().String()
		}
	}
	a := c.unicast(field, text)
	c.check(!a.IsLinkLocalUnicast(), field, "%s is link-local", a)
	return a
}
