// SPDX-License-Identifier: Apache-2.0

// Package daemon runs control as a process: a source, the compiler and the stream to the dataplane, a socket for those,
// and metrics.
//
// Files: options.go (flags, and the source that they name), config.go (a NodeConfig over the source), daemon.go (start
// and stop), pods.go (what the CNI plugin asks), probes.go (metrics and probes over HTTP).
package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/healthcheck"
	"github.com/viaduct-net/viaduct/control/push"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/kept"
	"github.com/viaduct-net/viaduct/internal/process"
)

// heapGrowth is for KeepHeap.
const heapGrowth = 25

// Run keeps the dataplane of the run directory in step with the source until the context ends. Errors are
// *process.SetUpError where something has to be put right before it can run at all.
func Run(ctx context.Context, o Options) error {
	node, err := o.node()
	if err != nil {
		return err
	}
	from, err := o.source(node.Name)
	if err != nil {
		return &process.SetUpError{Err: err}
	}
	process.KeepHeap(heapGrowth)
	release, err := process.Claim(o.Run, "control")
	if err != nil {
		return err
	}
	defer release()

	socket, err := process.Listen(ctx, filepath.Join(o.Run, "control.sock"))
	if err != nil {
		return err
	}
	probes, err := listen(ctx, o.Metrics)
	if err != nil {
		return errors.Join(err, socket.Close())
	}
	pods, err := openPods(ctx, o)
	if err != nil {
		if probes != nil {
			err = errors.Join(err, probes.Close())
		}
		return errors.Join(err, socket.Close())
	}
	defer pods.close()
	version, revision, _ := process.Build()
	var inStep atomic.Bool
	config := push.Config{
		Source: from, Node: node, Version: fmt.Sprintf("%s %.12s", version, revision), Logger: o.Logger,
		InStep: func() {
			inStep.Store(true)
			if o.Ready != nil {
				_, _ = fmt.Fprintln(o.Ready, "ready") // whoever does not listen does not wait for it
			}
		},
	}
	if strings.HasPrefix(o.Source, "kubernetes") { // elsewhere pods need no object
		config.AwaitPods = push.AwaitPods
	}
	pods.offer(&config)
	var server *push.Server
	checks := healthcheck.New(func() bool { return server.Healthy() }, o.Logger)
	config.HealthChecks, config.Refused = checks.Set, checks.Refused
	server = push.New(config)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serve(ctx, server, socket) })
	group.Go(func() error {
		err := server.Run(ctx)
		if err != nil && !inStep.Load() {
			err = &process.SetUpError{Err: err}
		}
		return err
	})
	pods.run(ctx, group, server)
	group.Go(func() error { return checks.Run(ctx) })
	group.Go(func() error { return reloadAtHangup(ctx, from) })
	if probes != nil {
		group.Go(func() error { return serveProbes(ctx, server, probes, pods.service.Metrics()) })
	}
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// source is what desired state comes from, with a memory for what is refused, and the file of --config over it.
func (o *Options) source(node string) (source.Source, error) {
	from, err := o.open(node)
	if err != nil {
		return nil, err
	}
	if o.State != "" {
		from = kept.New(from, o.State, o.Logger)
	}
	if o.Config == "" {
		return from, nil
	}
	return newConfigured(from, o.Config, node)
}

// serve answers on the unix socket until the context ends.
func serve(ctx context.Context, server *push.Server, socket net.Listener) error {
	s := grpc.NewServer(
		grpc.Creds(process.Credentials()),
		grpc.MaxRecvMsgSize(process.MaxMessage),
		grpc.MaxSendMsgSize(process.MaxMessage),
		// A dataplane that hangs keeps its socket open: a stream that does not answer pings ends.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
	)
	api.RegisterControlServer(s, server)
	context.AfterFunc(ctx, s.Stop)
	if err := s.Serve(socket); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// reloadAtHangup has a source that can do so read everything again at each SIGHUP.
func reloadAtHangup(ctx context.Context, from source.Source) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
		}
		if s, ok := from.(interface{ Reload() }); ok {
			s.Reload()
		}
	}
}
