// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"fmt"
	"slices"

	"github.com/safchain/ethtool"

	"github.com/viaduct-net/viaduct/control/api"
)

// rxVLAN is what ethtool calls the offload that takes the VLAN tag out of received frames. An XDP program then sees
// the frame without it, and cannot tell one VLAN from another.
const rxVLAN = "rx-vlan-hw-parse"

// keepTags switches rxVLAN off on a device with tagged ports, and returns what switches it on again when it was.
func keepTags(snapshot *api.Snapshot, device string) (restore func(), err error) {
	tagged := slices.ContainsFunc(snapshot.GetPorts(), func(p *api.Port) bool {
		return p.Device == device && p.OuterVlan != 0
	})
	if !tagged {
		return func() {}, nil
	}
	on, err := hasFeature(device, rxVLAN)
	if err != nil || !on {
		return func() {}, err
	}
	if err := setFeature(device, rxVLAN, false); err != nil {
		return func() {}, err
	}
	return func() { _ = setFeature(device, rxVLAN, true) }, nil // of a device that vanished there is nothing to restore
}

func hasFeature(device, name string) (bool, error) {
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return false, fmt.Errorf("open ethtool: %w", err)
	}
	defer tool.Close()
	features, err := tool.Features(device)
	if err != nil {
		return false, fmt.Errorf("read offloads of %s: %w", device, err)
	}
	return features[name], nil
}

func setFeature(device, name string, on bool) error {
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open ethtool: %w", err)
	}
	defer tool.Close()
	if err := tool.Change(device, map[string]bool{name: on}); err != nil {
		return fmt.Errorf("set offload %s of %s: %w", name, device, err)
	}
	return nil
}
