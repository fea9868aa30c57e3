// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"github.com/viaduct-net/viaduct/dataplane/cacheline"
)

// Memory is the maps of the kernel's flow table, or memory of the same sizes: 64 bytes for each bucket, of which there
// are a power of two, 192 for each record, 32 for each egress, 64 for control, 8 for the news of each 64 records. It
// stays valid for as long as its table is used, and nobody else writes it but hooks that count.
type Memory struct{ Buckets, Records, Egresses, Control, News []byte }

// maxEgresses is MAX_EGRESSES.
const maxEgresses = 65536

// NewMemory is memory of no map, for so many records: what no hook reads.
func NewMemory(records int) Memory { return newMemory(records, maxEgresses) }

func newMemory(records, egresses int) Memory {
	buckets := 1 << bits.Len(uint((max(records, 2)+1)/2-1))
	return Memory{
		Buckets: lines[bucket](buckets), Records: lines[record](records), Egresses: lines[egress](egresses),
		Control: lines[control](1), News: lines[uint64]((records + newsOfWord - 1) / newsOfWord),
	}
}

// lines is zeroed bytes that n of T fit in, aligned to 8 bytes.
func lines[T any](n int) []byte {
	words := make([]uint64, n*int(unsafe.Sizeof(*new(T)))/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words))
}

// as reads bytes as an array of T. The bytes are a mapping's, or those of lines, so that they are aligned, and T has
// no pointers.
func as[T any](b []byte) ([]T, error) {
	size := int(unsafe.Sizeof(*new(T)))
	if len(b) < size || len(b)%size != 0 {
		return nil, fmt.Errorf("%d bytes are no array of %d", len(b), size)
	}
	p := unsafe.SliceData(b)
	if uintptr(unsafe.Pointer(p))%8 != 0 {
		return nil, errors.New("not aligned")
	}
	return unsafe.Slice((*T)(unsafe.Pointer(p)), len(b)/size), nil
}

// open has the table's arrays be those of the memory. A control page of zeros is begun.
func (t *Table) open(m Memory) error {
	var err error
	if t.buckets, err = as[bucket](m.Buckets); err != nil {
		return fmt.Errorf("flow buckets: %w", err)
	}
	if t.records, err = as[record](m.Records); err != nil {
		return fmt.Errorf("flow records: %w", err)
	}
	if t.egresses, err = as[egress](m.Egresses); err != nil {
		return fmt.Errorf("egresses: %w", err)
	}
	if t.news, err = as[uint64](m.News); err != nil {
		return fmt.Errorf("flow news: %w", err)
	}
	c, err := as[control](m.Control)
	if err != nil {
		return fmt.Errorf("flow control: %w", err)
	}
	t.control = &c[0]
	if bits.OnesCount(uint(len(t.buckets))) != 1 {
		return fmt.Errorf("%d flow buckets, not a power of two", len(t.buckets))
	}
	if t.control.layout == 0 {
		var seed [16]byte
		rand.Read(seed[:]) // never fails: it ends the program
		t.control.seed = [2]uint64{binary.LittleEndian.Uint64(seed[:]), binary.LittleEndian.Uint64(seed[8:])}
		t.control.bucketMask, t.control.records = uint32(bucketsAtFirst(len(t.buckets))-1), uint32(len(t.records))
		t.control.layout = Layout
	}
	switch c := t.control; {
	case c.layout != Layout:
		return fmt.Errorf("flow table of layout %d, this program reads %d", c.layout, Layout)
	case len(t.news) != (len(t.records)+newsOfWord-1)/newsOfWord:
		return fmt.Errorf("flow table of %d records has %d words of news", len(t.records), len(t.news))
	case c.bucketMask&(c.bucketMask+1) != 0 || int(c.bucketMask) >= len(t.buckets) || c.records != uint32(len(t.records)):
		return fmt.Errorf("flow table of %d records and %d buckets says that it has %d, and uses %d",
			len(t.records), len(t.buckets), c.records, uint64(c.bucketMask)+1)
	}
	return nil
}

// hasAnswered loads what hooks write beside the MTU, with the word that both are in, which is aligned.
func (w *way) hasAnswered() uint16 {
	return uint16(atomic.LoadUint32((*uint32)(unsafe.Pointer(&w.mtu))) >> 16)
}

// Fetch has the CPU fetch a record that is going to be read.
func (t *Table) Fetch(ref Ref) {
	if n := ref.number(); n != 0 && int(n) <= len(t.records) {
		r := &t.records[n-1]
		cacheline.Fetch(unsafe.Pointer(r))
		cacheline.Fetch(unsafe.Pointer(&r.way[0]))
		cacheline.Fetch(unsafe.Pointer(&r.way[1]))
		cacheline.Fetch(unsafe.Pointer(&t.stamps[n-1]))
	}
}
