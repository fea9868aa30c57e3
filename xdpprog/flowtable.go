// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// FlowTableOptions say what LoadFlowTable is to load.
type FlowTableOptions struct {
	// PinDir is the table's own directory on a bpffs (see MountBPFFS), which LoadFlowTable creates. Empty: nothing is
	// pinned.
	PinDir string
	// Records is how many flows there may be, at most 2^24; 0: 131072. Each takes 192 bytes, and 32 to 64 of the index.
	Records uint32
}

const (
	defaultRecords = 131072
	maxRecords     = 1 << 24
)

// flowLayout is FLOW_LAYOUT of bpf/shared.h.
const flowLayout = 2

// FlowTable is the maps of the kernel's flow table (bpf/flow_table.h), mapped into this process. Hooks that were loaded
// with it keep the maps for as long as they are attached.
type FlowTable struct {
	maps     map[string]*ebpf.Map
	openings []*ebpf.Map // of pair_openings
	memory   FlowMemory
	pins     string // empty: not pinned
	before   *FlowTable
	refused  error
	adopted  bool
}

// FlowMemory is what is in the maps, in the layout of bpf/shared.h. It is valid until Close.
type FlowMemory struct{ Buckets, Records, Egresses, Control, News []byte }

// FlowLayoutError says that a pinned flow table was made by another build and cannot be read.
type FlowLayoutError struct {
	PinDir      string
	Found, Want uint32 // 0: the maps are none of a flow table, or not those that its control page tells of
}

// Error says what was found, and what is expected.
func (e *FlowLayoutError) Error() string {
	return fmt.Sprintf("flow table pinned at %s has layout %d, this program reads layout %d", e.PinDir, e.Found, e.Want)
}

// flowMaps are the table's, as bpf/flow_table.h has them.
var flowMaps = []string{"flow_buckets", "flow_records", "egresses", "flow_control", "flow_news", "pair_openings"}

// LoadFlowTable takes over the table that is pinned in PinDir, as it is: hooks go on with what is in it. In its absence
// it makes an empty one, and also where the pinned one
//
//   - has another number of records: Before is the pinned one, of which the caller may take over what it likes; until
//     Succeed it keeps its pins;
//   - has another layout: Refused says so, and the pins are the empty one's at once.
//
// Errors: ErrNotSupported when the kernel lacks something.
func LoadFlowTable(options FlowTableOptions) (*FlowTable, error) {
	if options.Records == 0 {
		options.Records = defaultRecords
	}
	if options.Records > maxRecords {
		return nil, fmt.Errorf("load flow table: %d records, at most %d are possible", options.Records, maxRecords)
	}
	f, err := loadFlowTable(options)
	if err != nil {
		return nil, fmt.Errorf("load flow table: %w", err)
	}
	return f, nil
}

func loadFlowTable(options FlowTableOptions) (*FlowTable, error) {
	spec, err := loadFromPort()
	if err != nil {
		return nil, err
	}
	pinned, refused := openFlowTable(pinDirOf(options.PinDir), spec)
	if pinned != nil && pinned.maps["flow_records"].MaxEntries() == options.Records {
		pinned.adopted = true
		return pinned, nil
	}
	f := &FlowTable{pins: pinDirOf(options.PinDir), before: pinned, refused: refused, maps: make(map[string]*ebpf.Map)}
	err = f.create(spec, options.Records)
	if err == nil && pinned == nil {
		err = f.pin()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openFlowTable is the pinned table; nil: there is none that can be read.
func openFlowTable(pins string, spec *ebpf.CollectionSpec) (*FlowTable, error) {
	if pins == "" {
		return nil, nil
	}
	if _, err := os.Stat(pins); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	f := &FlowTable{pins: pins, maps: make(map[string]*ebpf.Map)}
	err := f.open(spec)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *FlowTable) open(spec *ebpf.CollectionSpec) error {
	layout := &FlowLayoutError{PinDir: f.pins, Want: flowLayout}
	if found := pinnedLayout(f.pins); found != 0 && found != flowLayout {
		layout.Found = found
		return layout
	}
	for _, name := range flowMaps {
		m, err := ebpf.LoadPinnedMap(filepath.Join(f.pins, name), nil)
		if err != nil {
			return errors.Join(layout, fmt.Errorf("open map %s: %w", name, err))
		}
		f.maps[name] = m
	}
	if err := f.mapMemory(); err != nil {
		return err
	}
	if len(f.memory.Control) < flowControlSize {
		return layout
	}
	c := f.control()
	layout.Found = c.layout()
	if layout.Found != flowLayout {
		return layout
	}
	for _, name := range flowMaps {
		want := spec.Maps[name].Copy()
		want.MaxEntries = f.maps[name].MaxEntries()
		if err := want.Compatible(f.maps[name]); err != nil {
			return errors.Join(layout, err)
		}
	}
	if n := c.records(); n != f.maps["flow_records"].MaxEntries() || f.maps["flow_news"].MaxEntries() != (n+63)/64 ||
		!c.uses(f.maps["flow_buckets"].MaxEntries()) {
		layout.Found = 0
		return layout
	}
	return f.openOpenings()
}

// pinnedLayout is what the control page says alone, for other layouts may have other maps; 0: it cannot be read.
func pinnedLayout(pins string) uint32 {
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, "flow_control"), nil)
	if err != nil {
		return 0
	}
	defer m.Close()
	page := make([]byte, flowControlSize)
	if m.ValueSize() != flowControlSize || m.Lookup(uint32(0), page) != nil {
		return 0
	}
	return flowControl(page).layout()
}

