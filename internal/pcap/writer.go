// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

const (
	optionEnd     = 0
	optionComment = 1
	optionName    = 2 // if_name of an interface, shb_hardware of a section
	optionApp     = 4 // shb_userappl

	linkTypeEthernet = 1
	nanoseconds      = 9 // if_tsresol: 10^-9 s

	maxOption = 0xfffc
)

// Writer writes a pcapng file of one little-endian section with nanosecond times. gopacket's writer has no comments
// on packets, so these are its own four blocks.
type Writer struct {
	w          io.Writer
	buf        []byte
	interfaces int
}

// NewWriter writes the section header. application names the program that writes, for readers to show.
func NewWriter(w io.Writer, application string) (*Writer, error) {
	ng := &Writer{w: w}
	ng.begin(blockSection)
	ng.u32(byteOrderMagic)
	ng.u32(1) // version 1.0: major, then minor, 16 bits each
	ng.u32(^uint32(0))
	ng.u32(^uint32(0)) // section length, 64 bits: not given
	ng.option(optionApp, application)
	return ng, ng.end()
}

// AddInterface adds an Ethernet interface and returns its number, for Packet.Interface. Packets may follow of any
// interface added before them.
func (w *Writer) AddInterface(name string) (int, error) {
	w.begin(blockInterface)
	w.u16(linkTypeEthernet)
	w.u16(0)
	w.u32(0) // snap length: none
	w.option(optionName, name)
	w.option(optionResolution, string([]byte{nanoseconds}))
	if err := w.end(); err != nil {
		return 0, err
	}
	w.interfaces++
	return w.interfaces - 1, nil
}

// Write writes p (its Index is not stored) with a comment, none where it is empty. Comments are UTF-8 of up to
// 65532 bytes; longer ones are cut at a rune.
func (w *Writer) Write(p *Packet, comment string) error {
	if p.Interface < 0 || p.Interface >= w.interfaces {
		return fmt.Errorf("packet of interface %d, but there are %d", p.Interface, w.interfaces)
	}
	if len(p.Data) > MaxPacket {
		return fmt.Errorf("packet of %d bytes is over %d", len(p.Data), MaxPacket)
	}
	var t uint64
	if p.Time.After(time.Unix(0, 0)) {
		t = uint64(p.Time.UnixNano())
	}
	w.begin(blockEnhanced)
	w.u32(uint32(p.Interface))
	w.u32(uint32(t >> 32))
	w.u32(uint32(t))
	w.u32(uint32(len(p.Data)))
	w.u32(uint32(max(p.OriginalLen, len(p.Data))))
	w.padded(string(p.Data))
	w.option(optionComment, comment)
	return w.end()
}

// begin starts a block; end fills its lengths in and writes it with one call.
func (w *Writer) begin(blockType uint32) {
	w.buf = w.buf[:0]
	w.u32(blockType)
	w.u32(0)
}

func (w *Writer) end() error {
	w.u32(optionEnd)
	length := uint32(len(w.buf) + 4)
	w.u32(length)
	binary.LittleEndian.PutUint32(w.buf[4:], length)
	n, err := w.w.Write(w.buf)
	if err == nil && n < len(w.buf) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write pcapng block: %w", err)
	}
	return nil
}

func (w *Writer) option(code uint16, value string) {
	if value == "" {
		return
	}
	value = cut(value, maxOption)
	w.u16(code)
	w.u16(uint16(len(value)))
	w.padded(value)
}

// cut shortens s to at most n bytes without breaking a rune.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func (w *Writer) padded(s string) {
	w.buf = append(w.buf, s...)
	w.buf = append(w.buf, make([]byte, -len(s)&3)...)
}

func (w *Writer) u16(v uint16) { w.buf = binary.LittleEndian.AppendUint16(w.buf, v) }

func (w *Writer) u32(v uint32) { w.buf = binary.LittleEndian.AppendUint32(w.buf, v) }
