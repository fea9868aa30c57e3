// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// socketHooks are the programs of bpf/node_sockets.c. Those that restore come first: no application is to hear of an
// address that it did not ask for.
var socketHooks = []struct {
	name string
	at   ebpf.AttachType
}{
	{"getpeername4", ebpf.AttachCgroupInet4GetPeername}, {"getpeername6", ebpf.AttachCgroupInet6GetPeername},
	{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg}, {"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg},
	{"connect4", ebpf.AttachCGroupInet4Connect}, {"connect6", ebpf.AttachCGroupInet6Connect},
	{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg}, {"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg},
}

// AttachCgroup puts the hooks of sockets at a cgroup of version 2, by its directory: they are for the sockets of all
// processes in and below it that are made in this network namespace, from the next call of connect or sendmsg on. Those
// that are pinned there are taken over; those at another cgroup leave it. Hooks of others are not touched. SCTP has no
// such hooks (net/sctp). Errors: ErrNotSupported.
func (s *Services) AttachCgroup(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.attachCgroup(dir); err != nil {
		return fmt.Errorf("attach hooks to cgroup %s: %w", dir, err)
	}
	return nil
}

func (s *Services) attachCgroup(dir string) error {
	id, err := cgroupID(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(s.loadSockets(), s.openPinnedSockets()); err != nil {
		return err
	}
	for _, hook := range socketHooks {
		if err := s.attachSocketHook(dir, id, hook.name, hook.at); err != nil {
			return fmt.Errorf("%s: %w", hook.name, err)
		}
	}
	return nil
}

func (s *Services) attachSocketHook(dir string, id uint64, name string, at ebpf.AttachType) error {
	if l := s.atCgroup[name]; l != nil {
		if is, err := cgroupOf(l); err == nil && is == id {
			return s.update(l, socketPin+name, s.sockets[name])
		}
		delete(s.atCgroup, name)
		if err := s.drop(l, socketPin+name); err != nil {
			return err
		}
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: at, Program: s.sockets[name]})
	if err != nil {
		return err
	}
	if err := s.keep(l, socketPin+name); err != nil {
		return err
	}
	s.atCgroup[name] = l
	return nil
}

// loadSockets loads the programs, with the maps that are there already.
func (s *Services) loadSockets() error {
	if s.sockets != nil {
		return nil
	}
	spec, err := loadNodeSockets()
	if err != nil {
		return err
	}
	pinned := pinnedMaps(s.pins, spec)
	defer closeMaps(pinned)
	use := make(map[string]*ebpf.Map)
	for name := range spec.Maps {
		if m := s.maps[name]; m != nil {
			use[name] = m
		} else if m := pinned[name]; m != nil {
			use[name] = m
		}
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: use})
	if err != nil {
		return explainLoad(err)
	}
	s.sockets = loaded.Programs
	fresh := make(map[string]*ebpf.Map)
	for name, m := range loaded.Maps {
		if s.maps[name] != nil {
			m.Close() // once more
			continue
		}
		s.maps[name] = m
		fresh[name] = m
	}
	return s.pinMaps(fresh, pinned)
}

// openPinnedSockets takes over the hooks that a process before left.
func (s *Services) openPinnedSockets() error {
	if s.pins == "" {
		return nil
	}
	for _, hook := range socketHooks {
		if s.atCgroup[hook.name] != nil {
			continue
		}
		l, err := link.LoadPinnedLink(filepath.Join(s.pins, socketPin+hook.name), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open pinned hook: %w", err)
		}
		s.atCgroup[hook.name] = l
	}
	return nil
}

// leaveCgroup takes the hooks of sockets off.
func (s *Services) leaveCgroup() error {
	var err error
	for i := range socketHooks {
		name := socketHooks[len(socketHooks)-1-i].name // those that translate first
		if l := s.atCgroup[name]; l != nil {
			delete(s.atCgroup, name)
			err = errors.Join(err, s.drop(l, socketPin+name))
		}
	}
	return err
}

// cgroupID is the number of a cgroup of version 2: its directory's inode (kernfs_ino in include/linux/kernfs.h).
func cgroupID(dir string) (uint64, error) {
	var fs unix.Statfs_t
	var file unix.Stat_t
	if err := errors.Join(unix.Statfs(dir, &fs), unix.Stat(dir, &file)); err != nil {
		return 0, err
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, errors.New("it is no cgroup of version 2")
	}
	return file.Ino, nil
}

// cgroupOf is the number of the cgroup that a hook is at; 0: it is gone.
func cgroupOf(l link.Link) (uint64, error) {
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("read hook: %w", err)
	}
	if at := info.Cgroup(); at != nil {
		return at.CgroupId, nil
	}
	return 0, nil
}
