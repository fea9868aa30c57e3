// SPDX-License-Identifier: Apache-2.0

package forwarder

import "testing"

func TestIsNamed(t *testing.T) {
	for _, tt := range []struct {
		policy, name string
		want         bool
	}{
		{"NetworkPolicy shop/web", "", true},
		{"NetworkPolicy shop/web", "NetworkPolicy shop/web", true},
		{"NetworkPolicy shop/web", "shop/web", true},
		{"NetworkPolicy shop/web", "web", false},
		{"NetworkPolicy shop/web", "hop/web", false},
		{"ClusterNetworkPolicy guard", "guard", true},
		{"ClusterNetworkPolicy guard", "NetworkPolicy guard", false},
	} {
		if got := isNamed(tt.policy, tt.name); got != tt.want {
			t.Errorf("%q of %q: %v", tt.name, tt.policy, got)
		}
	}
}
