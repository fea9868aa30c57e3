// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// portMapping is an entry of the capability portMappings, as the capability's convention has it.
type portMapping struct {
	HostPort      int64  `json:"hostPort"`
	ContainerPort int64  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// hostPorts checks the mappings. One without a host port asks for nothing. As with the reference plugin portmap an
// address that is unspecified is every one of its family, and one of a family that the pod does not have is no error.
func hostPorts(mappings []portMapping) ([]*attach.HostPort, error) {
	var ports []*attach.HostPort
	for i, m := range mappings {
		if m.HostPort == 0 {
			continue
		}
		protocol := strings.ToLower(m.Protocol)
		if protocol == "" {
			protocol = "tcp"
		}
		switch {
		case m.HostPort < 0 || m.HostPort > math.MaxUint16:
			return nil, invalid("runtimeConfig.portMappings[%d]: hostPort %d is no port", i, m.HostPort)
		case m.ContainerPort < 1 || m.ContainerPort > math.MaxUint16:
			return nil, invalid("runtimeConfig.portMappings[%d]: containerPort %d is no port", i, m.ContainerPort)
		case !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol):
			return nil, invalid("runtimeConfig.portMappings[%d]: protocol %q is not tcp, udp or sctp", i, m.Protocol)
		}
		p := &attach.HostPort{
			HostPort: uint32(m.HostPort), ContainerPort: uint32(m.ContainerPort), Protocol: protocol}
		if m.HostIP != "" {
			a, err := netip.ParseAddr(m.HostIP)
			if a = a.Unmap(); err != nil || a.Zone() != "" || a.IsMulticast() {
				return nil, invalid("runtimeConfig.portMappings[%d]: hostIP %q is no address of a node", i, m.HostIP)
			}
			p.HostIp = a.String()
		}
		for _, other := range ports {
			if other.HostPort == p.HostPort && other.Protocol == p.Protocol && other.HostIp == p.HostIp &&
				other.ContainerPort != p.ContainerPort {
				return nil, invalid("runtimeConfig.portMappings[%d]: host port %d/%s leads to two ports", i, m.HostPort,
					protocol)
			}
		}
		ports = append(ports, p)
	}
	return ports, nil
}
