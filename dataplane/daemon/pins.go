// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"

	"github.com/viaduct-net/viaduct/internal/process"
)

// claimPins makes the directory of pins this process's own in its network namespace, before anything is made in it:
// another process would adopt the hooks in it, which are in use.
func claimPins(dir string) (release func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	sum := sha256.Sum256([]byte(filepath.Clean(dir))) // names of sockets are short
	release, err = process.ClaimInNamespace(fmt.Sprintf("viaduct-dataplane:%x", sum))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; stop that, or give another --bpf directory", dir, err)
	}
	return release, nil
}
