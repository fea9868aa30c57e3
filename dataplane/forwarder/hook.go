// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// hookOptions says which hook a device gets: the one that takes everything, or, on an uplink that the host keeps using,
// the one that takes what is ours.
func (f *Forwarder) hookOptions(node *api.NodeSettings, device string, queues int) xdpprog.Options {
	options := xdpprog.Options{Mode: xdpprog.Owned, OnAbsence: onAbsence(node, device), Queues: queues}
	if shared(node, device) {
		options.Mode = xdpprog.Shared
	}
	if device != tables.TrunkDevice {
		options.Flows = f.carrier.kernel
	}
	if f.cfg.Pins != "" {
		options.PinDir = filepath.Join(f.cfg.Pins, "ports", device)
	}
	return options
}

// attachMode is how the hook of a device may be attached. The trunk's has to be native: a generic one is passed over by
// what a hook redirected (net/core/dev.c, skb_is_redirected in netif_receive_generic_xdp's callers).
func (f *Forwarder) attachMode(device string) xdpprog.AttachMode {
	if device == tables.TrunkDevice {
		return xdpprog.NativeOnly
	}
	return xdpprog.AttachMode(f.cfg.XDP)
}

func shared(node *api.NodeSettings, device string) bool {
	u := node.GetUplink()
	return u.GetDevice() == device && u.GetMode() == api.Uplink_MODE_SHARED
}

// onAbsence is what packets of a device get while no worker serves it. Those of pods never go past it.
func onAbsence(node *api.NodeSettings, device string) xdpprog.OnAbsence {
	if device != tables.TrunkDevice && node.GetOnAbsence() == api.OnAbsence_ON_ABSENCE_PASS {
		return xdpprog.Pass
	}
	return xdpprog.Drop
}

// anyShared says whether a device leaves to the host what is not ours.
func (f *Forwarder) anyShared() bool {
	for _, d := range f.devices {
		if d.shared {
			return true
		}
	}
	return false
}

// setHooks tells the open hooks what the snapshot in force asks of them.
func (f *Forwarder) setHooks() error {
	node := f.snapshot.GetNode()
	f.hooked = f.tables.Load()
	for name, d := range f.devices {
		if err := d.hook.SetOnAbsence(onAbsence(node, name)); err != nil {
			return err
		}
		if shared(node, name) {
			all, silent := f.ours(name)
			if err := d.hook.SetAddresses(all, silent...); err != nil {
				return err
			}
		}
	}
	return f.settleWires()
}

// ours is what packets on a shared device have to be addressed to for the dataplane to take them: our addresses there,
// what is behind our other ports, and addresses of services. Of these the ones are silent that are not announced there:
// the host, or somebody beside it, answers for them on the link.
func (f *Forwarder) ours(device string) (list, silent []netip.Prefix) {
	t := f.tables.Load()
	ports := t.Ports
	for i := range ports {
		for _, p := range ports[i].Prefixes {
			if ports[i].Device != device && p.Addr().IsLinkLocalUnicast() {
				continue // it means nothing on this one
			}
			if ports[i].Device == device {
				p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
			}
			list = append(list, p)
		}
		if ports[i].Device == device && !ports[i].LinkLocal.IsZero() {
			a := ports[i].LinkLocal.Netip()
			list = append(list, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, p := range f.snapshot.GetNode().GetPodPrefixes() {
		if a, ok := netip.AddrFromSlice(p.Address); ok {
			list = append(list, netip.PrefixFrom(a, int(p.Bits)))
		}
	}
	for _, p := range f.services.addresses() {
		answers := func(o tables.Port) bool {
			return o.ID != 0 && o.Device == device && t.Answers(&o, packet.AddrFrom(p.Addr()))
		}
		if slices.ContainsFunc(ports, answers) {
			list = append(list, p)
		} else {
			silent = append(silent, p)
		}
	}
	return list, silent
}
