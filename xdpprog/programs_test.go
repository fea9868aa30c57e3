// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// programPins lists the programs that are pinned in a directory.
func programPins(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), programPin) {
			list = append(list, e.Name())
		}
	}
	return list
}

// A pinned program is taken over by the same build, with the same maps, and by nobody else.
func TestProgramsAreTakenOver(t *testing.T) {
	w := newWire(t)
	options := Options{PinDir: filepath.Join(bpffs(t), "p"), Queues: 1, Flows: flowTable(t)}
	load := func(same bool, why string) {
		t.Helper()
		before := w.has(t, Native).program
		p := attach(t, options, w.ifindex, NativeOnly)
		if after := w.has(t, Native).program; after == before != same || p.loaded.reused != same {
			t.Errorf("%s: program %d became %d, taken over %v", why, before, after, p.loaded.reused)
		}
		if list := programPins(t, p.pins); len(list) != 1 || list[0] != programPinOf(_OwnedBytes, ownedProgFromWireOwned) {
			t.Errorf("%s: pinned are %v", why, list)
		}
		expect(t, p, goldens()[0].frame, NoSocketDropped)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := attach(t, options, w.ifindex, NativeOnly).Close(); err != nil {
		t.Fatal(err)
	}
	load(true, "the same build")
	pin := filepath.Join(options.PinDir, programPinOf(_OwnedBytes, ownedProgFromWireOwned))
	other := programPinOf([]byte("other"), ownedProgFromWireOwned)
	if err := os.Rename(pin, filepath.Join(options.PinDir, other)); err != nil {
		t.Fatal(err)
	}
	load(false, "another build")
	options.Flows = flowTable(t)
	load(false, "another flow table")
	options.Flows = nil
	load(false, "no flow table")
	load(true, "no flow table again")
	if err := attach(t, options, w.ifindex, NativeOnly).Detach(); err != nil {
		t.Error(err)
	}
}

func flowTable(t *testing.T) *FlowTable {
	t.Helper()
	f, err := LoadFlowTable(FlowTableOptions{Records: 64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}
