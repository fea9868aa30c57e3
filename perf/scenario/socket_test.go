// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/testenv"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// TestConnectGoesOnAfterSignals: one that nobody answers ends by its limit, whatever signals its thread gets.
func TestConnectGoesOnAfterSignals(t *testing.T) {
	testenv.Root(t)
	r, err := rig.New(rig.Options{Queues: 1, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.ConfigureEnds(true); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	thread := make(chan int)
	go func() {
		tid := <-thread
		for {
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
				_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
			}
		}
	}()
	const limit = 300 * time.Millisecond
	start := time.Now()
	err = r.Generator.Do(func() error {
		thread <- unix.Gettid()
		_, err := dial(netip.MustParseAddr("10.2.0.2"), limit)
		return err
	})
	close(done)
	if !errors.Is(err, unix.ETIMEDOUT) || time.Since(start) < limit-10*time.Millisecond {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}
