// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Versions of the records. Another one is refused: what it says may not be understood, and may not be lost. A record
// has the first that can say what it says.
const (
	version      = 1
	versionPorts = 2 // with hostPorts
)

// record is an entry on disk, as JSON.
type record struct {
	Version      int          `json:"version"`
	Network      string       `json:"network"`
	Container    string       `json:"container"`
	Interface    string       `json:"interface"`
	Port         string       `json:"port"`
	Netns        string       `json:"netns,omitempty"`
	NetnsDevice  uint64       `json:"netnsDevice,omitempty"`
	NetnsInode   uint64       `json:"netnsInode,omitempty"`
	PodNamespace string       `json:"podNamespace,omitempty"`
	PodName      string       `json:"podName,omitempty"`
	PodUID       string       `json:"podUID,omitempty"`
	Device       string       `json:"device,omitempty"`
	IfIndex      uint32       `json:"ifindex,omitempty"`
	MAC          string       `json:"mac,omitempty"`
	Direct       bool         `json:"direct,omitempty"`
	Delegated    bool         `json:"delegated,omitempty"`
	Addresses    []leased     `json:"addresses,omitempty"`
	Asked        []netip.Addr `json:"asked,omitempty"`
	Bandwidth    bandwidth    `json:"bandwidth,omitzero"`
	HostPorts    []hostPort   `json:"hostPorts,omitempty"`
	Created      time.Time    `json:"created"`
}

type leased struct {
	Address netip.Addr   `json:"address"`
	Pool    netip.Prefix `json:"pool,omitzero"`
}

type bandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

type hostPort struct {
	HostIP        netip.Addr `json:"hostIP,omitzero"`
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
	Protocol      string     `json:"protocol"`
}

func encode(e *entry) ([]byte, error) {
	r := record{
		Version: version, Network: e.Network, Container: e.Container, Interface: e.Interface, Port: e.Port,
		Netns: e.Netns, NetnsDevice: e.NetnsDevice, NetnsInode: e.NetnsInode,
		PodNamespace: e.PodNamespace, PodName: e.PodName, PodUID: e.PodUID,
		Device: e.Device, IfIndex: e.IfIndex, MAC: e.MAC.String(), Direct: e.Direct, Delegated: e.Delegated,
		Asked: e.asked, Bandwidth: bandwidth(e.Bandwidth), Created: e.Created,
	}
	for i, address := range e.Addresses {
		l := leased{Address: address}
		if !e.Delegated {
			l.Pool = e.pools[i]
		}
		r.Addresses = append(r.Addresses, l)
	}
	for _, p := range e.HostPorts {
		r.Version, r.HostPorts = versionPorts, append(r.HostPorts, hostPort(p))
	}
	return json.Marshal(r)
}

// decode reads a record. Errors: JSON's, and what a record of this version cannot say.
func decode(data []byte) (*entry, error) {
	var r record
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&r)
	switch {
	case (r.Version < version || r.Version > versionPorts) && (err == nil || r.Version != 0):
		// Before what is wrong for these versions.
		return nil, fmt.Errorf("a record of version %d, not %d or %d", r.Version, version, versionPorts)
	case err != nil:
		return nil, err
	case len(bytes.TrimSpace(data[decoder.InputOffset():])) > 0:
		return nil, errors.New("more than a record")
	}
	return r.entry()
}

func (r *record) entry() (*entry, error) {
	e := &entry{
		Attachment: Attachment{
			Key: Key{r.Network, r.Container, r.Interface}, Port: r.Port,
			Netns: r.Netns, NetnsDevice: r.NetnsDevice, NetnsInode: r.NetnsInode,
			PodNamespace: r.PodNamespace, PodName: r.PodName, PodUID: r.PodUID,
			Device: r.Device, IfIndex: r.IfIndex, Direct: r.Direct, Delegated: r.Delegated,
			Bandwidth: Bandwidth(r.Bandwidth), Created: r.Created.UTC(),
		},
		asked: inOrder(r.Asked),
	}
	if !e.Key.valid() || e.Port == "" {
		return nil, errors.New("a record without a key or a port")
	}
	if r.MAC != "" {
		mac, err := net.ParseMAC(r.MAC)
		if err != nil {
			return nil, err
		}
		e.MAC = mac
	}
	return e, errors.Join(r.addresses(e), r.hostPorts(e))
}

func (r *record) hostPorts(e *entry) error {
	if (len(r.HostPorts) > 0) != (r.Version == versionPorts) {
		return fmt.Errorf("%d host ports in a record of version %d", len(r.HostPorts), r.Version)
	}
	for _, p := range r.HostPorts {
		if p.HostPort == 0 || p.ContainerPort == 0 || p.HostIP.Zone() != "" || p.HostIP.Is4In6() ||
			!slices.Contains([]string{"tcp", "udp", "sctp"}, p.Protocol) {
			return fmt.Errorf("host port %s to %d", HostPort(p), p.ContainerPort)
		}
		e.HostPorts = append(e.HostPorts, HostPort(p))
	}
	e.HostPorts = portsInOrder(e.HostPorts)
	return nil
}

func (r *record) addresses(e *entry) error {
	for _, l := range r.Addresses {
		if !l.Address.IsValid() || l.Pool.IsValid() == r.Delegated || slices.Contains(e.Addresses, l.Address) {
			return fmt.Errorf("address %s of pool %s", l.Address, l.Pool)
		}
		e.Addresses = append(e.Addresses, l.Address)
		if !r.Delegated {
			e.pools = append(e.pools, l.Pool)
		}
	}
	return nil
}
