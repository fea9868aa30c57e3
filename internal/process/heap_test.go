// SPDX-License-Identifier: Apache-2.0

package process

import (
	"runtime/debug"
	"testing"
)

// The environment goes before what the daemon asks for.
func TestKeepHeap(t *testing.T) {
	was := debug.SetGCPercent(100)
	defer debug.SetGCPercent(was)
	for _, c := range []struct {
		environment string
		want        int
	}{{"", 25}, {"70", 100}} {
		t.Setenv("GOGC", c.environment)
		KeepHeap(25)
		if got := debug.SetGCPercent(100); got != c.want {
			t.Errorf("GOGC=%q: %d", c.environment, got)
		}
	}
}
