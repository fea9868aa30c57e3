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

// keepTags has a device leave the tags in the frames for as long as it has tagged ports in the snapshot.
func (f *Forwarder) keepTags(d *device, snapshot *api.Snapshot) {
	tagged := slices.ContainsFunc(snapshot.GetPorts(), func(p *api.Port) bool {
		return p.Device == d.name && p.OuterVlan != 0
	})
	if !tagged {
		f.giveTags(d)
	}
	if !tagged || d.restore != nil {
		return
	}
	var err error
	if d.restore, err = switchOff(d.name, rxVLAN); err != nil {
		f.degrade(tagsOf+d.name, "its driver may take VLAN tags away: "+err.Error())
	} else {
		delete(f.degraded, tagsOf+d.name)
	}
}

// tagsOf begins the subject of what is amiss with a device's tags.
const tagsOf = "tags of device "

// giveTags undoes keepTags.
func (f *Forwarder) giveTags(d *device) {
	if d.restore != nil {
		d.restore()
	}
	d.restore = nil
	delete(f.degraded, tagsOf+d.name)
}

// switchOff switches an offload off, and returns what switches it on again when it was.
func switchOff(device, feature string) (restore func(), err error) {
	on, err := hasFeature(device, feature)
	if err != nil {
		return nil, err
	}
	if !on {
		return func() {}, nil
	}
	if err := setFeature(device, feature, false); err != nil {
		return nil, err
	}
	return func() { _ = setFeature(device, feature, true) }, nil // of a device that vanished there is nothing to restore
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
