// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/push"
	"github.com/viaduct-net/viaduct/control/source/directory"
	"github.com/viaduct-net/viaduct/dataplane/daemon"
)

// manifests stands where control will: it compiles a directory in this process.
type manifests struct {
	dir, node string
	log       *zap.Logger
}

// Run implements daemon.Snapshots. SIGHUP reads every manifest again.
func (m *manifests) Run(ctx context.Context, apply func(context.Context, *api.Snapshot) error) error {
	if info, err := os.Stat(m.dir); err != nil || !info.IsDir() {
		return &daemon.SetUpError{Err: fmt.Errorf("--manifests %s: no such directory", m.dir)}
	}
	dir := directory.New(m.dir)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	go func() {
		for {
			select {
			case <-hangup:
				dir.Reload()
			case <-ctx.Done():
				return
			}
		}
	}()
	local := push.Local{Source: dir, Node: m.node, Log: m.log}
	if err := local.Run(ctx, apply); err != nil {
		return &daemon.SetUpError{Err: err}
	}
	return nil
}
