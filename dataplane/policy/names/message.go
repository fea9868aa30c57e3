// SPDX-License-Identifier: Apache-2.0

package names

import (
	"encoding/binary"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// reader reads a DNS message in place (RFC 1035 4.1). Once it failed, all that it reads is zero.
type reader struct {
	message []byte
	at      int
	failed  bool
}

const headerSize = 12

// Bits and values of the header (RFC 1035 4.1.1) and of records (3.2.2, 3.2.4; RFC 3596 2.1).
const (
	flagResponse = 0x8000
	maskOpcode   = 0x7800
	maskRcode    = 0x000f

	typeA     = 1
	typeCNAME = 5
	typeAAAA  = 28
	classIN   = 1
)

func (r *reader) take(n int) []byte {
	if r.failed || n > len(r.message)-r.at {
		r.failed = true
		return nil
	}
	b := r.message[r.at : r.at+n]
	r.at += n
	return b
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// name is a domain name as text: ASCII in lower case, other bytes as they are, without the last dot.
type name struct {
	n    int
	text [maxName + 2]byte
}

func (n *name) bytes() []byte { return n.text[:n.n] }

func (n *name) equal(o *name) bool { return string(n.bytes()) == string(o.bytes()) }

// add appends a label, and says whether it can be text: there is room for it, and no dot in it.
func (n *name) add(label []byte) bool {
	if n.n > 0 {
		n.text[n.n] = '.'
		n.n++
	}
	if n.n+len(label) > maxName {
		return false
	}
	for _, c := range label {
		switch {
		case c == '.':
			return false
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		}
		n.text[n.n] = c
		n.n++
	}
	return true
}

// name reads a name. A pointer leads to what is before everything that was read of the name so far (RFC 1035 4.1.4: "a
// prior occurrence"), so that it comes to an end.
func (r *reader) name(n *name) {
	n.n = 0
	at, least, back := r.at, r.at, -1 // where to read, what a pointer must be below, where to go on
	for !r.failed && at < len(r.message) {
		switch size := int(r.message[at]); {
		case size == 0:
			if r.at = back; back < 0 {
				r.at = at + 1
			}
			return
		case size <= maxLabel:
			if at+1+size > len(r.message) || !n.add(r.message[at+1:at+1+size]) {
				r.failed = true
				return
			}
			at += 1 + size
		case size >= 0xc0 && at+1 < len(r.message):
			to := size&0x3f<<8 | int(r.message[at+1])
			if back < 0 {
				back = at + 2
			}
			if to >= least || to < headerSize {
				r.failed = true
				return
			}
			at, least = to, to
		default: // 01 and 10 are no labels (RFC 6891 5)
			r.failed = true
			return
		}
	}
	r.failed = true
}

// address reads the address of a record.
func (r *reader) address(kind uint16, size int) (a packet.Addr, ok bool) {
	b := r.take(size)
	switch {
	case b == nil:
	case kind == typeA && size == 4:
		return packet.Addr4(binary.BigEndian.Uint32(b)), true
	case kind == typeAAAA && size == 16:
		a = packet.Addr{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:])}
		return a, !a.Is4() // the same address by another name is not what was asked for
	}
	return a, false
}
