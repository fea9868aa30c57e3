// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"strings"
	"testing"
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
