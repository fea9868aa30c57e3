// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"math/rand/v2"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/captures"
	"github.com/viaduct-net/viaduct/internal/pcap"
)

// Every capture at hand goes into a live port, as it is and readdressed to the port, so that it gets past the MAC
// check, with random damage: nothing breaks, every packet is accounted for, and the port works afterwards.
func TestHostileTrafficOnALivePort(t *testing.T) {
	s := newSite(t, Config{})
	s.must(s.apply(s.snapshot()))
	mac := s.deviceMAC("l0")
	sent := 0
	s.must(s.left.Do(func() error {
		fd, err := openRaw("l0")
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		files, err := captures.Files()
		if err != nil {
			return err
		}
		random := rand.New(rand.NewPCG(3, 4))
		for _, file := range files {
			for _, data := range packetsOf(file.Data) {
				for _, variant := range variants(data, mac, random) {
					if err := unix.Send(fd, variant, 0); err == nil {
						sent++
					}
				}
			}
		}
		return nil
	}))
	if sent < 300 {
		t.Fatalf("only %d packets could be sent", sent)
	}
	// The veth's own queue may lose some on the way; from the hook on every one is accounted for. Tags that no port
	// has are nobody's packets, and stand in the total only.
	s.eventually("the packets to be accounted for", func() bool {
		r := s.f.Report("")
		var seen, lost uint64
		for _, p := range r.Ports {
			seen += p.Hook["to_userspace"]
			lost += p.GetSockets().GetRxDropped() + p.GetSockets().GetRxRingFull()
		}
		return seen >= uint64(sent/2) && r.Total.Received+lost == seen
	})
	s.checkLedger()
	s.must(s.echo("10.2.0.2:7000", 1<<20))
}

// variants are a packet as it is, addressed to the port, and with some bytes of it damaged.
func variants(data []byte, mac net.HardwareAddr, random *rand.Rand) [][]byte {
	if len(data) < 14 {
		return nil
	}
	data = data[:min(len(data), 8000)]
	ours := bytes.Clone(data)
	copy(ours, mac)
	copy(ours[6:], []byte{2, 0, 0, 0, 0, 9})
	damaged := bytes.Clone(ours)
	for range 3 {
		damaged[12+random.IntN(len(damaged)-12)] = byte(random.Uint32())
	}
	return [][]byte{data, ours, damaged, ours[:14+random.IntN(len(ours)-13)]}
}

func packetsOf(capture []byte) (all [][]byte) {
	r, err := pcap.NewReader(bytes.NewReader(capture))
	if err != nil {
		return nil // of another link type
	}
	for {
		p, err := r.Next()
		if err != nil {
			return all // the end, or torn on purpose
		}
		all = append(all, p.Data)
	}
}

func openRaw(device string) (int, error) {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index})
}

func (s *site) deviceMAC(device string) net.HardwareAddr {
	s.t.Helper()
	link, err := s.middle.Links().LinkByName(device)
	s.must(err)
	return link.Attrs().HardwareAddr
}
