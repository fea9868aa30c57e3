// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// guard is an io.Reader over whole units of a file, each checked before any byte of it is handed on.
type guard struct {
	next func() ([]byte, error)
	rest []byte
	err  error
}

func (g *guard) Read(p []byte) (int, error) {
	for len(g.rest) == 0 {
		if g.err != nil {
			return 0, g.err
		}
		g.rest, g.err = g.next()
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// appendN appends n bytes of r to b, ErrTorn where there are fewer. It grows with what is really there.
func appendN(b []byte, r io.Reader, n int) ([]byte, error) {
	const step = 64 << 10
	for n > 0 {
		chunk := min(n, step)
		start := len(b)
		b = append(b, make([]byte, chunk)...)
		if _, err := io.ReadFull(r, b[start:]); err != nil {
			return nil, torn(err)
		}
		n -= chunk
	}
	return b, nil
}

func torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTorn
	}
	return fmt.Errorf("read: %w", err)
}

// pcap: draft-ietf-opsawg-pcap, section 4 and 5.
const (
	pcapHeaderLen       = 24
	pcapRecordHeaderLen = 16
)

// newPcapGuard reads the file header. The snap length is given to gopacket as unlimited and original lengths as at
// least the captured ones: real files lie in both, and libpcap reads them.
func newPcapGuard(r *bufio.Reader, magic [4]byte) (io.Reader, error) {
	var order binary.ByteOrder
	switch magic {
	case [4]byte{0xd4, 0xc3, 0xb2, 0xa1}, [4]byte{0x4d, 0x3c, 0xb2, 0xa1}:
		order = binary.LittleEndian
	case [4]byte{0xa1, 0xb2, 0xc3, 0xd4}, [4]byte{0xa1, 0xb2, 0x3c, 0x4d}:
		order = binary.BigEndian
	default:
		return nil, fmt.Errorf("neither pcap nor pcapng: the file starts with %#x", magic)
	}
	header, err := appendN(nil, r, pcapHeaderLen)
	if err != nil {
		return nil, fmt.Errorf("pcap header: %w", err)
	}
	order.PutUint32(header[16:], 1<<31-1)
	return &guard{rest: header, next: func() ([]byte, error) { return pcapRecord(r, order) }}, nil
}

func pcapRecord(r *bufio.Reader, order binary.ByteOrder) ([]byte, error) {
	if _, err := r.Peek(1); err == io.EOF {
		return nil, io.EOF
	}
	record, err := appendN(nil, r, pcapRecordHeaderLen)
	if err != nil {
		return nil, err
	}
	captured, original := order.Uint32(record[8:]), order.Uint32(record[12:])
	if captured > MaxPacket {
		return nil, fmt.Errorf("captured length %d is over %d", captured, MaxPacket)
	}
	order.PutUint32(record[12:], max(captured, original))
	return appendN(record, r, int(captured))
}

// pcapng: draft-ietf-opsawg-pcapng, section 4.
const (
	blockSection    = 0x0a0d0d0a
	blockInterface  = 1
	blockPacket     = 2 // obsolete
	blockSimple     = 3
	blockStatistics = 5
	blockEnhanced   = 6

	byteOrderMagic = 0x1a2b3c4d
	maxBlock       = 16 << 20 // as Wireshark: nothing that a packet needs is near it

	optionFilter     = 11
	optionResolution = 9
	optionOffset     = 14
)

var sectionMagic = [4]byte{0x0a, 0x0d, 0x0d, 0x0a} // the same in either byte order

// ngGuard follows the blocks of a pcapng file.
type ngGuard struct {
	r     *bufio.Reader
	order binary.ByteOrder

	interfaces int    // in this section
	snap       uint32 // of the section's first interface, which Simple Packet Blocks belong to
}

func newNgGuard(r *bufio.Reader) io.Reader {
	g := &ngGuard{r: r, order: binary.LittleEndian}
	return &guard{next: g.block}
}

