// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"iter"
	"net/netip"
	"strings"
)

// Services is how many services a cluster has. Their endpoints are made up, but for those of the one in the middle,
// whose one endpoint is whoever is measured.
type Services struct {
	Count     int // 0: none
	Endpoints int // of each, at least 1 where there are services
}

// Bounds of Services: what the addresses have room for, and what one EndpointSlice has (discovery.k8s.io/v1).
const (
	MaxServices  = 100_000
	MaxEndpoints = 1000

	servicePort  = 80
	endpointPort = 8080
)

// The addresses of services, and of their endpoints, which begin again behind the last.
var (
	serviceAddresses  = netip.MustParseAddr("10.96.0.0")
	endpointAddresses = netip.MustParseAddr("10.128.0.0") // a /9
)

// ServiceCIDR holds all addresses of services.
var ServiceCIDR = netip.MustParsePrefix("10.96.0.0/12")

// Validate says what is wrong with the numbers.
func (s Services) Validate() error {
	switch {
	case s.Count < 0 || s.Count > MaxServices:
		return fmt.Errorf("%d services: want 0 to %d", s.Count, MaxServices)
	case s.Count > 0 && (s.Endpoints < 1 || s.Endpoints > MaxEndpoints):
		return fmt.Errorf("%d endpoints of a service: want 1 to %d", s.Endpoints, MaxEndpoints)
	}
	return nil
}

// Measured is the number of the service that is measured: it stands in the middle.
func (s Services) Measured() int { return s.Count / 2 }

// Address is the cluster address of the i-th service.
func (s Services) Address(i int) netip.Addr { return plus(serviceAddresses, 1+i) }

// Port is the port of all services but the measured one.
func (s Services) Port() uint16 { return servicePort }

// Endpoint is where the e-th endpoint of the i-th service is. The last one has other addresses in other revisions.
func (s Services) Endpoint(i, e, revision int) netip.AddrPort {
	const room = 1 << 22 // and as many for revisions
	n := (i*s.Endpoints + e) % room
	if revision > 0 && e == s.Endpoints-1 {
		n = room + (n+revision)%room
	}
	return netip.AddrPortFrom(plus(endpointAddresses, 1+n), endpointPort)
}

func plus(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	v := int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3]) + n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// ServiceName is the name of the i-th service, in PolicyNamespace.
func ServiceName(i int) string { return fmt.Sprintf("service-%05d", i) }

// Objects are a Service and an EndpointSlice for each but the measured one.
func (s Services) Objects() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for i := range s.Count {
			if i != s.Measured() && (!yield(service(i, s.Address(i), servicePort)) || !yield(s.Slice(i, 0))) {
				return
			}
		}
	}
}

// MeasuredObjects are those of the measured service, which takes traffic at a port and leads it to a server's same one.
func (s Services) MeasuredObjects(node string, server netip.AddrPort) []Object {
	i := s.Measured()
	return []Object{service(i, s.Address(i), server.Port()), slice(i, server.Port(), []any{endpoint(server.Addr(), node)})}
}

// Exposed is a service at an address that leads each of its ports to a server's same one.
func Exposed(node string, address, server netip.Addr, ports []Admitted) []Object {
	var named []any
	for _, p := range ports {
		named = append(named, fields{"name": strings.ToLower(fmt.Sprintf("%s-%d", p.Protocol, p.Port)),
			"protocol": p.Protocol, "port": p.Port})
	}
	const name = "exposed"
	return []Object{
		object("v1", "Service", PolicyNamespace, name, nil, fields{"spec": fields{
			"type": "ClusterIP", "clusterIP": address.String(), "clusterIPs": []string{address.String()},
			"ipFamilies": []string{"IPv4"}, "ports": named,
		}}),
		object("discovery.k8s.io/v1", "EndpointSlice", PolicyNamespace, name,
			map[string]string{"kubernetes.io/service-name": name},
			fields{"addressType": "IPv4", "ports": named, "endpoints": []any{endpoint(server, node)}}),
	}
}

// Slice is the EndpointSlice of the i-th service in a revision, 0 being as it is at first.
func (s Services) Slice(i, revision int) Object {
	var endpoints []any
	for e := range s.Endpoints {
		endpoints = append(endpoints, endpoint(s.Endpoint(i, e, revision).Addr(), "other"))
	}
	return slice(i, endpointPort, endpoints)
}

func service(i int, address netip.Addr, port uint16) Object {
	return object("v1", "Service", PolicyNamespace, ServiceName(i), nil, fields{"spec": fields{
		"type": "ClusterIP", "clusterIP": address.String(), "clusterIPs": []string{address.String()},
		"ipFamilies": []string{"IPv4"}, "ports": []any{fields{"protocol": "TCP", "port": port}},
	}})
}

func slice(i int, port uint16, endpoints []any) Object {
	o := object("discovery.k8s.io/v1", "EndpointSlice", PolicyNamespace, ServiceName(i)+"-slice",
		map[string]string{"kubernetes.io/service-name": ServiceName(i)}, fields{
			"addressType": "IPv4", "ports": []any{fields{"name": "", "protocol": "TCP", "port": port}},
			"endpoints": endpoints,
		})
	return o
}

func endpoint(address netip.Addr, node string) fields {
	return fields{"addresses": []string{address.String()}, "nodeName": node,
		"conditions": fields{"ready": true, "serving": true, "terminating": false}}
}
