// SPDX-License-Identifier: Apache-2.0

package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/viaduct-net/viaduct/dataplane/api"
)

// inventory is all that a node has, a line for each thing, in order: what pods leave behind would be in it.
func (p *podSite) inventory() (list []string, err error) {
	note := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	var errs []error
	for _, of := range []func(func(string, ...any)) error{
		p.noteDevices, p.noteRoutes, p.noteTables, p.noteLeases, p.notePins,
	} {
		errs = append(errs, of(note))
	}
	slices.Sort(list)
	return list, errors.Join(errs...)
}

func (p *podSite) noteDevices(note func(string, ...any)) error {
	links, err := p.node.Links().LinkList()
	for _, l := range links {
		note("device %s", l.Attrs().Name)
	}
	return err
}

// noteRoutes notes the host's own stack's.
func (p *podSite) noteRoutes(note func(string, ...any)) error {
	routes, err := p.node.Links().RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, 0)
	for _, r := range routes {
		if r.Type == unix.RTN_UNICAST {
			note("host route %v", r.Dst)
		}
	}
	return err
}

// noteTables notes what the dataplane has in force.
func (p *podSite) noteTables(note func(string, ...any)) error {
	r, err := p.replies()
	if err != nil {
		return err
	}
	for _, port := range r.ports.Ports {
		note("port %s", port.Name)
	}
	for _, route := range r.routes.Routes {
		note("route %s", route.Destination)
	}
	for _, i := range r.identities.Identities {
		for _, prefix := range i.Prefixes {
			note("identity of %s", prefix.Prefix)
		}
	}
	return nil
}

func (p *podSite) noteLeases(note func(string, ...any)) error {
	status, err := p.controlStatus()
	if err != nil {
		return err
	}
	note("%d attachments", status.Attachments)
	for _, pool := range status.Pools {
		note("%d of %s leased", pool.Leased, pool.Prefix)
	}
	return nil
}

// notePins notes what is pinned, and of maps of what pods have how many entries there are.
func (p *podSite) notePins(note func(string, ...any)) error {
	return filepath.WalkDir(p.bpf, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		note("pin %s", strings.TrimPrefix(path, p.bpf))
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil // a program or a link
		}
		defer m.Close()
		if m.Type() == ebpf.Hash || m.Type() == ebpf.PerCPUHash {
			entries := 0
			for key, err := m.NextKeyBytes(nil); key != nil && err == nil; key, err = m.NextKeyBytes(key) {
				entries++
			}
			note("%d entries in %s", entries, entry.Name())
		}
		return nil
	})
}

// taken is the inventory at this moment, and what the daemons hold open once they have settled.
type taken struct {
	list               []string
	control, dataplane usage
}

func (p *podSite) take() taken {
	p.t.Helper()
	t := taken{control: p.settled(p.control), dataplane: p.settled(p.dataplane)}
	var err error
	t.list, err = p.inventory()
	p.must(err)
	return t
}

// leftNothing waits until the node has what it had, and nothing more.
func (p *podSite) leftNothing(before taken) {
	p.t.Helper()
	p.leftNothingOf(before.list)
	p.noGrowth(p.control, before.control)
	p.noGrowth(p.dataplane, before.dataplane)
	p.balanced()
}

func (p *podSite) leftNothingOf(before []string) {
	p.t.Helper()
	p.eventually("the node to be as before", func() error {
		list, err := p.inventory()
		return errors.Join(err, lines("inventory", list, before))
	})
}

// balanced waits until what came into the dataplane is what left it.
func (p *podSite) balanced() {
	p.t.Helper()
	p.eventually("the ledger to balance", func() error {
		r, err := p.ledger("")
		if err == nil && (!r.Balanced || r.Difference != 0) {
			err = fmt.Errorf("total %v", r.Total)
		}
		return err
	})
}

func (p *podSite) ledger(port string) (reply *api.LedgerReply, err error) {
	err = p.site.ask("dataplane.sock", func(ctx context.Context, c *grpc.ClientConn) error {
		reply, err = api.NewDataplaneClient(c).Ledger(ctx, &api.LedgerRequest{Port: port})
		return err
	})
	return reply, err
}

// devices are the node's own whose names begin so.
func (p *podSite) devices(prefixes ...string) (names []string) {
	p.t.Helper()
	links, err := p.node.Links().LinkList()
	p.must(err)
	for _, l := range links {
		for _, prefix := range prefixes {
			if strings.HasPrefix(l.Attrs().Name, prefix) {
				names = append(names, l.Attrs().Name)
			}
		}
	}
	return names
}

// loseDevices takes devices away as a restart of the machine does.
func (p *podSite) loseDevices(names ...string) {
	p.t.Helper()
	for _, name := range names {
		link, err := p.node.Links().LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue // the other end of one before
		}
		p.must(err)
		p.must(p.node.Links().LinkDel(link))
	}
}

// losePins does the same to what is pinned.
func (p *podSite) losePins() {
	p.t.Helper()
	p.must(os.RemoveAll(p.bpf))
}
