// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Claim makes NAME in the directory this process's own, by a lock on DIR/NAME.pid that ends with the process, however
// it ends. The directory is made where it does not exist. The error names the process that has it.
func Claim(dir, name string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, &SetUpError{fmt.Errorf("make run directory: %w", err)}
	}
	file, err := os.OpenFile(filepath.Join(dir, name+".pid"), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, &SetUpError{fmt.Errorf("open pid file: %w", err)}
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		owner, _ := io.ReadAll(io.LimitReader(file, 32))
		_ = file.Close()
		return nil, &SetUpError{fmt.Errorf("%s of %s runs already (process %s); stop it or give another --run directory",
			name, dir, known(owner))}
	}
	if err = file.Truncate(0); err == nil {
		_, err = fmt.Fprintf(file, "%d\n", os.Getpid())
	}
	if err != nil {
		_ = file.Close()
		return nil, &SetUpError{fmt.Errorf("write pid file: %w", err)}
	}
	return func() {
		_ = file.Truncate(0) // removing it would let two later processes lock different files
		_ = file.Close()
	}, nil
}

func known(owner []byte) string {
	if s := strings.TrimSpace(string(owner)); s != "" && s != "0" {
		return s
	}
	return "of unknown number"
}
