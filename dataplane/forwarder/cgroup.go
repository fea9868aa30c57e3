// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/host"
)

// cgroupGiven is where a container is given the host's cgroups.
const cgroupGiven = "/host/sys/fs/cgroup"

// initialCgroups is the cgroup namespace of the host (PROC_CGROUP_INIT_INO in include/linux/proc_ns.h). In another one
// a mount shows what is below the own cgroup alone.
const initialCgroups = "cgroup:[4026531835]"

// settleCgroup has the hooks of the node's own sockets be at the cgroup.
func (f *Forwarder) settleCgroup() []host.Note {
	dir := f.cfg.Cgroup
	var err error
	if dir == "" {
		dir, err = cgroupRoot()
	}
	if err == nil {
		err = f.services.hooks.AttachCgroup(dir)
	}
	if err != nil {
		return []host.Note{{Subject: "cgroup", Reason: "the node's own processes do not reach node ports: " + err.Error()}}
	}
	return nil
}

// cgroupRoot is the directory of the root of the cgroups of version 2, in which all of the host's processes are.
func cgroupRoot() (string, error) {
	var fs unix.Statfs_t
	if unix.Statfs(cgroupGiven, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return cgroupGiven, nil
	}
	if namespace, err := os.Readlink("/proc/self/ns/cgroup"); err == nil && namespace != initialCgroups {
		return "", errors.New("this process is in a cgroup namespace: mount the host's /sys/fs/cgroup at " + cgroupGiven +
			", or say with --cgroup where it is")
	}
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("look for cgroups: %w", err)
	}
	defer mounts.Close()
	if dir := cgroupMount(mounts); dir != "" {
		return dir, nil
	}
	dir, err := ownCgroupMount()
	if err != nil {
		return "", fmt.Errorf("no cgroup of version 2 is mounted: mount one, or say with --cgroup where it is (%w)", err)
	}
	return dir, nil
}

// ownCgroupMount is a mount that nobody else sees, for the life of the process: a mount namespace of its own, such as
// ip-netns makes, may have lost the host's.
var ownCgroupMount = sync.OnceValues(func() (string, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return "", fmt.Errorf("fsconfig: %w", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("fsmount: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", mount), nil
})

// cgroupMount finds the first mount of cgroups of version 2 in a file like /proc/mounts; empty: there is none.
func cgroupMount(mounts io.Reader) string {
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return strings.ReplaceAll(fields[1], `\040`, " ")
		}
	}
	return ""
}
