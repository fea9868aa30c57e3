// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// flood sends so many SYNs, each of another connection, from an address of a namespace to another one. Their checksums
// are wrong, so that nobody answers, be it by a RST.
func (n *podNode) flood(in *netlab.Namespace, from, to netip.Addr, count int) error {
	fd := -1
	err := in.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	b := make([]byte, 40)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_TCP // the kernel does the rest
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	b[32], b[33] = 5<<4, 2
	for i := range count {
		binary.BigEndian.PutUint16(b[20:], uint16(i))
		binary.BigEndian.PutUint16(b[22:], uint16(20000+i>>16))
		binary.BigEndian.PutUint32(b[24:], uint32(i))
		if err := unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
			return fmt.Errorf("SYN %d: %w", i, err)
		}
	}
	return nil
}

// Whatever connections a pod begins by a pair, those of its neighbours' pairs go on, others are opened, and when policy
// comes to look at them each is known that was opened before.
func TestFloodByPair(t *testing.T) {
	n, a, b := pairNode(t)
	c, d := n.pod(7, api.Port_ATTACH_TRUNK), n.pod(8, api.Port_ATTACH_TRUNK)
	n.apply()
	for _, port := range []uint16{80, 81} {
		n.serve(b, port)
		n.serve(d, port)
	}
	n.paired(a, "10.244.1.5", "10.244.1.6", 80)
	n.paired(c, "10.244.1.7", "10.244.1.8", 80)
	const connections = 20
	var let, denied []net.Conn
	for i := range 2 * connections {
		k, err := n.dial(a, fmt.Sprint("10.244.1.6:", 80+i%2), 0)
		n.must(err)
		t.Cleanup(func() { _ = k.Close() })
		n.must(exchange(k, 5*time.Second))
		if i%2 == 0 {
			let = append(let, k)
		} else {
			denied = append(denied, k)
		}
	}
	const flood = 80000
	before, carried := n.received(), n.pairOf("10.244.1.7", "10.244.1.8").Packets
	flooded := make(chan error, 1)
	go func() {
		flooded <- n.flood(c, netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("10.244.1.8"), flood)
	}()
	for over, i := false, 0; !over; i++ {
		select {
		case err := <-flooded:
			n.must(err)
			over = true
		default:
		}
		n.mustAsk(a, "10.244.1.6:80")
		n.must(exchange(let[i%connections], 5*time.Second))
		n.must(exchange(denied[i%connections], 5*time.Second))
	}
	if got := n.received() - before; got > flood/10 {
		t.Errorf("userspace got %d packets", got)
	}
	if got := n.pairOf("10.244.1.7", "10.244.1.8").Packets - carried; got < flood {
		t.Errorf("%d SYNs of %d were carried", got, flood)
	}
	list, err := n.f.carrier.kernel.PairOpenings()
	n.must(err)
	if len(list) < 2*connections || len(list) > 2000 {
		t.Errorf("%d connections are remembered", len(list))
	}

	n.policies = onlyPort80
	n.update()
	n.eventually("the pair to be withdrawn", func() bool { return n.pairOf("10.244.1.5", "10.244.1.6") == nil })
	n.eventually("each of its connections to be judged", func() bool {
		o := n.f.Status().Offload
		return o.ConnectionsResumed >= connections && o.ConnectionsDenied == connections
	})
	for _, k := range let {
		n.must(exchange(k, 5*time.Second))
	}
	if n.pairOf("10.244.1.7", "10.244.1.8") == nil {
		t.Error("the other pair is gone")
	}
	n.balanced()
}