// block reads one whole block and checks its lengths.
func (g *ngGuard) block() ([]byte, error) {
	head, err := g.r.Peek(12)
	if errors.Is(err, io.EOF) && len(head) == 0 {
		return nil, io.EOF
	}
	if err != nil {
		return nil, torn(err)
	}
	if [4]byte(head) == sectionMagic {
		if err := g.section(head[8:]); err != nil {
			return nil, err
		}
	}
	length := g.order.Uint32(head[4:])
	if length < 12 || length > maxBlock || length%4 != 0 {
		return nil, fmt.Errorf("block length %d is not a multiple of 4 from 12 to %d", length, maxBlock)
	}
	b, err := appendN(nil, g.r, int(length))
	if err != nil {
		return nil, err
	}
	if again := g.order.Uint32(b[length-4:]); again != length {
		return nil, fmt.Errorf("block of length %d ends with length %d", length, again)
	}
	if err := g.check(g.order.Uint32(b), b[8:length-4]); err != nil {
		return nil, err
	}
	return b, nil
}

func (g *ngGuard) section(magic []byte) error {
	switch uint32(byteOrderMagic) {
	case binary.LittleEndian.Uint32(magic):
		g.order = binary.LittleEndian
	case binary.BigEndian.Uint32(magic):
		g.order = binary.BigEndian
	default:
		return fmt.Errorf("byte order magic %#x of a section header is unknown", magic)
	}
	g.interfaces, g.snap = 0, 0
	return nil
}

// fixed is the length of the part of a block's body that every block of its type has.
var fixed = map[uint32]int{
	blockSection: 16, blockInterface: 8, blockPacket: 20, blockSimple: 4, blockStatistics: 12, blockEnhanced: 20,
}

// check looks into the blocks that gopacket reads; body is without the two lengths and the type.
func (g *ngGuard) check(blockType uint32, body []byte) error {
	n := fixed[blockType]
	if len(body) < n {
		return fmt.Errorf("block of type %d is too short", blockType)
	}
	switch blockType {
	case blockSection, blockStatistics:
		return g.options(body[n:], false)
	case blockInterface:
		if g.interfaces == 0 {
			g.snap = g.order.Uint32(body[4:])
		}
		g.interfaces++
		return g.options(body[n:], true)
	case blockSimple:
		captured := g.order.Uint32(body)
		if g.snap != 0 {
			captured = min(captured, g.snap)
		}
		return captures(captured, body[n:])
	case blockPacket, blockEnhanced:
		return captures(g.order.Uint32(body[12:]), body[n:])
	}
	return nil
}

func captures(n uint32, data []byte) error {
	if n > MaxPacket {
		return fmt.Errorf("captured length %d is over %d", n, MaxPacket)
	}
	if int(n) > len(data) {
		return fmt.Errorf("captured length %d is more than its block holds", n)
	}
	return nil
}

// options walks a list of options; those of an interface that scale time must be sane, for gopacket divides by them.
func (g *ngGuard) options(b []byte, ofInterface bool) error {
	for len(b) >= 4 {
		code, length := g.order.Uint16(b), int(g.order.Uint16(b[2:]))
		padded := (length + 3) &^ 3
		if code == 0 {
			if length != 0 {
				return errors.New("end of options has a length")
			}
			return nil
		}
		if padded > len(b)-4 || padded > 0xfffc {
			return fmt.Errorf("option %d of length %d is more than its block holds", code, length)
		}
		if ofInterface && !soundInterfaceOption(code, b[4:4+length]) {
			return fmt.Errorf("interface option %d has no possible value", code)
		}
		b = b[4+padded:]
	}
	return nil
}

func soundInterfaceOption(code uint16, value []byte) bool {
	switch code {
	case optionResolution: // a power of 2 with the top bit set, else of 10; 64 bits of time
		return len(value) == 1 && (value[0]&0x80 == 0 && value[0] <= 19 || value[0]&0x80 != 0 && value[0]&0x7f <= 63)
	case optionOffset:
		return len(value) == 8
	case optionFilter:
		return len(value) >= 1
	}
	return true
}
