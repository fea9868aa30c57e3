// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/viaduct-net/viaduct/control/api/attach"
	"github.com/viaduct-net/viaduct/control/lease"
)

// Limits of what is asked for, in bytes unless said otherwise. They are those of the kernel, of Kubernetes, and of a
// path; identifiers of containers and networks have none of their own.
const (
	maxIdentifier = 253
	maxInterface  = 15
	maxPath       = 4096
	maxAddresses  = 16   // of them
	maxHostPorts  = 4096 // of them
)

// DevicePrefix begins the name of every device that is ours to sweep.
const DevicePrefix = "vd"

// requestError is a request that nobody can be given what it asks for.
type requestError struct{ field, reason string }

func (e *requestError) Error() string { return e.field + ": " + e.reason }

// reader collects the first complaint about a request.
type reader struct{ err error }

func (r *reader) check(ok bool, field, format string, args ...any) {
	if !ok && r.err == nil {
		r.err = &requestError{field, fmt.Sprintf(format, args...)}
	}
}

// key reads the name of an attachment: identifiers as CNI has them, and an interface's name as the kernel has it.
func (r *reader) key(k *attach.Key) lease.Key {
	r.check(identifier(k.GetNetwork()), "key.network", "%.64q is not a network's name", k.GetNetwork())
	r.check(len(k.GetContainer()) <= maxIdentifier, "key.container", "the identifier has %d bytes, and %d is the most",
		len(k.GetContainer()), maxIdentifier)
	r.check(identifier(k.GetContainer()), "key.container", "%.64q is not a container's identifier", k.GetContainer())
	name := k.GetInterface()
	r.check(name != "" && len(name) <= maxInterface && name != "." && name != ".." && printable(name) &&
		!strings.ContainsAny(name, "/:"), "key.interface", "%.64q is not an interface's name", name)
	return lease.Key{Network: k.GetNetwork(), Container: k.GetContainer(), Interface: name}
}

// add reads what an interface is asked to be like.
func (r *reader) add(q *attach.AddRequest) (a lease.Attachment, asked []netip.Addr) {
	a = lease.Attachment{
		Key: r.key(q.GetKey()), Netns: q.GetNetns(), NetnsDevice: q.GetNetnsDevice(), NetnsInode: q.GetNetnsInode(),
		PodNamespace: q.GetPodNamespace(), PodName: q.GetPodName(), PodUID: q.GetPodUid(),
		Device: q.GetDevice(), IfIndex: q.GetIfindex(), MAC: slices.Clone(q.GetMac()),
		Direct:    q.GetAttach() == attach.Attach_ATTACH_DIRECT,
		Delegated: q.GetDelegated(), Bandwidth: r.bandwidth(q.GetBandwidth()),
		HostPorts: r.hostPorts(q.GetHostPorts()),
	}
	r.check(filepath.IsAbs(a.Netns) && len(a.Netns) <= maxPath && printable(a.Netns), "netns",
		"%.64q is not the path of a namespace", a.Netns)
	r.pod(a)
	r.check(device(a.Device), "device", "%.64q is not the name of a pod's device", a.Device)
	r.mac(a.MAC)
	_, known := attach.Attach_name[int32(q.GetAttach())]
	r.check(known, "attach", "%d is not known", q.GetAttach())
	asked = r.addresses(q.GetAddresses())
	r.check(!a.Delegated || len(asked) > 0, "addresses", "delegated, and none is named")
	return a, asked
}

// pod checks the names that Kubernetes gives a pod: both, or none.
func (r *reader) pod(a lease.Attachment) {
	both := (a.PodNamespace == "") == (a.PodName == "")
	r.check(both, "pod_name", "a pod has a namespace and a name")
	r.check(a.PodNamespace == "" || len(a.PodNamespace) <= 63 && lower(a.PodNamespace, "-"), "pod_namespace",
		"%.64q is not a namespace's name", a.PodNamespace)
	r.check(a.PodName == "" || len(a.PodName) <= maxIdentifier && lower(a.PodName, "-."), "pod_name",
		"%.64q is not a pod's name", a.PodName)
	r.check(a.PodUID == "" || identifier(a.PodUID), "pod_uid", "%.64q is not a UID", a.PodUID)
}

