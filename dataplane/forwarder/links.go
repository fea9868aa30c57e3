// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/host"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// linkFacts is what the kernel says of a device.
type linkFacts struct {
	ifindex int
	mac     packet.MAC
	mtu     int
	up      bool
	enabled bool // by whoever administers it: up, but for the carrier
	queues  int
}

type links map[string]linkFacts

// shapes is what decides whether the devices of a snapshot can be opened. The carrier is not in it: with some drivers
// it goes and returns whenever a hook attaches.
func (l links) shapes(snapshot *api.Snapshot) map[string]linkFacts {
	shapes := make(map[string]linkFacts)
	for _, p := range withSockets(snapshot) {
		if facts, there := l[p.Device]; there {
			facts.up = false
			shapes[p.Device] = facts
		}
	}
	return shapes
}

// readLinks lists the devices of this network namespace. Those that the snapshot has sockets on are asked for their
// queues: there may be hundreds of others.
func readLinks(snapshot *api.Snapshot) (links, error) {
	list, err := host.Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list network devices: %w", err)
	}
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return nil, fmt.Errorf("open ethtool: %w", err)
	}
	defer tool.Close()
	facts := make(links, len(list))
	for _, l := range list {
		facts[l.Attrs().Name] = factsOf(l.Attrs())
	}
	for _, p := range withSockets(snapshot) {
		if of, there := facts[p.Device]; there {
			of.queues = queues(tool, p.Device, of.queues)
			facts[p.Device] = of
		}
	}
	return facts, nil
}

func factsOf(a *netlink.LinkAttrs) linkFacts {
	return linkFacts{
		ifindex: a.Index, mac: packet.MACFrom(a.HardwareAddr), mtu: a.MTU, queues: a.NumRxQueues,
		enabled: a.Flags&net.FlagUp != 0, up: a.Flags&net.FlagUp != 0 && a.RawFlags&lowerUp != 0,
	}
}

const lowerUp = 1 << 16 // IFF_LOWER_UP, linux/if.h: the carrier is there

// queues is the number of rx queues in use: ethtool's channels, since a device may have allocated more.
func queues(tool *ethtool.Ethtool, name string, allocated int) int {
	if c, err := tool.GetChannels(name); err == nil && c.CombinedCount+c.RxCount > 0 {
		return int(c.CombinedCount + c.RxCount)
	}
	return max(1, allocated)
}

// noQueues is how many queues the ports have when there is no port, or none whose device is there.
const noQueues = 1 << 16

// without is l less a device.
func (l links) without(name string) links {
	others := maps.Clone(l)
	delete(others, name)
	return others
}

func (l links) fewestQueues(snapshot *api.Snapshot) int {
	fewest := noQueues
	for _, p := range withSockets(snapshot) {
		if p.Station != nil {
			continue // a pod's, which must not take workers from the others
		}
		facts, there := l[p.Device]
		n := facts.queues
		if len(p.Queues) > 0 {
			n = len(p.Queues)
		}
		if there {
			fewest = min(fewest, n)
		}
	}
	return fewest
}

// lookup is what the tables ask of devices.
func (f *Forwarder) lookup(l links) func(string) (tables.Link, bool) {
	return func(name string) (tables.Link, bool) {
		facts, there := l[name]
		if name == tables.TrunkDevice {
			facts.mtu = min(facts.mtu, f.largest())
		}
		return tables.Link{
			MAC: facts.mac, MTU: facts.mtu, Up: facts.up, Index: slices.Index(f.slots, name), IfIndex: facts.ifindex,
		}, there
	}
}

// largest is the IP packet, in bytes, that the trunk's sockets carry: of as many frames as the kernel sends as one
// packet (MAX_SKB_FRAGS and the linear part, xsk_build_skb in net/xdp/xsk.c). Frames are as large as the ports asked
// for when the workers started.
func (f *Forwarder) largest() int {
	const frames, headroom, ethernet = 18, 256, 14
	if len(f.workers) == 0 {
		return linkMTU
	}
	return frames*(f.workers[0].umem.ChunkSize()-headroom) - ethernet
}

func noLinks(string) (tables.Link, bool) { return tables.Link{}, false }

// inspectEvery is how often everything is looked at unasked.
const inspectEvery = 30 * time.Second

// settle is how long the kernel's messages about devices are gathered before they are acted on.
const settle = 20 * time.Millisecond

// Follow keeps devices and tables in step with the kernel until the context ends: a device that vanished is closed,
// one that returned is opened, and a changed MAC, MTU or carrier is put into the tables.
func (f *Forwarder) Follow(ctx context.Context) error {
	for {
		err := f.follow(ctx)
		if err != nil || ctx.Err() != nil {
			return err
		}
		// The kernel dropped messages (ENOBUFS), which closes the subscription: subscribe again and look afresh.
	}
}

