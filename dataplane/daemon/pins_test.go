// SPDX-License-Identifier: Apache-2.0

package daemon

import "testing"

func TestPinsHaveOneOwner(t *testing.T) {
	dir := t.TempDir()
	release, err := claimPins(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claimPins(dir); err == nil {
		t.Error("two owners")
	}
	release()
	again, err := claimPins(dir)
	if err != nil {
		t.Fatalf("not free after its owner: %v", err)
	}
	again()
}
