// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

// from_wire_tc makes packets this host's before it redirects them to a pod: before Linux 6.15 the pod would not take
// them otherwise, and a later kernel cannot show that.
func TestWireTCChangesType(t *testing.T) {
	spec, err := loadWireTC()
	if err != nil {
		t.Fatal(err)
	}
	changes, redirects := 0, 0
	for _, i := range spec.Programs["from_wire_tc"].Instructions {
		if !i.IsBuiltinCall() {
			continue
		}
		switch asm.BuiltinFunc(i.Constant) {
		case asm.FnSkbChangeType:
			changes++
		case asm.FnRedirectPeer:
			if redirects++; changes < redirects {
				t.Error("a packet is redirected that may be nobody's")
			}
		}
	}
	if redirects == 0 {
		t.Error("no packet is redirected")
	}
}
