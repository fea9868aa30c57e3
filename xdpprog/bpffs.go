// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MountBPFFS makes dir, and mounts a bpffs there unless it is on one already. Needs CAP_SYS_ADMIN.
func MountBPFFS(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("mount bpffs: %w", err)
	}
	on, err := onBPFFS(dir)
	if err != nil || on {
		return err
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w", dir, err)
	}
	return nil
}

func onBPFFS(dir string) (bool, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return false, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return s.Type == unix.BPF_FS_MAGIC, nil
}