// create makes empty maps. A key has two buckets of eight slots to be in, and a record two keys: half of the slots are
// free at least.
func (f *FlowTable) create(spec *ebpf.CollectionSpec, records uint32) error {
	buckets := uint32(1) << bits.Len32((max(records, 2)+1)/2-1)
	spec.Maps["flow_records"].MaxEntries = records
	spec.Maps["flow_buckets"].MaxEntries = buckets
	spec.Maps["flow_news"].MaxEntries = (records + 63) / 64
	for _, name := range flowMaps {
		m, err := ebpf.NewMap(spec.Maps[name])
		if err != nil {
			return fmt.Errorf("make map %s: %w", name, explainLoad(err))
		}
		f.maps[name] = m
	}
	if err := f.makeOpenings(spec.Maps["pair_openings"].InnerMap); err != nil {
		return err
	}
	if err := f.mapMemory(); err != nil {
		return err
	}
	var seed [16]byte
	rand.Read(seed[:])
	f.control().begin(seed, buckets, records)
	return nil
}

func (f *FlowTable) mapMemory() error {
	for name, to := range map[string]*[]byte{
		"flow_buckets": &f.memory.Buckets, "flow_records": &f.memory.Records,
		"egresses": &f.memory.Egresses, "flow_control": &f.memory.Control, "flow_news": &f.memory.News,
	} {
		m := f.maps[name]
		size := int(m.ValueSize()) * int(m.MaxEntries())
		b, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("map memory of %s: %w", name, err)
		}
		*to = b
	}
	return nil
}

// pin makes the pins this table's, in one rename of the directory that they were built in.
func (f *FlowTable) pin() error {
	if f.pins == "" {
		return nil
	}
	aside := asideOf(f.pins)
	if err := removePins(aside); err != nil {
		return err
	}
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return fmt.Errorf("pin maps: %w", err)
	}
	for name, m := range f.maps {
		c, err := m.Clone() // a pin of the library's moves
		if err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
		err = c.Pin(filepath.Join(aside, name))
		c.Close()
		if err != nil {
			return fmt.Errorf("pin map %s (is %s on a bpffs?): %w", name, f.pins, err)
		}
	}
	if err := removePins(f.pins); err != nil {
		return err
	}
	if err := os.Rename(aside, f.pins); err != nil {
		return fmt.Errorf("replace pins: %w", err)
	}
	return nil
}

// Memory is the table's.
func (f *FlowTable) Memory() FlowMemory { return f.memory }

// Adopted says that the table was pinned and is taken over with what is in it.
func (f *FlowTable) Adopted() bool { return f.adopted }

// Refused is a *FlowLayoutError, or why else a pinned table could not be taken over; nil: it was, or there was none.
func (f *FlowTable) Refused() error { return f.refused }

// Before is the pinned table of another size that this one is to succeed; nil: there is none.
func (f *FlowTable) Before() *FlowTable { return f.before }

// Succeed makes the pins this table's and closes the one before, if there is one.
func (f *FlowTable) Succeed() error {
	if f.before == nil {
		return nil
	}
	err := f.pin()
	if err == nil {
		err = f.before.Close()
		f.before = nil
	}
	if err != nil {
		return fmt.Errorf("succeed flow table: %w", err)
	}
	return nil
}

// Close lets go of the table, and of the one before. Pins stay. Closing twice is no error.
func (f *FlowTable) Close() error {
	var err error
	m := &f.memory
	for _, b := range []*[]byte{&m.Buckets, &m.Records, &m.Egresses, &m.Control, &m.News} {
		if *b != nil {
			err = errors.Join(err, unix.Munmap(*b))
			*b = nil
		}
	}
	for name, m := range f.maps {
		err = errors.Join(err, m.Close())
		delete(f.maps, name)
	}
	for _, m := range f.openings {
		err = errors.Join(err, m.Close())
	}
	f.openings = nil
	if f.before != nil {
		err = errors.Join(err, f.before.Close())
		f.before = nil
	}
	return err
}

// Unpin removes the pins. Hooks go on with the table.
func (f *FlowTable) Unpin() error { return removePins(f.pins) }

// Remove removes the pins and closes the table.
func (f *FlowTable) Remove() error {
	err := removePins(f.pins)
	return errors.Join(err, f.Close())
}

// into has a program's maps be the table's, where it has them. A program that is loaded without a table has maps of
// its own, by which nothing is carried.
func (f *FlowTable) into(spec *ebpf.CollectionSpec, use map[string]*ebpf.Map) {
	for _, name := range flowMaps {
		s := spec.Maps[name]
		switch {
		case s == nil:
		case f == nil:
			s.MaxEntries = 1
		default:
			s.MaxEntries = f.maps[name].MaxEntries()
			use[name] = f.maps[name]
		}
	}
}

// flowControl is struct flow_control.
type flowControl []byte

const flowControlSize = 64

func (f *FlowTable) control() flowControl { return f.memory.Control }

func (c flowControl) layout() uint32  { return binary.NativeEndian.Uint32(c[24:]) }
func (c flowControl) records() uint32 { return binary.NativeEndian.Uint32(c[32:]) }

// uses says whether the index can be one of so many buckets, of which as many are in use as userspace needs.
func (c flowControl) uses(buckets uint32) bool {
	mask := binary.NativeEndian.Uint32(c[28:])
	return mask < buckets && mask&(mask+1) == 0
}

// bucketsAtFirst are in use of an empty index, where there are so many: leastBuckets of dataplane/offload.
const bucketsAtFirst = 1024

// begin is of a table that carries nothing until userspace says so.
func (c flowControl) begin(seed [16]byte, buckets, records uint32) {
	copy(c, seed[:])
	binary.NativeEndian.PutUint32(c[24:], flowLayout)
	binary.NativeEndian.PutUint32(c[28:], min(buckets, bucketsAtFirst)-1)
	binary.NativeEndian.PutUint32(c[32:], records)
}
