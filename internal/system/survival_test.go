// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"net/netip"
	"testing"
)

// After a restart of the machine the state is there and the devices are not: what pods held comes back, and what those
// hold that live on is nobody else's.
func TestReboot(t *testing.T) {
	p := newPodSite(t, "10.244.1.0/27", "fd00:244:1::/64")
	p.peerIn(p.node)
	before := p.take().list
	var pods []*attached
	for i := range 6 {
		pods = append(pods, p.pod(fmt.Sprint("p", i)).add())
	}
	p.stopBoth()
	living := pods[:2]
	for _, a := range pods[2:] {
		p.loseDevices(a.device)
	}
	p.loseDevices(p.devices("viaduct")...)
	p.losePins()
	p.startBoth()
	p.eventually("leases of pods that are gone to come back", func() error { return p.attachments(len(living)) })
	held := map[netip.Addr]string{}
	for _, a := range living {
		p.reachable(a)
		held[a.address[4]], held[a.address[6]] = a.Name(), a.Name()
	}
	for i := range 40 { // more than the pool has
		a := p.pod(fmt.Sprint("again", i))
		p.must(a.tryAdd())
		for f := range families {
			if who := held[a.address[f]]; who != "" {
				t.Fatalf("%v was given out, which %s has", a.address[f], who)
			}
		}
		if i == 0 {
			p.reachable(a)
		}
		a.del()
	}
	for _, a := range pods {
		a.del() // those that are gone too
	}
	p.leftNothingOf(before)
}

// attachments says whether there are so many, with an address of each family.
func (p *podSite) attachments(n int) error {
	status, err := p.controlStatus()
	if err != nil {
		return err
	}
	for _, pool := range status.Pools {
		if pool.Leased != uint64(n) {
			err = fmt.Errorf("%d attachments, %v", status.Attachments, status.Pools)
		}
	}
	if int(status.Attachments) != n {
		err = fmt.Errorf("%d attachments", status.Attachments)
	}
	return err
}

// reachable checks that a pod talks to the node, which has a peer, by each family.
func (p *podSite) reachable(a *attached) {
	p.t.Helper()
	for f, of := range families {
		p.reaches(a.Namespace, of.node, a.address[f].String())
	}
}

// Daemons that are stopped and started again, as for another version, find pods as they were.
func TestUpgrade(t *testing.T) {
	p := newPodSite(t)
	before := p.take().list
	a, b := p.pod("a").add(), p.pod("b").add()
	all := p.podTraffic(a, b)
	p.flows(all)
	for range 3 {
		p.dataplane.stop()
		p.dataplane = p.startDataplane()
		p.flows(all)
		p.lossless(all, "control was replaced", func() {
			p.control.stop()
			p.control = p.startControl()
			p.willAdd()
		})
		c := p.pod("c").add()
		p.reaches(c.Namespace, a.address[4], c.address[4].String())
		c.del()
	}
	p.stopBoth()
	p.startBoth()
	p.flows(all)
	p.must(a.check())
	a.del()
	b.del()
	p.leftNothingOf(before)
}

// While control is away pods go on, ADD says to try again, and DEL succeeds: what it could not give back comes back.
func TestControlAway(t *testing.T) {
	p := newPodSite(t)
	before := p.take().list
	a, b, c := p.pod("a").add(), p.pod("b").add(), p.pod("c").add()
	all := p.podTraffic(a, b)
	p.flows(all)
	p.lossless(all, "control was away", func() {
		p.control.kill()
		d := p.pod("d")
		if err := d.tryAdd(); code(err) != 11 {
			t.Errorf("ADD: code %d, %v", code(err), err)
		}
		if devices := p.devices("vd"); len(devices) != 3 {
			t.Errorf("devices %v", devices)
		}
		if code(p.status()) != 50 {
			t.Errorf("STATUS: %v", p.status())
		}
		c.del()
		p.flows(all)
		p.control = p.startControl()
		p.willAdd()
		p.eventually("the lease to come back", func() error { return p.attachments(2) })
		p.must(d.tryAdd())
		d.del()
	})
	a.del()
	b.del()
	p.leftNothingOf(before)
}

// While the dataplane is away ADD says to try again, and leaves nothing; when it is back, pods go on.
func TestDataplaneAway(t *testing.T) {
	p := newPodSite(t)
	before := p.take().list
	a, b := p.pod("a").add(), p.pod("b").add()
	all := p.podTraffic(a, b)
	p.flows(all)
	p.dataplane.kill()
	c := p.pod("c")
	if err := c.tryAdd(); code(err) != 11 {
		t.Errorf("ADD: code %d, %v", code(err), err)
	}
	if devices := p.devices("vd"); len(devices) != 2 {
		t.Errorf("devices %v", devices)
	}
	b.del()
	p.dataplane = p.startDataplane()
	p.willAdd()
	p.peerIn(p.node)
	p.reachable(a)
	a.del()
	p.leftNothingOf(before)
}
