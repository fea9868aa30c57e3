// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// raw is a socket for whole messages of a protocol above IP, in one namespace and of one family.
type raw struct {
	*net.IPConn
	s *site
}

// raw opens one until the test ends. While it is open the namespace's stack does not call the protocol unreachable.
func (s *site) raw(in *netlab.Namespace, family, protocol int) raw {
	s.t.Helper()
	var c net.PacketConn
	s.must(in.Do(func() (err error) {
		c, err = net.ListenPacket(fmt.Sprintf("ip%d:%d", family, protocol), "")
		return err
	}))
	s.t.Cleanup(func() { _ = c.Close() })
	return raw{c.(*net.IPConn), s}
}

func (r raw) say(to netip.Addr, message []byte) {
	r.s.t.Helper()
	_, err := r.WriteTo(message, &net.IPAddr{IP: to.AsSlice()})
	r.s.must(err)
}

// next is the next message that comes.
func (r raw) next() []byte {
	r.s.t.Helper()
	buffer := make([]byte, 65536)
	r.s.must(r.SetReadDeadline(time.Now().Add(patient)))
	n, _, err := r.ReadFrom(buffer)
	r.s.must(err)
	return buffer[:n]
}

// heard says why the message is not the next one that comes within a moment.
func (r raw) heard(message []byte) error {
	const moment = 200 * time.Millisecond
	buffer := make([]byte, 65536)
	r.s.must(r.SetReadDeadline(time.Now().Add(moment)))
	n, _, err := r.ReadFrom(buffer)
	if err == nil && !bytes.Equal(buffer[:n], message) {
		err = fmt.Errorf("%x came, want %x", buffer[:n], message)
	}
	return err
}

// hears wants the message to be the next one that comes.
func (r raw) hears(what string, message []byte) {
	r.s.t.Helper()
	if got := r.next(); !bytes.Equal(got, message) {
		r.s.t.Fatalf("%s: heard %x, want %x", what, got, message)
	}
}

// sendIP sends an IP packet as it is from a namespace.
func (s *site) sendIP(from *netlab.Namespace, packet []byte) {
	s.t.Helper()
	family, address := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(packet[16:])})
	if packet[0]>>4 == 6 {
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte(packet[24:])}
	}
	s.must(from.Do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Sendto(fd, packet, 0, address)
	}))
}

// udpOf is a UDP datagram with its checksum.
func udpOf(source, destination netip.AddrPort, data []byte) []byte {
	d := binary.BigEndian.AppendUint16(nil, source.Port())
	d = binary.BigEndian.AppendUint16(d, destination.Port())
	d = binary.BigEndian.AppendUint16(d, uint16(8+len(data)))
	d = append(append(d, 0, 0), data...)
	pseudo := append(append(source.Addr().AsSlice(), destination.Addr().AsSlice()...), 0, unix.IPPROTO_UDP, d[4], d[5])
	binary.BigEndian.PutUint16(d[6:], internetSum(append(pseudo, d...)))
	return d
}

// internetSum is that of RFC 1071.
func internetSum(b []byte) uint16 {
	sum := uint32(0)
	for i, v := range b {
		sum += uint32(v) << (8 * (1 - i%2))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// fragmentOf is the packet that carries a part of a datagram, from a byte on that is a multiple of 8.
func fragmentOf(source, destination netip.Addr, id uint16, datagram []byte, from, to int) []byte {
	offset := uint16(from)
	more := to < len(datagram)
	var p []byte
	if source.Is4() {
		offset >>= 3
		if more {
			offset |= 0x2000
		}
		p = append(p, 0x45, 0)
		p = binary.BigEndian.AppendUint16(p, uint16(20+to-from))
		p = binary.BigEndian.AppendUint16(p, id)
		p = append(binary.BigEndian.AppendUint16(p, offset), 64, unix.IPPROTO_UDP, 0, 0) // the kernel sums up
	} else {
		if more {
			offset |= 1
		}
		p = append(p, 0x60, 0, 0, 0)
		p = append(binary.BigEndian.AppendUint16(p, uint16(8+to-from)), unix.IPPROTO_FRAGMENT, 64)
	}
	p = append(append(p, source.AsSlice()...), destination.AsSlice()...)
	if !source.Is4() {
		p = append(p, unix.IPPROTO_UDP, 0)
		p = binary.BigEndian.AppendUint16(p, offset)
		p = append(p, 0, 0, byte(id>>8), byte(id))
	}
	return append(p, datagram[from:to]...)
}

// hasPolicies waits until as many policies are in force. Who speaks only then has no connection that one of them cuts,
// whose ends would go on trying.
func (s *stage) hasPolicies(n uint64) {
	s.t.Helper()
	s.eventually("policies to be in force", func() error {
		status, err := s.dataplaneStatus()
		if err == nil && status.Policies != n {
			err = fmt.Errorf("%d are, of %d", status.Policies, n)
		}
		return err
	})
}

// drops wants do to have the dataplane drop so many packets of a pod, for a reason.
func (s *stage) drops(pod, reason string, packets uint64, do func()) {
	s.t.Helper()
	before, err := s.dropped(pod, reason)
	s.must(err)
	do()
	s.eventually(fmt.Sprintf("%d packets of %s to be dropped as %s", packets, pod, reason), func() error {
		after, err := s.dropped(pod, reason)
		if err == nil && after-before != packets {
			err = fmt.Errorf("%d were", after-before)
		}
		return err
	})
}

func (s *stage) dropped(pod, reason string) (packets uint64, err error) {
	name := cast[pod].namespace + "/" + pod
	if s.of(pod) == s.node || s.of(pod) == s.world {
		name = "host"
	}
	r, err := s.ledger(name)
	if err == nil && len(r.Ports) != 1 {
		err = fmt.Errorf("%d ports %s", len(r.Ports), name)
	}
	if err != nil {
		return 0, err
	}
	for _, counted := range r.Ports[0].Reasons {
		if counted.Reason == reason {
			packets = counted.Packets
		}
	}
	return packets, nil
}
