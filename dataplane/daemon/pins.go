// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/sha256"
	"fmt"
	"net"
	"path/filepath"
)

// claimPins makes the directory of pins this process's own in its network namespace, by an abstract unix socket, since
// a bpffs takes no locks: another process would adopt the hooks in it, which are in use.
func claimPins(dir string) (release func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	sum := sha256.Sum256([]byte(filepath.Clean(dir))) // names of sockets are short
	l, err := net.Listen("unix", fmt.Sprintf("@viaduct-dataplane:%x", sum))
	if err != nil {
		return nil, fmt.Errorf("%s is in use by another process; stop it or give another --bpf directory: %w", dir, err)
	}
	return func() { _ = l.Close() }, nil
}