func (f *Forwarder) follow(ctx context.Context) error {
	updates := make(chan netlink.LinkUpdate, 256)
	done := make(chan struct{})
	defer close(done)
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) { f.log.Debug("watching devices", zap.Error(err)) },
	})
	if err != nil {
		return fmt.Errorf("watch network devices: %w", err)
	}
	stop, err := f.followHooks()
	if err != nil {
		return err
	}
	defer stop()
	if err := f.followHost(done); err != nil {
		return err
	}
	f.mayBeBare(anyDevice) // what was not heard of before
	timer := time.NewTimer(0)
	defer timer.Stop()
	again := time.NewTicker(inspectEvery) // for what the kernel does not tell: hooks, nftables, routes
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			f.mayBeBare(anyDevice)
			timer.Reset(settle)
		case u, open := <-updates:
			if !open {
				return nil
			}
			if f.concerns(u) {
				timer.Reset(settle)
			}
		case <-f.changed:
			timer.Reset(settle)
		case <-timer.C:
			if err := f.reconcile(ctx); err != nil {
				f.log.Error("following devices", zap.Error(err))
				timer.Reset(time.Second)
			}
		}
	}
}

// concerns says whether something has to follow from what the kernel said of a device. Pods' devices come and go all
// the time, and each is of its own port alone.
func (f *Forwarder) concerns(u netlink.LinkUpdate) bool {
	a := u.Attrs()
	gone := u.Header.Type == unix.RTM_DELLINK
	if gone {
		f.mayBeBare(a.Index)
	}
	down := a.Flags&net.FlagUp == 0
	// The host's routes follow its devices, of which others than pods' are few.
	others := f.hostInUse.Load() && !strings.HasPrefix(a.Name, podDevice)
	return f.refusedAny.Load() || others || f.tables.Load().Watches(a.Name, a.Index, gone || down)
}

// podDevice begins the names of the devices that the CNI plugin makes: what becomes of one before it is a port's, and
// after, concerns nobody here.
const podDevice = "vd"

// anyDevice is no device's number.
const anyDevice = 0

// mayBeBare notes that a device, or any, may have lost its hook.
func (f *Forwarder) mayBeBare(ifindex int) {
	f.lostMu.Lock()
	defer f.lostMu.Unlock()
	f.bare[ifindex] = true
}

// reconcile compares the devices with what is open and in the tables, and mends the difference. It calls Config.Changed
// when the devices are others than those of a refused snapshot were.
func (f *Forwarder) reconcile(ctx context.Context) error {
	if f.hostInUse.Load() {
		f.readHost()
	}
	f.mu.Lock()
	links, err := f.linksFor(f.snapshot)
	if err != nil {
		f.mu.Unlock()
		return err
	}
	changed := f.refused != nil && !maps.Equal(f.refusedOn, links.shapes(f.refused))
	if f.snapshot != nil {
		err = f.mend(context.WithoutCancel(ctx), links) // what is begun is finished; it does not take long
	}
	f.mu.Unlock()
	if changed && f.cfg.Changed != nil {
		f.cfg.Changed()
	}
	return err
}

func (f *Forwarder) mend(ctx context.Context, links links) error {
	changed := f.trunkChanged(links)
	f.lostMu.Lock()
	lost, bare := f.lost, f.bare
	f.lost, f.bare = make(map[int]bool), make(map[int]bool)
	f.lostMu.Unlock()
	for name, d := range f.devices {
		facts, there := links[name]
		if why := d.lost(facts, there, lost[d.index]); why != "" {
			changed = true
			f.degrade("device "+name, why)
			if err := f.closeDevice(ctx, name); err != nil {
				f.log.Info("closing a lost device", zap.String("device", name), zap.Error(err))
			}
		} else if facts != d.link {
			changed = true
			d.link = facts
		}
	}
	// None of the devices may have been there when the snapshot was restored, or not the one with the fewest queues.
	if _, err := f.provideWorkers(ctx, f.snapshot, f.tables.Load(), links); err != nil {
		return err
	}
	f.reportWorkers(links)
	err := f.reopen(ctx, links, changed)
	if bare[anyDevice] {
		bare = nil
	}
	f.settleTrunk(links, bare)
	f.mendServices()
	if f.services.unshared && f.anyShared() {
		err = errors.Join(err, f.setHooks())
	}
	f.settleHost()
	f.review()
	return err
}

// lost says why the device has to be opened anew, empty when it is as it was opened.
func (d *device) lost(facts linkFacts, there, said bool) string {
	if !there || facts.ifindex != d.link.ifindex || said {
		return "the device vanished; its ports are closed until it returns"
	}
	if err := d.hook.Check(); err != nil {
		return "somebody took its hook: " + err.Error()
	}
	return ""
}

// reopen opens the missing devices of the snapshot in force, and puts what changed of devices into the tables.
func (f *Forwarder) reopen(ctx context.Context, links links, changed bool) error {
	opened, openErr := f.openPossible(f.snapshot, links)
	if !changed && len(opened) == 0 {
		return openErr
	}
	prev := f.tables.Load()
	next, err := tables.Relink(prev, f.lookup(links))
	if err != nil {
		return errors.Join(openErr, err)
	}
	f.tables.Store(next)
	f.forget(allDeparted(prev, next))
	f.review()
	return errors.Join(openErr, f.serve(ctx, opened))
}
