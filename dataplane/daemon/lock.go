// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// lock takes the file's exclusive lock, which the kernel releases when the process ends, however it ends.
func lock(file *os.File) error { return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

func trim(b []byte) string {
	if s := strings.TrimSpace(string(b)); s != "" {
		return s
	}
	return "of unknown number"
}
