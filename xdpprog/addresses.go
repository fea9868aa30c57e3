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

// What a shared port takes of what is addressed to a prefix: the trie's values.
const (
	takesAll     uint8 = 1 // packets, ARP and neighbour discovery
	takesPackets uint8 = 2 // packets alone: somebody else answers for the address on the link
)

// SetAddresses makes these the addresses whose packets, ARP and neighbour discovery a shared port takes, and silent
// those whose packets it takes, but for whom somebody else answers on the link. Only what differs is written, additions
// first, so that an address in both sets is never missing. At most 65536 prefixes. An error may leave some of the
// changes made; the call can be repeated. ErrNotShared for an owned port.
func (p *Port) SetAddresses(prefixes []netip.Prefix, silent ...netip.Prefix) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.maps["addresses"]
	if m == nil {
		return fmt.Errorf("set addresses: %w", ErrNotShared)
	}
	values := make(map[netip.Prefix]uint8, len(prefixes)+len(silent))
	for _, prefix := range silent {
		values[prefix] = takesPackets
	}
	for _, prefix := range prefixes {
		values[prefix] = takesAll
	}
	if err := setPrefixes(m, values); err != nil {
		return fmt.Errorf("set addresses: %w", err)
	}
	return nil
}

// prefixValue is an entry of a trie.
type prefixValue struct {
	prefix netip.Prefix
	value  uint8
}

// setPrefixes brings a trie to hold these prefixes. Of several that have the same bits the least value counts.
func setPrefixes(m *ebpf.Map, values map[netip.Prefix]uint8) error {
	want := make(map[addressKey]prefixValue, len(values))
	for prefix, value := range values {
		if !prefix.IsValid() || prefix.Addr().Is4In6() {
			return fmt.Errorf("%q is no IPv4 or IPv6 prefix", prefix)
		}
		key := keyOf(prefix)
		if was, twice := want[key]; !twice || value < was.value {
			want[key] = prefixValue{prefix, value}
		}
	}
	stale, err := reconcile(m, want)
	if err != nil {
		return err
	}
	for key, is := range want {
		if err := m.Put(key, is.value); err != nil {
			return fmt.Errorf("add address %s: %w", is.prefix, err)
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
func reconcile(m *ebpf.Map, want map[addressKey]prefixValue) ([]addressKey, error) {
	var stale []addressKey
	var key addressKey
	var value uint8
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		switch is, ok := want[key]; {
		case !ok:
			stale = append(stale, key)
		case is.value == value:
			delete(want, key)
		}
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	return stale, nil
}
