// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
)

// applyForwarding has the host forward packets of the families that are wanted, and lets it be as it was in the others.
//
// Forwarding is switched for all devices, as nodes of a cluster have it: packets come in by whatever the host's routes
// lead out of. It is written only when it is off, for writing it resets every device's own switch (inet_forward_change
// in net/ipv4/devinet.c).
func (s *Stack) applyForwarding(ipv4, ipv6 bool) []Note {
	notes := s.forward(0, ipv4, "IPv4 forwarding", func(l *settings) error {
		return errors.Join(
			l.set("net/ipv4/ip_forward", "1", "net/ipv4/conf/*/forwarding", "net/ipv4/conf/all/accept_redirects"),
			ensureSysctl("net/ipv4/conf/"+PairStack+"/forwarding", "1"))
	})
	return append(notes, s.forward(1, ipv6, "IPv6 forwarding", func(l *settings) error {
		if err := keepAdvertisements(l); err != nil {
			return err
		}
		return errors.Join(
			l.set("net/ipv6/conf/all/forwarding", "1", "net/ipv6/conf/*/forwarding"),
			ensureSysctl("net/ipv6/conf/"+PairStack+"/forwarding", "1"))
	})...)
}

func (s *Stack) forward(family int, wanted bool, subject string, switchOn func(*settings) error) []Note {
	var err error
	if wanted {
		err = switchOn(&s.forwarding[family])
	} else {
		err = s.forwarding[family].restore()
	}
	if err != nil {
		return []Note{{subject, oneLine(err) + ": set it on the host"}}
	}
	return nil
}

// keepAdvertisements has every device that takes router advertisements go on taking them (accept_ra 2) when the host
// becomes a router, which takes none by default: an uplink would lose its default route at once, and its addresses when
// they expire (rt6_purge_dflt_routers in net/ipv6/route.c, ipv6_accept_ra in include/net/ipv6.h). Devices that come
// later are their network manager's to see to.
func keepAdvertisements(l *settings) error {
	const devices = "net/ipv6/conf/"
	if on, _ := readSysctl(devices + "all/forwarding"); on != "0" { // or no IPv6
		return nil
	}
	accepts := readAll([]string{devices + "*/accept_ra"})
	for key, value := range accepts {
		device := filepath.Base(filepath.Dir(key))
		if value != "1" || slices.Contains([]string{"all", "default", "lo", PairStack, PairHook}, device) {
			continue
		}
		if router, err := readSysctl(devices + device + "/forwarding"); err != nil || router != "0" {
			continue
		}
		if err := l.set(key, "2"); err != nil {
			return err
		}
	}
	return nil
}

// oneLine is the error on one line, also when it is several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
