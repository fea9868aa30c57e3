// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

// pcapFile builds a pcap file, one record for each length in packets: captured, original.
func pcapFile(order binary.AppendByteOrder, magic uint32, linkType uint32, packets ...[2]int) []byte {
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = order.AppendUint32(b, 96)
	b = order.AppendUint32(b, linkType)
	for i, p := range packets {
		b = order.AppendUint32(b, uint32(at.Unix()))
		fraction := at.Nanosecond()
		if magic == 0xa1b2c3d4 {
			fraction /= 1000
		}
		b = order.AppendUint32(b, uint32(fraction))
		b = order.AppendUint32(b, uint32(p[0]))
		b = order.AppendUint32(b, uint32(p[1]))
		b = append(b, bytes.Repeat([]byte{byte(i + 1)}, p[0])...)
	}
	return b
}

func readAll(t *testing.T, file []byte) ([]*Packet, error) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	var packets []*Packet
	for p, err := range r.All() {
		if err != nil {
			return packets, err
		}
		packets = append(packets, p)
	}
	return packets, nil
}

func TestReadPcapVariants(t *testing.T) {
	for _, tt := range []struct {
		name  string
		order binary.AppendByteOrder
		magic uint32
		time  time.Time
	}{
		{"little-endian microseconds", binary.LittleEndian, 0xa1b2c3d4, at.Truncate(time.Microsecond)},
		{"big-endian microseconds", binary.BigEndian, 0xa1b2c3d4, at.Truncate(time.Microsecond)},
		{"little-endian nanoseconds", binary.LittleEndian, 0xa1b23c4d, at},
		{"big-endian nanoseconds", binary.BigEndian, 0xa1b23c4d, at},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readAll(t, pcapFile(tt.order, tt.magic, 1, [2]int{60, 60}, [2]int{96, 1500}, [2]int{200, 100}))
			if err != nil || len(got) != 3 {
				t.Fatalf("%d packets, %v", len(got), err)
			}
			for i, want := range []struct {
				captured, original int
				truncated          bool
			}{{60, 60, false}, {96, 1500, true}, {200, 200, false}} {
				p := got[i]
				if p.Index != i || len(p.Data) != want.captured || p.OriginalLen != want.original ||
					p.Truncated() != want.truncated || !p.Time.Equal(tt.time) || p.Data[0] != byte(i+1) {
					t.Errorf("packet %d: %+v truncated %t, want %+v at %v", i, p, p.Truncated(), want, tt.time)
				}
			}
		})
	}
}

