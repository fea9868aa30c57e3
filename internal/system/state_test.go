// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A state file that is not what was written is said, set aside and made anew; nothing of it is in force.
func TestDamagedStateFile(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	s := newSite(t, programs.plain)
	want := newDesired()
	for range 50 {
		want.change(chance)
	}
	clear(want.bad)
	s.put(want)
	control, dataplane := s.startControl(), s.startDataplane()
	all := s.startTraffic()
	for _, d := range damages(chance) {
		dataplane.ready()
		s.converges(want)
		s.saved()
		control.kill()
		dataplane.kill()
		d.do(t, s.stateFile())

		dataplane = s.startDataplane()
		s.says("that the file is damaged", func(h health) string {
			if h.Epoch != 0 || !strings.Contains(h.StateFile.Trouble, "set aside") {
				return "after " + d.name
			}
			return ""
		})
		if text, status := s.cli("status"); status != 1 || !strings.Contains(text, "state file") {
			t.Errorf("%s: status %d: %s", d.name, status, text)
		}
		if !dataplane.stderr.has("set aside") {
			t.Errorf("%s: the log does not say so: %s", d.name, dataplane.stderr.text())
		}
		if _, err := os.Stat(s.stateFile() + ".corrupt"); err != nil {
			t.Errorf("%s: %v", d.name, err)
		}
		control = s.startControl()
		dataplane.ready()
		s.flows(all)
		s.converges(want)
		s.saved()
		s.well()
		s.must(os.RemoveAll(s.stateFile() + ".corrupt"))
	}
	control.kill()
	dataplane.kill()
	dataplane = s.startDataplane()
	dataplane.ready()
	s.flows(all) // by the file that was made anew
}

func (s *site) stateFile() string { return filepath.Join(s.state, "snapshot.pb") }

// saved waits until the file has what is in force.
func (s *site) saved() {
	s.t.Helper()
	s.eventually("the state file to have what is in force", func() error {
		status, err := s.dataplaneStatus()
		if err == nil && (status.Epoch == 0 || status.StateFile.Epoch != status.Epoch) {
			err = fmt.Errorf("epoch %d, in the file %v", status.Epoch, status.StateFile)
		}
		return err
	})
}

type damage struct {
	name string
	do   func(t *testing.T, path string)
}

func damages(chance *rand.Rand) []damage {
	edit := func(name string, change func(b []byte) []byte) damage {
		return damage{name, func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, change(b), 0o640)
			}
			if err != nil {
				t.Fatal(err)
			}
		}}
	}
	list := []damage{
		edit("nothing in it", func([]byte) []byte { return nil }),
		edit("half a header", func(b []byte) []byte { return b[:12] }),
		edit("a byte too few", func(b []byte) []byte { return b[:len(b)-1] }),
		edit("a byte too many", func(b []byte) []byte { return append(b, 0) }),
		edit("garbage", func(b []byte) []byte {
			for i := range b {
				b[i] = byte(chance.Uint32())
			}
			return b
		}),
		edit("zeros, as after a crash", func(b []byte) []byte { return make([]byte, len(b)) }),
		edit("another version", func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[8:], 77)
			return b
		}),
		{"a directory in its place", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for range 3 {
		list = append(list, edit("torn anywhere", func(b []byte) []byte { return b[:chance.IntN(len(b))] }),
			edit("a bit turned", func(b []byte) []byte {
				b = bytes.Clone(b)
				b[chance.IntN(len(b))] ^= 1 << chance.IntN(8)
				return b
			}))
	}
	return list
}

// A directory that takes nothing does not keep the dataplane from forwarding; it is said for as long as it is so. What
// the file had stays good.
func TestStateDirectoryTakesNothing(t *testing.T) {
	for name, of := range map[string]struct {
		options      string
		block, allow func(s *site) error
	}{
		"full": {"size=64k",
			func(s *site) error {
				err := os.WriteFile(filepath.Join(s.state, "filler"), make([]byte, 1<<20), 0o600)
				if err == nil {
					return fmt.Errorf("a tmpfs of 64 KiB took 1 MiB")
				}
				return nil
			},
			func(s *site) error { return os.Remove(filepath.Join(s.state, "filler")) }},
		"read-only": {"",
			func(s *site) error { return s.reconfigure("ro") }, func(s *site) error { return s.reconfigure("rw") }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, programs.plain)
			s.mountState(of.options)
			want := newDesired()
			s.put(want)
			// Control has a directory of its own: it does not start without its leases.
			startControl := func() *daemon {
				return s.startControl("--source", "dir:"+s.manifests, "--state", s.state+"-of-control")
			}
			control, dataplane := startControl(), s.startDataplane()
			dataplane.ready()
			s.converges(want)
			all := s.startTraffic()
			s.saved()
			// An open file keeps a file system from becoming read-only: so it is between two lives of the dataplane.
			dataplane.kill()
			s.must(of.block(s))
			dataplane = s.startDataplane()
			dataplane.ready()
			s.flows(all)
			want.steer(2)
			s.put(want)
			s.converges(want)
			s.says("that the file is not written", func(h health) string {
				if h.Healthy || !strings.Contains(h.StateFile.Trouble, "not written") {
					return "state"
				}
				return ""
			})

			control.kill()
			dataplane.kill()
			dataplane = s.startDataplane() // by what the file had
			dataplane.ready()
			s.flows(all)
			control = startControl()
			s.converges(want)
			s.must(of.allow(s))
			s.saved()
			s.well()
			control.stop()
			dataplane.stop()
			s.nothingLeft()
		})
	}
}

func (s *site) mountState(options string) {
	s.t.Helper()
	s.must(os.MkdirAll(s.state, 0o750))
	s.must(unix.Mount("tmpfs", s.state, "tmpfs", 0, options))
	s.t.Cleanup(func() {
		if err := unix.Unmount(s.state, unix.MNT_DETACH); err != nil {
			s.t.Errorf("unmount state: %v", err)
		}
	})
}

// reconfigure makes the file system of the state directory read-only or writable, for every mount namespace: a remount
// would change the mount of this one alone.
func (s *site) reconfigure(flag string) error {
	fd, err := unix.Fspick(unix.AT_FDCWD, s.state, unix.FSPICK_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.FsconfigSetFlag(fd, flag); err != nil {
		return err
	}
	return unix.FsconfigReconfigure(fd)
}
