// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// sysctls is where the calling thread's network namespace has its sysctls. In a container /proc/sys is read-only; there
// the host's own is looked for, which the container is given at /host.
var sysctls = sync.OnceValue(func() string {
	const own, given = "/proc/sys/", "/host/proc/sys/"
	if errors.Is(unix.Access(own+"net/ipv4/ip_forward", unix.W_OK), unix.EROFS) {
		if _, err := os.Stat(given + "net"); err == nil {
			return given
		}
	}
	return own
})

// readSysctl reads a sysctl by its path: "net/ipv4/ip_forward".
func readSysctl(key string) (string, error) {
	value, err := os.ReadFile(sysctls() + key)
	return strings.TrimSpace(string(value)), err
}

// ensureSysctl writes a sysctl that has another value. One that is not there is nothing to change: IPv6 may not be in
// the kernel, or a device is gone.
func ensureSysctl(key, value string) error {
	is, err := readSysctl(key)
	if errors.Is(err, fs.ErrNotExist) || err == nil && is == value {
		return nil
	}
	if err == nil {
		err = os.WriteFile(sysctls()+key, []byte(value), 0)
	}
	if err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", key, value, err)
	}
	return nil
}

// settings are sysctls of the whole host that were changed, in order.
type settings []setting

type setting struct {
	key, before, after string
	beside             map[string]string // what a change of the key changes with it, as it was
}

// set changes a sysctl and remembers what it was. beside are patterns (path.Match) of what the kernel changes with it.
func (l *settings) set(key, value string, beside ...string) error {
	before, err := readSysctl(key)
	if err != nil || before == value {
		return ensureSysctl(key, value)
	}
	remembered := setting{key: key, before: before, after: value, beside: readAll(beside)}
	if err := ensureSysctl(key, value); err != nil {
		return err
	}
	*l = append(*l, remembered)
	return nil
}

func readAll(patterns []string) map[string]string {
	values := make(map[string]string)
	for _, pattern := range patterns {
		paths, _ := filepath.Glob(sysctls() + pattern) // the patterns are ours, and good
		for _, path := range paths {
			key := strings.TrimPrefix(path, sysctls())
			if value, err := readSysctl(key); err == nil {
				values[key] = value
			}
		}
	}
	return values
}

// restore undoes the changes, the last first, and forgets them. What somebody has changed since stays.
func (l *settings) restore() error {
	var errs []error
	for i := len(*l) - 1; i >= 0; i-- {
		s := (*l)[i]
		if is, err := readSysctl(s.key); err != nil || is != s.after {
			continue
		}
		errs = append(errs, ensureSysctl(s.key, s.before))
		for key, value := range s.beside {
			errs = append(errs, ensureSysctl(key, value))
		}
	}
	*l = nil
	return errors.Join(errs...)
}
