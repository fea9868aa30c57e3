// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"strings"
	"testing"
)

func TestAddressesAndDefaultDevices(t *testing.T) {
	_, host, _ := node(t)
	inside(t, host, func(s *Stack) {
		pair(t, s, 0, own4, own6)
		run(t, "ip", "address", "add", "203.0.113.1/32", "dev", "lo")
		run(t, "ip", "address", "add", "192.0.2.77/24", "dev", "up0")
		run(t, "ip", "address", "add", "2001:db8::77/64", "dev", "up0", "nodad", "preferred_lft", "0")
		check := func(want string) {
			t.Helper()
			list, err := Addresses()
			ok(t, err)
			var texts []string
			for _, a := range list {
				text := a.String()
				if a.Spare {
					text += " spare"
				}
				texts = append(texts, text)
			}
			if is := strings.Join(texts, ", "); is != want {
				t.Errorf("addresses %s, want %s", is, want)
			}
		}
		check("10.244.1.1/32 spare, 192.0.2.1/24, 192.0.2.77/24 spare, 203.0.113.1/32 spare, 2001:db8::1/64, " +
			"2001:db8::77/64 spare, fd00:1::1/128 spare")
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
