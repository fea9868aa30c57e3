// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

// A CRC is linear: what one bit of a message adds to it depends on how far that bit is from the end, and on nothing
// else. So that of a message whose first bytes change is found from the change and the length, without the message; in
// frames that are not at hand it may lie. A byte that is n bytes from the end counts times x^8n modulo the polynomial.

// crcPolynomial is CRC32c's, bits reversed: the highest bit is the coefficient of x^0 (RFC 9260 appendix A).
const crcPolynomial = 0x82f63b78

// crcPowers are x^8, x^16, x^32 and so on: those of a number of bytes by its binary digits.
var crcPowers = func() (powers [16]uint32) {
	powers[0] = 1 << (31 - 8)
	for i := range powers[1:] {
		powers[i+1] = crcTimes(powers[i], powers[i])
	}
	return powers
}()

// crcTimes multiplies two polynomials modulo CRC32c's.
func crcTimes(a, b uint32) (product uint32) {
	for ; a != 0; a <<= 1 {
		product ^= b & -(a >> 31)
		b = b>>1 ^ crcPolynomial&-(b&1)
	}
	return product
}

// adjustSCTP brings the CRC32c of the SCTP packet whose header is in b up to date with other ports, which are not yet
// written. The addresses are none of its business.
func (p *Packet) adjustSCTP(b []byte, to *Ends) {
	was := binary.BigEndian.Uint32(b)
	is := uint32(to.SrcPort)<<16 | uint32(to.DstPort)
	var changed [4]byte
	binary.BigEndian.PutUint32(changed[:], was^is)
	crc := uint32(0)
	for _, c := range changed {
		crc = castagnoli[byte(crc)^c] ^ crc>>8
	}
	n := p.l4Len() - len(changed)
	for i := 0; n != 0; i, n = i+1, n>>1 {
		if n&1 != 0 {
			crc = crcTimes(crc, crcPowers[i])
		}
	}
	field := b[8:12]
	binary.LittleEndian.PutUint32(field, binary.LittleEndian.Uint32(field)^crc)
}
