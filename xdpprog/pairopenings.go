// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// PairOpening is a TCP connection that was opened by a pair of the flow table. The kernel remembers those that were
// opened last, 1024 of each port, and forgets those that end. Ports whose numbers are equal modulo 128 share the room.
type PairOpening struct {
	Src, Dst         netip.Addr // as the opener sends; of one family, IPv4 not mapped
	SrcPort, DstPort uint16
	Port             uint32 // PortID by which the opener's packets come
	Used             uint32 // when it was opened, in 2^24 ns of CLOCK_MONOTONIC
}

// openingsOfBatch is how many are read by one system call; more than any bucket of the kernel's hash has.
const openingsOfBatch = 2 * maxOpenings

// flowKeySize is that of struct flow_key, openingSize that of struct opening.
const (
	flowKeySize = 44
	openingSize = 8
)

// openers is OPENERS of bpf/flow_table.h, maxOpenings its OPENINGS.
const (
	openers     = 128
	maxOpenings = 1024
)

type (
	openingKey   [flowKeySize]byte
	openingValue [openingSize]byte
)

// makeOpenings makes a map for each place of the array. They are put there in one call: the kernel waits for programs
// at the end of each.
func (f *FlowTable) makeOpenings(inner *ebpf.MapSpec) error {
	places, fds := make([]uint32, openers), make([]uint32, openers)
	for i := range places {
		m, err := ebpf.NewMap(inner)
		if err != nil {
			return fmt.Errorf("make openings of pairs, %d: %w", i, err)
		}
		f.openings = append(f.openings, m)
		places[i], fds[i] = uint32(i), uint32(m.FD())
	}
	if _, err := f.maps["pair_openings"].BatchUpdate(places, fds, nil); err != nil {
		return fmt.Errorf("make openings of pairs: %w", explainLoad(err))
	}
	return nil
}

// openOpenings finds the maps that are in the array.
func (f *FlowTable) openOpenings() error {
	for i := range uint32(openers) {
		var m *ebpf.Map
		if err := f.maps["pair_openings"].Lookup(i, &m); err != nil {
			return fmt.Errorf("open openings of pairs, %d: %w", i, err)
		}
		f.openings = append(f.openings, m)
	}
	return nil
}

// PairOpenings returns those that the kernel remembers, in no order. Of those that come and go meanwhile it may return
// some.
func (f *FlowTable) PairOpenings() ([]PairOpening, error) {
	var list []PairOpening
	keys, values := make([]openingKey, openingsOfBatch), make([]openingValue, openingsOfBatch)
	for _, m := range f.openings {
		var cursor ebpf.MapBatchCursor
		for more := true; more; {
			n, err := m.BatchLookup(&cursor, keys, values, nil)
			for i := range n {
				list = append(list, openingOf(&keys[i], &values[i]))
			}
			if more = err == nil; !more && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return list, fmt.Errorf("read openings of pairs: %w", err)
			}
		}
	}
	return list, nil
}

// NotePairOpenings has the kernel remember connections as if they had been opened by a pair.
func (f *FlowTable) NotePairOpenings(list []PairOpening) error {
	var values [openers][]openingValue
	for i := range list {
		v := openingValue{}
		binary.NativeEndian.PutUint32(v[:], list[i].Used)
		of := list[i].Port % openers
		values[of] = append(values[of], v)
	}
	for of, keys := range keysOf(list) {
		if len(keys) == 0 {
			continue
		}
		if _, err := f.openings[of].BatchUpdate(keys, values[of], nil); err != nil {
			return fmt.Errorf("note openings of pairs: %w", err)
		}
	}
	return nil
}

// ForgetPairOpenings has the kernel forget connections. Those that it has forgotten already are no error.
func (f *FlowTable) ForgetPairOpenings(list []PairOpening) error {
	for of, keys := range keysOf(list) {
		for len(keys) > 0 {
			n, err := f.openings[of].BatchDelete(keys, nil)
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				n++ // the one that is not there
			} else if err != nil {
				return fmt.Errorf("forget openings of pairs: %w", err)
			}
			keys = keys[min(n, len(keys)):]
		}
	}
	return nil
}

// keysOf are the keys of openings by the place of their opener, in order.
func keysOf(list []PairOpening) (keys [openers][]openingKey) {
	for i := range list {
		of := list[i].Port % openers
		keys[of] = append(keys[of], keyOfOpening(&list[i]))
	}
	return keys
}

func openingOf(k *openingKey, v *openingValue) PairOpening {
	address := func(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)).Unmap() }
	return PairOpening{
		Src: address(k[0:16]), Dst: address(k[16:32]),
		SrcPort: binary.BigEndian.Uint16(k[32:]), DstPort: binary.BigEndian.Uint16(k[34:]),
		Port: binary.NativeEndian.Uint32(k[36:]), Used: binary.NativeEndian.Uint32(v[:]),
	}
}

func keyOfOpening(o *PairOpening) (k openingKey) {
	const tcp = 6
	src, dst := o.Src.As16(), o.Dst.As16()
	copy(k[0:], src[:])
	copy(k[16:], dst[:])
	binary.BigEndian.PutUint16(k[32:], o.SrcPort)
	binary.BigEndian.PutUint16(k[34:], o.DstPort)
	binary.NativeEndian.PutUint32(k[36:], o.Port)
	k[40] = tcp
	return k
}
