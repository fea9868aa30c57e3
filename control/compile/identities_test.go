// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/api"
)

// TestIdentityContent: it is equal for equal identities, and for no others, whatever bytes their labels are of.
func TestIdentityContent(t *testing.T) {
	text := rapid.StringOfN(rapid.SampledFrom([]rune("a=\x00\x01\x02")), 0, 3, -1)
	identity := rapid.Custom(func(t *rapid.T) *api.Identity {
		list := rapid.SliceOfN(text, 0, 3)
		return &api.Identity{
			Kind: api.Identity_Kind(rapid.IntRange(1, 2).Draw(t, "kind")), Namespace: text.Draw(t, "namespace"),
			Labels: list.Draw(t, "labels"), NamespaceLabels: list.Draw(t, "namespace's"),
			NamedPorts: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *api.NamedPort {
				return &api.NamedPort{Name: text.Draw(t, "name"), Protocol: api.Protocol_PROTOCOL_TCP,
					Port: rapid.Uint32Range(1, 3).Draw(t, "port")}
			}), 0, 2).Draw(t, "ports"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := identity.Draw(t, "a"), identity.Draw(t, "b")
		if proto.Equal(a, b) != (identityContent(a) == identityContent(b)) {
			t.Errorf("%v is %q, %v is %q", a, identityContent(a), b, identityContent(b))
		}
	})
}