// trunkMAC begins the MACs in which packets on the trunk have their ports' numbers, and the routers' that pods see.
var trunkMAC = []byte{0x02, 0x76, 0x64}

func (r *reader) mac(mac []byte) {
	r.check(len(mac) == 6 && mac[0]&1 == 0 && !slices.Equal(mac, make([]byte, 6)), "mac", "%x is not a unicast MAC",
		mac[:min(len(mac), 16)])
	r.check(len(mac) != 6 || !slices.Equal(mac[:3], trunkMAC), "mac", "%x is one of the trunk's", mac[:min(len(mac), 6)])
}

func (r *reader) addresses(texts []string) (list []netip.Addr) {
	r.check(len(texts) <= maxAddresses, "addresses", "%d, and %d is the most", len(texts), maxAddresses)
	for i, text := range texts[:min(len(texts), maxAddresses)] {
		a, err := netip.ParseAddr(text)
		unicast := err == nil && a.Zone() == "" && !a.Is4In6() && a.IsGlobalUnicast() && (a.Is6() || reachable(a.As4()))
		field := fmt.Sprintf("addresses[%d]", i)
		r.check(unicast, field, "%.64q is not an address that a pod can have", text)
		r.check(!slices.Contains(list, a), field, "%s is named twice", a)
		list = append(list, a)
	}
	return list
}

// reachable leaves out "this network" (RFC 1122), class E (RFC 1112), and what netip takes for unicast beside them.
func reachable(a [4]byte) bool { return a[0] != 0 && a[0] < 240 }

func (r *reader) bandwidth(b *attach.Bandwidth) lease.Bandwidth {
	return lease.Bandwidth{
		IngressRate: b.GetIngressRate(), IngressBurst: b.GetIngressBurst(),
		EgressRate: b.GetEgressRate(), EgressBurst: b.GetEgressBurst(),
	}
}

// hostPorts reads them in order, each once.
func (r *reader) hostPorts(list []*attach.HostPort) (ports []lease.HostPort) {
	r.check(len(list) <= maxHostPorts, "host_ports", "%d, and %d is the most", len(list), maxHostPorts)
	for i, q := range list[:min(len(list), maxHostPorts)] {
		field := fmt.Sprintf("host_ports[%d]", i)
		var address netip.Addr
		if text := q.GetHostIp(); text != "" {
			var err error
			address, err = netip.ParseAddr(text)
			r.check(err == nil && address.Zone() == "" && !address.Is4In6() && !address.IsMulticast(), field+".host_ip",
				"%.64q is not an address of a node", text)
		}
		host, container := q.GetHostPort(), q.GetContainerPort()
		r.check(host-1 < math.MaxUint16, field+".host_port", "%d is not a port", host)
		r.check(container-1 < math.MaxUint16, field+".container_port", "%d is not a port", container)
		r.check(protocols[q.GetProtocol()] != 0, field+".protocol", "%.64q is not tcp, udp or sctp", q.GetProtocol())
		ports = append(ports, lease.HostPort{
			HostIP: address, HostPort: uint16(host), ContainerPort: uint16(container), Protocol: q.GetProtocol()})
	}
	slices.SortFunc(ports, lease.HostPort.Compare)
	ports = slices.Compact(ports)
	for i := 1; i < len(ports); i++ {
		a, b := ports[i-1], ports[i]
		b.ContainerPort = a.ContainerPort
		r.check(a != b, "host_ports", "%s leads to two ports of the pod", a)
	}
	return ports
}

// identifier is what CNI lets be a container's identifier or a network's name.
func identifier(s string) bool {
	return s != "" && len(s) <= maxIdentifier && alphanumeric(rune(s[0])) &&
		!strings.ContainsFunc(s, func(c rune) bool { return !alphanumeric(c) && !strings.ContainsRune("_.-", c) })
}

func alphanumeric(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// lower says whether s has lower-case letters, digits and marks only.
func lower(s, marks string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z') && !('0' <= c && c <= '9') && !strings.ContainsRune(marks, c)
	})
}

func device(s string) bool {
	rest, ours := strings.CutPrefix(s, DevicePrefix)
	return ours && rest != "" && len(s) <= maxInterface && lower(rest, "")
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f })
}
