// SPDX-License-Identifier: Apache-2.0

// Package pcap reads captures (pcap and pcapng, told apart by their first bytes) and writes pcapng with a comment on
// each packet. It is the only package that knows gopacket.
//
// gopacket trusts the lengths in a file: it allocates what a packet header claims and runs past the end of a block
// whose options lie. So a guard stands in front of it (guard.go) that reads whole records or blocks, checks every
// length against what is there, and hands on only what is sound. What still panics becomes an error.
package pcap

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// MaxPacket is the largest number of captured bytes that a packet of a file may have: MAXIMUM_SNAPLEN of libpcap.
const MaxPacket = 262144

// ErrTorn says that the file ends inside a record or block.
var ErrTorn = errors.New("the file ends inside a packet")

// LinkTypeError says that a file holds packets of another link type than Ethernet.
type LinkTypeError struct {
	LinkType int // LINKTYPE_ number as registered at tcpdump.org
}

func (e *LinkTypeError) Error() string {
	return fmt.Sprintf("link type %d (%s) is not Ethernet", e.LinkType, layers.LinkType(e.LinkType))
}

// PacketError says at which packet of a file reading ended.
type PacketError struct {
	Index int // of the packet that could not be read, from 0
	Err   error
}

func (e *PacketError) Error() string { return fmt.Sprintf("packet %d: %v", e.Index, e.Err) }

func (e *PacketError) Unwrap() error { return e.Err }

// Packet is one captured packet.
type Packet struct {
	Index       int       // position in the file, from 0
	Time        time.Time // of capture, UTC; the zero time where the file gives none
	Data        []byte    // bytes captured, from the Ethernet header on; the caller's to keep
	OriginalLen int       // bytes the packet had on the wire; at least len(Data)
	Interface   int       // number of the interface in its pcapng section; 0 in pcap
}

// Truncated tells whether the capture kept less than the packet had (its snap length).
func (p *Packet) Truncated() bool { return len(p.Data) < p.OriginalLen }

// source is what gopacket's two readers have in common.
type source interface {
	ReadPacketData() ([]byte, gopacket.CaptureInfo, error)
}

// Reader reads the packets of one capture, in order.
type Reader struct {
	source source
	next   int
	err    error
}

// NewReader reads the header of a capture. It returns a *LinkTypeError for a pcap file of another link type; in
// pcapng, where each packet may have its own, Next does.
func NewReader(r io.Reader) (_ *Reader, err error) {
	defer recovered(&err)
	br := bufio.NewReader(r)
	magic, err := br.Peek(4)
	if err != nil {
		return nil, errors.New("not a capture: shorter than its magic number")
	}
	if [4]byte(magic) == sectionMagic {
		return newNgReader(br)
	}
	g, err := newPcapGuard(br, [4]byte(magic))
	if err != nil {
		return nil, err
	}
	source, err := pcapgo.NewReader(g)
	if err != nil {
		return nil, fmt.Errorf("pcap header: %w", err)
	}
	if t := source.LinkType(); t != layers.LinkTypeEthernet {
		return nil, &LinkTypeError{LinkType: int(t)}
	}
	return &Reader{source: source}, nil
}

func newNgReader(br *bufio.Reader) (*Reader, error) {
	options := pcapgo.NgReaderOptions{WantMixedLinkType: true}
	source, err := pcapgo.NewNgReader(newNgGuard(br), options)
	if err != nil {
		return nil, fmt.Errorf("pcapng section header: %w", err)
	}
	return &Reader{source: source}, nil
}

// Next returns the next packet. At the end it returns io.EOF; for a file that is torn or malformed, a *PacketError
// that wraps ErrTorn, a *LinkTypeError or what was wrong. Every further call returns the same error.
func (r *Reader) Next() (*Packet, error) {
	if r.err != nil {
		return nil, r.err
	}
	p, err := r.read()
	switch {
	case errors.Is(err, io.EOF):
		r.err = io.EOF
	case err != nil:
		r.err = &PacketError{Index: r.next, Err: err}
	default:
		r.next++
		return p, nil
	}
	return nil, r.err
}

// All yields the packets that remain. The last pair has the error, where reading ended by one other than io.EOF.
func (r *Reader) All() iter.Seq2[*Packet, error] {
	return func(yield func(*Packet, error) bool) {
		for {
			p, err := r.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

func (r *Reader) read() (_ *Packet, err error) {
	defer recovered(&err)
	data, ci, err := r.source.ReadPacketData()
	if err != nil {
		return nil, err
	}
	if len(ci.AncillaryData) > 0 {
		if t, ok := ci.AncillaryData[0].(layers.LinkType); ok && t != layers.LinkTypeEthernet {
			return nil, &LinkTypeError{LinkType: int(t)}
		}
	}
	return &Packet{
		Index:       r.next,
		Time:        ci.Timestamp,
		Data:        data,
		OriginalLen: max(ci.Length, len(data)),
		Interface:   ci.InterfaceIndex,
	}, nil
}

func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("malformed file: %v", p)
	}
}
