// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// PairOpening is a TCP connection that was opened by a pair of the flow table. The kernel remembers as many of them as
// it has room for, those that were opened last, and forgets those that end.
type PairOpening struct {
	Src, Dst         netip.Addr // as the opener sends; of one family, IPv4 not mapped
	SrcPort, DstPort uint16
	Port             uint32 // PortID by which the opener's packets come
	Used             uint32 // when it was opened, in 2^24 ns of CLOCK_MONOTONIC
}

// openingsOfBatch is how many are read by one system call; more than any bucket of the kernel's hash has.
const openingsOfBatch = 4096

// flowKeySize is that of struct flow_key, openingSize that of struct opening.
const (
	flowKeySize = 44
	openingSize = 8
)

type (
	openingKey   [flowKeySize]byte
	openingValue [openingSize]byte
)

// PairOpenings returns those that the kernel remembers, in no order. Of those that come and go meanwhile it may return
// some.
func (f *FlowTable) PairOpenings() ([]PairOpening, error) {
	var list []PairOpening
	var cursor ebpf.MapBatchCursor
	keys, values := make([]openingKey, openingsOfBatch), make([]openingValue, openingsOfBatch)
	for {
		n, err := f.maps["pair_openings"].BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			list = append(list, openingOf(&keys[i], &values[i]))
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return list, nil
		case err != nil:
			return list, fmt.Errorf("read openings of pairs: %w", err)
		}
	}
}

// NotePairOpenings has the kernel remember connections as if they had been opened by a pair.
func (f *FlowTable) NotePairOpenings(list []PairOpening) error {
	keys, values := make([]openingKey, len(list)), make([]openingValue, len(list))
	for i := range list {
		keys[i] = keyOfOpening(&list[i])
		binary.NativeEndian.PutUint32(values[i][:], list[i].Used)
	}
	if len(list) == 0 {
		return nil
	}
	if _, err := f.maps["pair_openings"].BatchUpdate(keys, values, nil); err != nil {
		return fmt.Errorf("note openings of pairs: %w", err)
	}
	return nil
}

// ForgetPairOpenings has the kernel forget connections. Those that it has forgotten already are no error.
func (f *FlowTable) ForgetPairOpenings(list []PairOpening) error {
	keys := make([]openingKey, len(list))
	for i := range list {
		keys[i] = keyOfOpening(&list[i])
	}
	for len(keys) > 0 {
		n, err := f.maps["pair_openings"].BatchDelete(keys, nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			n++ // the one that is not there
		} else if err != nil {
			return fmt.Errorf("forget openings of pairs: %w", err)
		}
		keys = keys[min(n, len(keys)):]
	}
	return nil
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
