// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// KeepPins has what viaduct's dataplane pins outlive it, as it does on a node. It is called before Start.
func (n *Network) KeepPins() { n.daemons.keep = true }

// EndDataplane ends viaduct's dataplane by a signal, and returns once it is gone.
func (n *Network) EndDataplane(by unix.Signal) error {
	p := n.daemons.dataplane
	if err := p.cmd.Process.Signal(by); err != nil {
		return err
	}
	<-p.ended
	return p.stdin.Close()
}

// StartDataplane starts another one, and returns when it was; one that runs still hands over to it. ready waits
// until it says that tables are in force, and returns when it was.
func (n *Network) StartDataplane() (started time.Time, ready func(context.Context) (time.Time, error), err error) {
	v := n.daemons
	before := v.dataplane
	started = time.Now()
	if err := v.startDataplane(n.node, nil); err != nil {
		return started, nil, err
	}
	p := v.dataplane
	return started, func(ctx context.Context) (time.Time, error) {
		err := p.await(ctx, "ready", startTime)
		at := time.Now()
		if err == nil && before != nil {
			<-before.ended
			_ = before.stdin.Close()
		}
		return at, err
	}, nil
}
