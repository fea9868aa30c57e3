// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/testenv"
)

func TestCgroupMount(t *testing.T) {
	for mounts, want := range map[string]string{
		"": "",
		"tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n":   "",
		"tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n": "/sys/fs/cgroup/unified",
		"cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\ncgroup2 /mnt cgroup2 rw 0 0\n":               "/sys/fs/cgroup",
		"none /a\\040b cgroup2 rw 0 0\n":                                                     "/a b",
		"short\n":                                                                            "",
	} {
		if is := cgroupMount(strings.NewReader(mounts)); is != want {
			t.Errorf("%q: %q, want %q", mounts, is, want)
		}
	}
}

// TestOwnCgroupMount: where no mount is to be seen the dataplane makes one of its own, which is the host's root.
func TestOwnCgroupMount(t *testing.T) {
	testenv.Root(t)
	dir, err := ownCgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Fatalf("%s is of type %x, %v", dir, fs.Type, err)
	}
	if again, _ := ownCgroupMount(); again != dir {
		t.Errorf("it was made again: %s, %s", dir, again)
	}
	root, err := cgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	var one, other unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &one), unix.Stat(root, &other)); err != nil || one.Ino != other.Ino {
		t.Errorf("inode %d, of the root %d, %v", one.Ino, other.Ino, err)
	}
}
