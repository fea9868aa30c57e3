// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"net/netip"
	"slices"
)

// address finds the addresses of e, which comes where before is; before may be nil. Nothing is leased yet.
func (b *book) address(e, before *entry) error {
	for _, address := range e.asked {
		if err := b.mayHave(e, before, address); err != nil {
			return err
		}
	}
	if e.Delegated {
		e.Addresses = slices.Clone(e.asked)
		return nil
	}
	if len(b.pools) == 0 && len(e.asked) == 0 {
		return ErrNoPools
	}
	e.Addresses = nil
	for _, is4 := range []bool{true, false} {
		addresses, err := b.ofFamily(is4, e, before)
		if err != nil {
			return err
		}
		for _, address := range addresses {
			e.Addresses, e.pools = append(e.Addresses, address), append(e.pools, b.poolOf(address, before))
		}
	}
	return nil
}

// mayHave says why e may not have an address that it asks for. One that it has, by before, it may keep.
func (b *book) mayHave(e, before *entry, address netip.Addr) error {
	holder := b.held[address]
	switch {
	case holder != nil && holder == before && before.Delegated == e.Delegated:
		return nil
	case !address.IsValid() || address.Zone() != "", !e.Delegated && b.owner(address) == nil:
		return &OutsideError{Address: address}
	case holder != nil && holder != before:
		return &TakenError{Address: address, By: holder.Key}
	}
	return nil
}

// ofFamily returns what e is to have of a family: what it asks for, or what it has and may be leased, or one address
// if there are pools.
func (b *book) ofFamily(is4 bool, e, before *entry) ([]netip.Addr, error) {
	other := func(address netip.Addr) bool { return address.Is4() != is4 }
	if asked := slices.DeleteFunc(slices.Clone(e.asked), other); len(asked) > 0 {
		return asked, nil
	}
	if !slices.ContainsFunc(b.prefixes, func(p netip.Prefix) bool { return p.Addr().Is4() == is4 }) {
		return nil, nil
	}
	if before != nil {
		for _, address := range before.Addresses {
			if !other(address) && b.owner(address) != nil {
				return []netip.Addr{address}, nil
			}
		}
	}
	address, err := b.free(is4)
	return []netip.Addr{address}, err
}

// poolOf returns the prefix of the pool that leases an address, or has leased it before.
func (b *book) poolOf(address netip.Addr, before *entry) netip.Prefix {
	if p := b.owner(address); p != nil {
		return p.prefix
	}
	return before.pools[slices.Index(before.Addresses, address)]
}

// inOrder returns addresses each once, IPv4 first.
func inOrder(addresses []netip.Addr) []netip.Addr {
	var ordered []netip.Addr
	for _, is4 := range []bool{true, false} {
		for _, address := range addresses {
			address = address.Unmap()
			if address.Is4() == is4 && !slices.Contains(ordered, address) {
				ordered = append(ordered, address)
			}
		}
	}
	return ordered
}
