// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"testing"
)

func TestAddressesAndDefaultDevices(t *testing.T) {
	_, host, _ := node(t)
	inside(t, host, func(s *Stack) {
		pair(t, s, 0, own4, own6)
		run(t, "ip", "address", "add", "203.0.113.1/32", "dev", "lo")
		check := func(want string) {
			t.Helper()
			list, err := Addresses()
			ok(t, err)
			if is := fmt.Sprint(list); is != want {
				t.Errorf("addresses %s, want %s", is, want)
			}
		}
		check("[10.244.1.1/32 192.0.2.1/24 203.0.113.1/32 2001:db8::1/64 fd00:1::1/128]")
		up0 := device(t, s, "up0").Attrs().Index
		defaults := func(want ...int) {
			t.Helper()
			list, err := DefaultDevices()
			ok(t, err)
			if fmt.Sprint(list) != fmt.Sprint(want) {
				t.Errorf("devices of default routes: %v, want %v", list, want)
			}
		}
		defaults()
		run(t, "ip", "-6", "route", "add", "default", "via", "2001:db8::2")
		defaults(up0)
		run(t, "ip", "route", "add", "default", "nexthop", "via", "192.0.2.2", "dev", "up0", "nexthop", "dev", PairStack)
		run(t, "ip", "route", "add", "198.51.100.0/24", "dev", PairStack)
		defaults(up0)
		run(t, "ip", "-6", "route", "delete", "default")
		run(t, "ip", "route", "delete", "default")
		run(t, "ip", "route", "add", "blackhole", "default")
		defaults()
	})
}