func TestRefused(t *testing.T) {
	le := binary.LittleEndian
	huge := pcapFile(le, 0xa1b2c3d4, 1)
	huge = append(huge, make([]byte, 8)...)
	huge = le.AppendUint32(huge, 0xfffffff0)
	huge = le.AppendUint32(huge, 0xfffffff0)
	for _, tt := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "not a capture: shorter than its magic number"},
		{"text", []byte("hello, world"), "neither pcap nor pcapng: the file starts with 0x68656c6c"},
		{"gzip", []byte{0x1f, 0x8b, 8, 0, 0, 0}, "neither pcap nor pcapng: the file starts with 0x1f8b0800"},
		{"torn header", pcapFile(le, 0xa1b2c3d4, 1)[:20], "pcap header: the file ends inside a packet"},
		{"wifi", pcapFile(le, 0xa1b2c3d4, 105), "link type 105 (802.11) is not Ethernet"},
		{"torn record", pcapFile(le, 0xa1b2c3d4, 1, [2]int{60, 60}, [2]int{60, 60})[:24+76+40],
			"packet 1: the file ends inside a packet"},
		{"torn record header", pcapFile(le, 0xa1b2c3d4, 1, [2]int{60, 60}, [2]int{60, 60})[:24+76+3],
			"packet 1: the file ends inside a packet"},
		{"huge", huge, "packet 0: captured length 4294967280 is over 262144"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := readAll(t, tt.file)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func written(t *testing.T, comments ...string) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := NewWriter(&file, "viaduct test")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"left", "right"} {
		if _, err := w.AddInterface(name); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range comments {
		p := &Packet{
			Time: at.Add(time.Duration(i)), Data: bytes.Repeat([]byte{byte(i)}, 60+i), OriginalLen: 60 + 2*i,
			Interface: i % 2,
		}
		if err := w.Write(p, c); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}

func TestWrittenIsRead(t *testing.T) {
	got, err := readAll(t, written(t, "forwarded routed", "", "dropped: größer", "x"))
	if err != nil || len(got) != 4 {
		t.Fatalf("%d packets, %v", len(got), err)
	}
	for i, p := range got {
		if p.Index != i || len(p.Data) != 60+i || p.OriginalLen != 60+2*i || p.Interface != i%2 ||
			!p.Time.Equal(at.Add(time.Duration(i))) || p.Truncated() != (i > 0) {
			t.Errorf("packet %d: %+v", i, p)
		}
	}
}

func TestCommentsInTshark(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("needs tshark")
	}
	file := filepath.Join(t.TempDir(), "a.pcapng")
	if err := os.WriteFile(file, written(t, "forwarded routed", "", "dropped: größer"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tshark, "-n", "-r", file, "-T", "fields", "-E", "separator=|", "-e", "frame.comment",
		"-e", "frame.interface_name", "-e", "frame.len", "-e", "frame.cap_len", "-e", "frame.time_epoch").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "forwarded routed|left|60|60|1772366400.123456789\n" +
		"|right|62|61|1772366400.123456790\n" +
		"dropped: größer|left|64|62|1772366400.123456791\n"
	if string(out) != want {
		t.Errorf("tshark read\n%swant\n%s", out, want)
	}
}

func TestWriterRefuses(t *testing.T) {
	w, err := NewWriter(io.Discard, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(&Packet{Data: make([]byte, 60)}, ""); err == nil {
		t.Error("a packet of no interface was written")
	}
	if _, err := w.AddInterface("a"); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(&Packet{Data: make([]byte, MaxPacket+1)}, ""); err == nil {
		t.Error("a packet over MaxPacket was written")
	}
}

func TestLongCommentIsCutAtARune(t *testing.T) {
	got, err := readAll(t, written(t, strings.Repeat("ö", 40000), "next"))
	if err != nil || len(got) != 2 {
		t.Errorf("%d packets, %v", len(got), err)
	}
	if s := cut("aöö", 4); s != "aö" {
		t.Errorf("cut in a rune: %q", s)
	}
}

// Every prefix of a pcapng file is either whole at a block's end or torn at the right packet.
func TestTornPcapng(t *testing.T) {
	file := written(t, "one", "two", "three")
	ends := blockEnds(file)
	for n := 4; n < len(file); n++ {
		packets, err := readAll(t, file[:n])
		whole := 0
		for i, end := range ends {
			if end <= n && i >= 3 { // after the section and two interfaces
				whole++
			}
		}
		if len(packets) != whole {
			t.Fatalf("%d bytes: %d packets, want %d", n, len(packets), whole)
		}
		if atEnd(ends, n) {
			if err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
			continue
		}
		var at *PacketError
		if !errors.Is(err, ErrTorn) || n > ends[0] && (!errors.As(err, &at) || at.Index != whole) {
			t.Fatalf("%d bytes: %v, want torn at packet %d", n, err, whole)
		}
	}
}

func blockEnds(file []byte) []int {
	var ends []int
	for end := 0; end < len(file); {
		end += int(binary.LittleEndian.Uint32(file[end+4:]))
		ends = append(ends, end)
	}
	return ends
}

func atEnd(ends []int, n int) bool {
	for _, end := range ends {
		if end == n {
			return true
		}
	}
	return false
}

func TestHostilePcapng(t *testing.T) {
	le := binary.LittleEndian
	file := written(t, "one")
	ends := blockEnds(file)
	idb, epb := ends[0], ends[2]
	for _, tt := range []struct {
		name   string
		change func(b []byte)
		want   string
	}{
		{"link type of the interface", func(b []byte) { le.PutUint16(b[idb+8:], 101) }, "packet 0: link type 101"},
		{"captured length", func(b []byte) { le.PutUint32(b[epb+20:], 4000) }, "more than its block holds"},
		{"huge captured length", func(b []byte) { le.PutUint32(b[epb+20:], 1<<31) }, "is over 262144"},
		{"block length", func(b []byte) { le.PutUint32(b[epb+4:], 0xfffffffc) }, "block length 4294967292"},
		{"unaligned block", func(b []byte) { le.PutUint32(b[epb+4:], 33) }, "block length 33"},
		{"trailing length", func(b []byte) { le.PutUint32(b[len(b)-4:], 12) }, "ends with length 12"},
		{"unknown interface", func(b []byte) { le.PutUint32(b[epb+8:], 7) }, "Interface id 7"},
		{"option length", func(b []byte) { le.PutUint16(b[idb+18:], 0xfff0) }, "option 2 of length 65520"},
		{"time resolution", func(b []byte) { b[idb+28] = 0xff }, "interface option 9"},
		{"byte order", func(b []byte) { b[8] = 0 }, "byte order magic"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := bytes.Clone(file)
			tt.change(b)
			_, err := readAll(t, b)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestPcapngOfSeveralSections(t *testing.T) {
	file := append(written(t, "one"), written(t, "two", "three")...)
	got, err := readAll(t, file)
	if err != nil || len(got) != 3 || got[2].Index != 2 {
		t.Errorf("%d packets, %v", len(got), err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(pcapFile(binary.LittleEndian, 0xa1b2c3d4, 1, [2]int{60, 60}, [2]int{96, 1500}))
	f.Add(pcapFile(binary.BigEndian, 0xa1b23c4d, 1, [2]int{60, 60}))
	var w bytes.Buffer
	if ng, err := NewWriter(&w, "seed"); err == nil {
		if i, err := ng.AddInterface("a"); err == nil && ng.Write(&Packet{Data: make([]byte, 61), Interface: i}, "c") == nil {
			f.Add(w.Bytes())
		}
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := NewReader(bytes.NewReader(file))
		if err != nil {
			return
		}
		total := 0
		for i := 0; ; i++ {
			p, err := r.Next()
			if err != nil {
				if _, again := r.Next(); !errors.Is(again, err) {
					t.Fatalf("after %v came %v", err, again)
				}
				return
			}
			total += len(p.Data)
			if p.Index != i || len(p.Data) > p.OriginalLen || total > len(file) {
				t.Fatalf("packet %d: index %d, %d of %d bytes, %d in all of a file of %d",
					i, p.Index, len(p.Data), p.OriginalLen, total, len(file))
			}
		}
	})
}
