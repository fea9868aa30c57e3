// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// addressKey is struct address_key of bpf/shared.h.
type addressKey struct {
	PrefixLen uint32 // 32 and the prefix's bits
	Family    uint32 // 4 or 6
	Address   [16]byte
}

func keyOf(prefix netip.Prefix) addressKey {
	prefix = prefix.Masked()
	k := addressKey{PrefixLen: 32 + uint32(prefix.Bits()), Family: 6}
	if prefix.Addr().Is4() {
		k.Family = 4
	}
	copy(k.Address[:], prefix.Addr().AsSlice())
	return k
}

// SetAddresses makes these the addresses whose packets, ARP and neighbour discovery a shared port takes. Only what
// differs is written, additions first, so that an address in both sets is never missing. At most 65536 prefixes.
// An error may leave some of the changes made; the call can be repeated. ErrNotShared for an owned port.
func (p *Port) SetAddresses(prefixes []netip.Prefix) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.maps["addresses"]
	if m == nil {
		return fmt.Errorf("set addresses: %w", ErrNotShared)
	}
	if err := setPrefixes(m, prefixes); err != nil {
		return fmt.Errorf("set addresses: %w", err)
	}
	return nil
}

// setPrefixes brings a trie to hold these prefixes.
func setPrefixes(m *ebpf.Map, prefixes []netip.Prefix) error {
	want := make(map[addressKey]netip.Prefix, len(prefixes))
	for _, prefix := range prefixes {
		if !prefix.IsValid() || prefix.Addr().Is4In6() {
			return fmt.Errorf("%q is no IPv4 or IPv6 prefix", prefix)
		}
		want[keyOf(prefix)] = prefix
	}
	stale, err := reconcile(m, want)
	if err != nil {
		return err
	}
	for key, prefix := range want {
		if err := m.Put(key, uint8(1)); err != nil {
			return fmt.Errorf("add address %s: %w", prefix, err)
		}
	}
	for _, key := range stale {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove address %v: %w", key, err)
		}
	}
	return nil
}

// reconcile takes out of want what the map has, and returns what the map has beyond it.
func reconcile(m *ebpf.Map, want map[addressKey]netip.Prefix) ([]addressKey, error) {
	var stale []addressKey
	var key addressKey
	var value uint8
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		if _, ok := want[key]; ok {
			delete(want, key)
		} else {
			stale = append(stale, key)
		}
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	return stale, nil
}
