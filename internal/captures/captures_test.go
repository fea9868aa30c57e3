// SPDX-License-Identifier: Apache-2.0

package captures

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFilesAddsTheDirectoryOfTheEnvironment(t *testing.T) {
	t.Setenv(Environment, "")
	own, err := Files()
	if err != nil || len(own) < 20 {
		t.Fatalf("%d embedded captures, %v", len(own), err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "extra.pcapng"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(Environment, dir)
	all, err := Files()
	if err != nil || len(all) != len(own)+1 || all[len(own)].Name != "extra.pcapng" {
		t.Fatalf("%d captures with a directory of one more than %d, %v", len(all), len(own), err)
	}
}
