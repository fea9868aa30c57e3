// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// What answers a segment of no connection, by RFC 9293 3.10.7.1.
func TestBuildReset(t *testing.T) {
	const seq, ack = 0xfffffff0, 0x12345678
	for _, row := range []struct {
		name             string
		flags            byte
		payload          int
		wantSeq, wantAck uint32
		want             byte // 0: no answer
	}{
		{"SYN", tcpSYN, 0, 0, 0xfffffff1, tcpRST | tcpACK},
		{"SYN with data", tcpSYN, 0x20, 0, 0x11, tcpRST | tcpACK},
		{"FIN without ACK", tcpFIN, 1, 0, 0xfffffff2, tcpRST | tcpACK},
		{"ACK", tcpACK, 0, ack, 0, tcpRST},
		{"SYN-ACK", tcpSYN | tcpACK, 0, ack, 0, tcpRST},
		{"data", tcpACK | tcpPSH, 100, ack, 0, tcpRST},
		{"RST", tcpRST, 0, 0, 0, 0},
		{"RST-ACK", tcpRST | tcpACK, 0, 0, 0, 0},
	} {
		for _, v6 := range []bool{false, true} {
			for _, frame := range [][]byte{
				eth(v6, ip(v6, ProtoTCP, segmentOf(v6, seq, ack, row.flags, row.payload))),
				optioned(v6, segmentOf(v6, seq, ack, row.flags, row.payload)),
			} {
				p := parsed(t, frame)
				was, before := *p, bytes.Clone(p.Frame)
				if is := p.BuildReset(); is != (row.want != 0) {
					t.Fatalf("%s: built: %v", row.name, is)
				} else if !is {
					if !bytes.Equal(p.Frame, before) || p.Ends() != was.Ends() {
						t.Errorf("%s: has changed", row.name)
					}
					continue
				}
				p.SetEthernet(macA, macB, VLANs{})
				again := *p
				if r := again.Parse(); r != verdict.None || !same(p, &again) {
					t.Fatalf("%s: %v\n%+v\n%+v", row.name, r, fields(p), fields(&again))
				}
				checkWire(t, &again)
				h := p.Frame[p.L4:p.End]
				if p.Ends() != was.Ends().Reverse() || p.TTL != 64 || len(h) != tcpLen || h[13] != row.want ||
					binary.BigEndian.Uint32(h[4:]) != row.wantSeq || binary.BigEndian.Uint32(h[8:]) != row.wantAck {
					t.Errorf("%s: % x", row.name, h)
				}
				if !bytes.Equal(before[was.End:], p.Frame[was.End:]) {
					t.Errorf("%s: wrote behind the packet", row.name)
				}
			}
		}
	}
}

func segmentOf(v6 bool, seq, ack uint32, flags byte, payload int) []byte {
	b := tcp(v6, payload)
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[13] = flags
	src, dst := ends(v6)
	return sealed(b, 16, src, dst, ProtoTCP)
}

// optioned has options, or extension headers, in front of the segment.
func optioned(v6 bool, segment []byte) []byte {
	if v6 {
		return eth6(extended(ProtoTCP, segment))
	}
	return eth4(ip4(ProtoTCP, 0, []byte{1, 1, 1, 0}, segment))
}

func TestNoResetOf(t *testing.T) {
	for name, frame := range map[string][]byte{
		"UDP":            eth4(ip(false, ProtoUDP, udp(false, 40))),
		"first fragment": eth4(ip4(ProtoTCP, 0x2000, nil, tcp(false, 28))),
		"later fragment": eth4(ip4(ProtoTCP, 0x2010, nil, filled(32))),
	} {
		if p := parsed(t, frame); p.MayBeReset() || p.BuildReset() {
			t.Errorf("%s is answered by a RST", name)
		}
	}
}
