// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// claimPins makes the directory of pins this process's own in its network namespace, by an abstract unix socket, since
// a bpffs takes no locks: another process would adopt the hooks in it, which are in use.
func claimPins(dir string) (release func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	l, err := net.Listen("unix", fmt.Sprintf("@viaduct-dataplane:%x", sha256.Sum256([]byte(dir)))) // names are short
	if err != nil {
		return nil, fmt.Errorf("%s is in use by another process; stop it or give another --bpf directory: %w", dir, err)
	}
	return func() { _ = l.Close() }, nil
}

// lock takes the file's exclusive lock, which the kernel releases when the process ends, however it ends.
func lock(file *os.File) error { return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

func trim(b []byte) string {
	if s := strings.TrimSpace(string(b)); s != "" {
		return s
	}
	return "of unknown number"
}
