// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// config is the network configuration as it comes by standard input. Keys that are not here are other plugins' or
// other versions'.
type config struct {
	types.PluginConf
	// Of a GC; apart from PluginConf's, so that a list that is missing is told from an empty one.
	Valid         json.RawMessage `json:"cni.dev/valid-attachments"`
	RunDir        string          `json:"runDir"`
	Attach        string          `json:"attach"`
	RuntimeConfig struct {
		preferences
		Bandwidth    bandwidth     `json:"bandwidth"`
		PortMappings []portMapping `json:"portMappings"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI preferences `json:"cni"`
	} `json:"args"`
}

// preferences are what a configuration may ask of an interface.
type preferences struct {
	IPs []string `json:"ips"`
	MAC string   `json:"mac"`
}

// bandwidth is in bits per second and bits, as the capability's convention has it.
type bandwidth struct {
	IngressRate  int64 `json:"ingressRate"`
	IngressBurst int64 `json:"ingressBurst"`
	EgressRate   int64 `json:"egressRate"`
	EgressBurst  int64 `json:"egressBurst"`
}

// load decodes the configuration, with defaults filled in. What DEL does not need is not looked at yet: it has to
// work also for what ADD would refuse.
func load(args *skel.CmdArgs) (*config, error) {
	c := &config{}
	if err := json.Unmarshal(args.StdinData, c); err != nil {
		return nil, fail(types.ErrDecodingFailure, "decode the network configuration", err)
	}
	if c.RunDir == "" {
		c.RunDir = defaultRunDir
	}
	if c.Attach == "" {
		c.Attach = "trunk"
	}
	if strings.Contains(c.IPAM.Type, "/") {
		return nil, invalid("ipam.type %q is no name of a plugin", c.IPAM.Type)
	}
	return c, nil
}

// delegated says whether an IPAM plugin gives the addresses.
func (c *config) delegated() bool { return c.IPAM.Type != "" }

// socket is control's; a path of a socket has at most 107 bytes (unix(7)).
func (c *config) socket() string { return filepath.Join(c.RunDir, "cni.sock") }

// wanted is what an ADD asks for beyond an interface.
type wanted struct {
	attach    attach.Attach
	addresses []netip.Addr
	mac       net.HardwareAddr // nil: none in particular
	bandwidth *attach.Bandwidth
	hostPorts []*attach.HostPort
	pod       podName
}

// wants checks the configuration and the arguments, and says what they ask for. Of several places runtimeConfig comes
// before args, and args before CNI_ARGS.
func (c *config) wants(args *skel.CmdArgs) (*wanted, error) {
	const socketPath = 107
	if !filepath.IsAbs(c.RunDir) || len(c.socket()) > socketPath {
		return nil, invalid("runDir %q is no absolute path with room for a socket in it", c.RunDir)
	}
	number, known := map[string]attach.Attach{
		"trunk": attach.Attach_ATTACH_TRUNK, "direct": attach.Attach_ATTACH_DIRECT}[c.Attach]
	if !known {
		return nil, invalid("attach %q is neither trunk nor direct", c.Attach)
	}
	w := &wanted{attach: number}
	fromEnvironment, err := w.pod.parse(args.Args)
	if err == nil {
		err = w.prefer(fromEnvironment, argument, "CNI_ARGS")
	}
	if err == nil {
		err = w.prefer(c.Args.CNI, invalid, "args.cni")
	}
	if err == nil {
		err = w.prefer(c.RuntimeConfig.preferences, invalid, "runtimeConfig")
	}
	if err == nil {
		w.bandwidth, err = c.RuntimeConfig.Bandwidth.bound()
	}
	if err == nil {
		w.hostPorts, err = hostPorts(c.RuntimeConfig.PortMappings)
	}
	return w, err
}

// prefer lets what is asked for in one place take the place of what was asked for before.
func (w *wanted) prefer(p preferences, refuse func(string, ...any) *types.Error, where string) error {
	if len(p.IPs) > 0 {
		w.addresses = nil
	}
	for _, s := range p.IPs {
		a, err := address(s)
		if err == nil && slices.Contains(w.addresses, a) {
			err = fmt.Errorf("is there twice")
		}
		if err != nil {
			return refuse("%s: address %q %v", where, s, err)
		}
		w.addresses = append(w.addresses, a)
	}
	if p.MAC == "" {
		return nil
	}
	mac, err := net.ParseMAC(p.MAC)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || slices.Equal(mac, make(net.HardwareAddr, 6)) {
		return refuse("%s: MAC %q is none that an interface can have", where, p.MAC)
	}
	w.mac = mac
	return nil
}

// address reads "10.244.1.7" or "10.244.1.7/24": the length is the network's, and of no use here.
func address(s string) (netip.Addr, error) {
	bare, length, hasLength := strings.Cut(s, "/")
	a, err := netip.ParseAddr(bare)
	if err == nil && hasLength {
		_, err = netip.ParsePrefix(a.String() + "/" + length)
	}
	switch {
	case err != nil || a.Zone() != "" || a.Is4In6():
		return a, fmt.Errorf("is none")
	case !a.IsGlobalUnicast():
		return a, fmt.Errorf("is none that an interface can have")
	}
	return a, nil
}

// bound checks the limits: a rate and a burst make one together, as with the reference plugin bandwidth, whose burst
// is a signed 32-bit number of bytes in the end.
func (b bandwidth) bound() (*attach.Bandwidth, error) {
	for _, d := range []struct {
		name        string
		rate, burst int64
	}{{"ingress", b.IngressRate, b.IngressBurst}, {"egress", b.EgressRate, b.EgressBurst}} {
		switch {
		case d.rate < 0 || d.burst < 0:
			return nil, invalid("runtimeConfig.bandwidth: %sRate and %sBurst must not be negative", d.name, d.name)
		case (d.rate == 0) != (d.burst == 0):
			return nil, invalid("runtimeConfig.bandwidth: %sRate and %sBurst make a bound only together", d.name, d.name)
		case d.burst/8 >= math.MaxUint32:
			return nil, invalid("runtimeConfig.bandwidth: %sBurst is more than 4 GiB", d.name)
		}
	}
	if b == (bandwidth{}) {
		return nil, nil
	}
	return &attach.Bandwidth{
		IngressRate: uint64(b.IngressRate), IngressBurst: uint64(b.IngressBurst),
		EgressRate: uint64(b.EgressRate), EgressBurst: uint64(b.EgressBurst),
	}, nil
}

// previous is the result of the plugins before this one in its chain, nil when there are none.
func (c *config) previous() (*current.Result, error) {
	if c.RawPrevResult == nil {
		return nil, nil
	}
	for _, list := range []string{"interfaces", "ips", "routes"} { // the library takes nothing in them for something
		if l, ok := c.RawPrevResult[list].([]any); ok && slices.Contains(l, nil) {
			return nil, fail(types.ErrDecodingFailure, "decode prevResult", fmt.Errorf("null in %s", list))
		}
	}
	err := version.ParsePrevResult(&c.PluginConf)
	var result *current.Result
	if err == nil {
		result, err = current.NewResultFromResult(c.PrevResult)
	}
	if err != nil {
		return nil, fail(types.ErrDecodingFailure, "decode prevResult", err)
	}
	return result, nil
}
