// SPDX-License-Identifier: Apache-2.0

package packet

// On the trunk the port of a packet is in a MAC address: 02:76:64 and 24 bits of PortID, big endian. The hook at the
// port writes it into the source towards userspace; userspace writes it into the destination, for the hook at the trunk
// to put the station's own there (xdpprog/bpf/trunk.h). A packet does not grow by it, so that what segments it in the
// kernel need not know.
var trunkPrefix = [3]byte{0x02, 0x76, 0x64}

// GatewayMAC is the address under which stations behind the trunk know their router: that of no port.
var GatewayMAC = TrunkMAC(0)

// TrunkMAC is the address of a port's station on the trunk.
func TrunkMAC(id PortID) MAC {
	return MAC{trunkPrefix[0], trunkPrefix[1], trunkPrefix[2], byte(id >> 16), byte(id >> 8), byte(id)}
}

// TrunkPort is the port that a MAC address on the trunk names, 0 for none.
func TrunkPort(m MAC) PortID {
	if [3]byte(m[:3]) != trunkPrefix {
		return 0
	}
	return PortID(m[3])<<16 | PortID(m[4])<<8 | PortID(m[5])
}
