// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

// PeekDestination guesses the destination address of the untagged packet in b, without checking anything: a hint for
// fetching ahead what Parse will confirm. It is zero when b is no untagged IP packet or too short.
func PeekDestination(b []byte) Addr {
	if len(b) < ethernetLen+ipv4Len {
		return Addr{}
	}
	switch EtherType(binary.BigEndian.Uint16(b[12:])) {
	case EtherTypeIPv4:
		return addr4(b[ethernetLen+16:])
	case EtherTypeIPv6:
		if len(b) >= ethernetLen+ipv6Len {
			return addr16(b[ethernetLen+24:])
		}
	}
	return Addr{}
}
