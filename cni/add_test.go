// SPDX-License-Identifier: Apache-2.0

package cni_test

import (
	"testing"
)

func TestVersions(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			r := node(t)
			list, p := r.list(version, ""), r.pod("one")
			result := r.add(list, p)
			t.Logf("%+v", result)
			if version != "0.3.1" {
				r.ok(r.check(list, p))
			}
			r.ok(r.del(list, p))
			r.ok(r.del(list, p))
			r.clean(p)
		})
	}
}
