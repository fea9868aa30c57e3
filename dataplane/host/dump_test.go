// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestDump(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		interrupted int // times
		err, want   error
		calls       int
	}{
		{0, nil, nil, 1},
		{3, nil, nil, 4},
		{3, broken, broken, 4},
		{1 << 20, nil, netlink.ErrDumpInterrupted, 50},
	} {
		calls := 0
		list, err := Dump(func() ([]int, error) {
			calls++
			if calls <= c.interrupted {
				return nil, netlink.ErrDumpInterrupted
			}
			return []int{calls}, c.err
		})
		if !errors.Is(err, c.want) || calls != c.calls || err == nil && len(list) != 1 {
			t.Errorf("%+v: %v, %v after %d calls", c, list, err, calls)
		}
	}
}
