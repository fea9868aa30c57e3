// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"fmt"
	"slices"

	"github.com/safchain/ethtool"
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
)

// rxVLAN is what ethtool calls the offload that takes the VLAN tag out of received frames. An XDP program then sees
// the frame without it, and cannot tell one VLAN from another.
const rxVLAN = "rx-vlan-hw-parse"

// keepTags has a device leave the tags in the frames for as long as it has tagged ports in the snapshot.
func (f *Forwarder) keepTags(d *device, snapshot *api.Snapshot) {
	if d.restore == nil && d.hook.Owes() { // since a process before has taken it away
		d.restore = func() { giveOffload(d.name) }
	}
	tagged := slices.ContainsFunc(snapshot.GetPorts(), func(p *api.Port) bool {
		return p.Device == d.name && p.OuterVlan != 0
	})
	if !tagged {
		f.giveTags(d)
	}
	if !tagged || d.restore != nil {
		return
	}
	was, err := switchOff(d.name, rxVLAN)
	if err != nil {
		f.degrade(tagsOf+d.name, "its driver may take VLAN tags away: "+err.Error())
		return
	}
	delete(f.degraded, tagsOf+d.name)
	d.restore = func() {}
	if !was {
		return
	}
	d.restore = func() { giveOffload(d.name) }
	if err := d.hook.Owe(true); err != nil {
		f.log.Warn("a later process will not give an offload back", zap.String("device", d.name), zap.Error(err))
	}
}

// tagsOf begins the subject of what is amiss with a device's tags.
const tagsOf = "tags of device "

// giveTags undoes keepTags.
func (f *Forwarder) giveTags(d *device) {
	if d.restore != nil {
		d.restore()
	}
	if d.hook.Owes() {
		_ = d.hook.Owe(false) // whose hook has gone owes nothing
	}
	d.restore = nil
	delete(f.degraded, tagsOf+d.name)
}

// giveOffload switches it on again. Of a device that vanished there is nothing to restore.
func giveOffload(device string) { _ = setFeature(device, rxVLAN, true) }

// switchOff switches an offload off, and returns whether it was on.
func switchOff(device, feature string) (was bool, err error) {
	if was, err = hasFeature(device, feature); err != nil || !was {
		return false, err
	}
	if err := setFeature(device, feature, false); err != nil {
		return false, err
	}
	return true, nil
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
