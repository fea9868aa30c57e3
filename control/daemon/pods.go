// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"

	"github.com/viaduct-net/viaduct/control/attach"
	"github.com/viaduct-net/viaduct/control/lease"
	"github.com/viaduct-net/viaduct/control/push"
	"github.com/viaduct-net/viaduct/internal/process"
)

// pods is what wires the node's pods: their addresses on disk, the CNI plugin's socket, and an eye on their devices.
type pods struct {
	store   *lease.Store
	service *attach.Service
	socket  net.Listener
	links   *attach.Links
}

// openPods opens leases.db in the state directory and cni.sock in the run directory. Addresses that are leased are in
// use: where the file cannot be read nothing is begun.
func openPods(ctx context.Context, o Options) (*pods, error) {
	if err := os.MkdirAll(o.State, 0o750); err != nil {
		return nil, &process.SetUpError{Err: fmt.Errorf("make state directory: %w", err)}
	}
	p := &pods{}
	if err := p.open(ctx, o); err != nil {
		p.close()
		return nil, err
	}
	p.service = attach.New(attach.Config{Store: p.store, Links: p.links, Logger: o.Logger})
	return p, nil
}

func (p *pods) open(ctx context.Context, o Options) (err error) {
	if p.store, err = lease.Open(filepath.Join(o.State, "leases.db")); err != nil {
		return &process.SetUpError{Err: fmt.Errorf("%w (--state)", err)}
	}
	if p.links, err = attach.OpenLinks(netns.None()); err != nil {
		return &process.SetUpError{Err: err}
	}
	p.socket, err = process.Listen(ctx, filepath.Join(o.Run, "cni.sock"))
	return err
}

// offer has control begin with the attachments that there are, and tell what they need to know.
func (p *pods) offer(c *push.Config) {
	c.Attachments, c.Settings, c.Pools = attach.Known(p.store), p.service.Configure, p.service.Pools
}

// run works until the context ends.
func (p *pods) run(ctx context.Context, group *errgroup.Group, server *push.Server) {
	p.service.Use(server)
	group.Go(func() error { return p.service.Serve(ctx, p.socket) })
	group.Go(func() error { return p.service.Sweep(ctx, attach.Sweep{Links: p.links}) })
}

// close gives back what openPods opened.
func (p *pods) close() {
	if p.socket != nil {
		_ = p.socket.Close() // it may have been closed by who served it
	}
	if p.links != nil {
		p.links.Close()
	}
	if p.store != nil {
		_ = p.store.Close() // what was answered is on disk
	}
}
