// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/viaduct-net/viaduct/internal/testenv"
)

func loadFlows(t testing.TB, options FlowTableOptions) *FlowTable {
	t.Helper()
	testenv.Root(t)
	f, err := LoadFlowTable(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(f.Close(), f.Close()); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestFlowTableSizes(t *testing.T) {
	for _, c := range []struct {
		records uint32
		buckets int
	}{{1, 1}, {2, 1}, {3, 2}, {4, 2}, {1000, 512}, {1024, 512}, {1025, 1024}, {0, defaultRecords / 2}} {
		f := loadFlows(t, FlowTableOptions{Records: c.records})
		m := f.Memory()
		records := int(c.records)
		if records == 0 {
			records = defaultRecords
		}
		if len(m.Records) != 192*records || len(m.Buckets) != 64*c.buckets || len(m.Egresses) != 32*65536 ||
			len(m.Control) != flowControlSize {
			t.Errorf("%d records: %d bytes, %d of buckets, %d of egresses, %d of control", records, len(m.Records),
				len(m.Buckets), len(m.Egresses), len(m.Control))
		}
		if bytes.Equal(m.Control[:16], make([]byte, 16)) {
			t.Error("the hash has no seed")
		}
	}
	if _, err := LoadFlowTable(FlowTableOptions{Records: maxRecords + 1}); err == nil {
		t.Error("a table is larger than slots can number")
	}
}

// What a process wrote is there for the next one, which another size leaves to it until it is taken over.
func TestFlowTableAdopted(t *testing.T) {
	dir := filepath.Join(bpffs(t), "flows")
	f := loadFlows(t, FlowTableOptions{PinDir: dir, Records: 100})
	if f.Adopted() || f.Before() != nil || f.Refused() != nil {
		t.Error("a table of nobody's was taken over")
	}
	seed := bytes.Clone(f.Memory().Control[:16])
	copy(f.Memory().Records[192*99:], "the last record")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	f = loadFlows(t, FlowTableOptions{PinDir: dir, Records: 100})
	expectAdopted(t, f, seed)
	if err := errors.Join(f.Succeed(), f.Close()); err != nil {
		t.Fatal(err)
	}

	larger := loadFlows(t, FlowTableOptions{PinDir: dir, Records: 200})
	if larger.Adopted() || larger.Refused() != nil || larger.Before() == nil {
		t.Fatal("the smaller table is not there to be taken over")
	}
	if b := larger.Before().Memory().Records; !bytes.HasPrefix(b[192*99:], []byte("the last record")) {
		t.Error("the smaller table is not what it was")
	}
	if err := larger.Close(); err != nil { // without Succeed the pins are those of the one before
		t.Fatal(err)
	}
	f = loadFlows(t, FlowTableOptions{PinDir: dir, Records: 100})
	expectAdopted(t, f, seed)

	larger = loadFlows(t, FlowTableOptions{PinDir: dir, Records: 200})
	if err := errors.Join(larger.Succeed(), larger.Close()); err != nil {
		t.Fatal(err)
	}
	f = loadFlows(t, FlowTableOptions{PinDir: dir, Records: 200})
	if !f.Adopted() {
		t.Error("the table that succeeded is not the pinned one")
	}
	if err := f.Remove(); err != nil {
		t.Fatal(err)
	}
	if left := entries(t, filepath.Dir(dir)); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

func expectAdopted(t *testing.T, f *FlowTable, seed []byte) {
	t.Helper()
	m := f.Memory()
	if !f.Adopted() || f.Before() != nil || f.Refused() != nil || !bytes.Equal(m.Control[:16], seed) ||
		!bytes.HasPrefix(m.Records[192*99:], []byte("the last record")) {
		t.Errorf("taken over: %v, before %v, refused %v", f.Adopted(), f.Before(), f.Refused())
	}
}

// A table that cannot be read is not read, and replaced.
func TestFlowTableRefused(t *testing.T) {
	for name, spoil := range map[string]func(*FlowTable) error{
		"another layout": func(f *FlowTable) error {
			binary.NativeEndian.PutUint32(f.Memory().Control[24:], flowLayout+1)
			return nil
		},
		"other records than said": func(f *FlowTable) error {
			binary.NativeEndian.PutUint32(f.Memory().Control[32:], 99)
			return nil
		},
		"more buckets than there are": func(f *FlowTable) error {
			binary.NativeEndian.PutUint32(f.Memory().Control[28:], 2*uint32(len(f.Memory().Buckets)/64)-1)
			return nil
		},
		"buckets that are no power of two": func(f *FlowTable) error {
			binary.NativeEndian.PutUint32(f.Memory().Control[28:], 4)
			return nil
		},
		"a map is missing":     func(f *FlowTable) error { return os.Remove(filepath.Join(f.pins, "egresses")) },
		"a map of another use": func(f *FlowTable) error { return exchange(f.pins, "egresses", "flow_buckets") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(bpffs(t), "flows")
			f := loadFlows(t, FlowTableOptions{PinDir: dir, Records: 100})
			if err := errors.Join(spoil(f), f.Close()); err != nil {
				t.Fatal(err)
			}
			f = loadFlows(t, FlowTableOptions{PinDir: dir, Records: 100})
			var layout *FlowLayoutError
			if f.Adopted() || f.Before() != nil || !errors.As(f.Refused(), &layout) || layout.PinDir != dir {
				t.Errorf("taken over: %v, before %v, refused %v", f.Adopted(), f.Before(), f.Refused())
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if f = loadFlows(t, FlowTableOptions{PinDir: dir, Records: 100}); !f.Adopted() {
				t.Error("the pins are not those of the table that was made instead:", f.Refused())
			}
		})
	}
}

func exchange(dir, a, b string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	return errors.Join(os.Rename(at(a), at("c")), os.Rename(at(b), at(a)), os.Rename(at("c"), at(b)))
}

func TestFlowTableLayout(t *testing.T) {
	spec, err := loadFromPort()
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]uint32{
		"flow_buckets": 64, "flow_records": 192, "egresses": 32, "flow_control": flowControlSize, "pair_openings": 4,
	} {
		if m := spec.Maps[name]; m == nil || m.ValueSize != size {
			t.Errorf("%s: %d bytes in Go, %v in C", name, size, m)
		}
	}
	of := spec.Maps["pair_openings"]
	if in := of.InnerMap; of.MaxEntries != openers || in.KeySize != flowKeySize || in.ValueSize != openingSize ||
		in.MaxEntries != maxOpenings {
		t.Errorf("openings: %d of %+v", of.MaxEntries, in)
	}
}
