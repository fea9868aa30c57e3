// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"

	"github.com/viaduct-net/viaduct/control/api"
)

// HostPort is a port of the node that leads to one of a pod's.
type HostPort struct {
	// HostIP is the address of the node that it is at; the zero value is all, and an unspecified one all of its family.
	HostIP                  netip.Addr
	HostPort, ContainerPort uint16
	Protocol                api.Protocol // TCP, UDP or SCTP
}
