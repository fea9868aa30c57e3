// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
)

// mapping is one to port 8080; without an address of every one.
func mapping(ip string, port uint16, protocol string) HostPort {
	p := HostPort{HostPort: port, ContainerPort: 8080, Protocol: protocol}
	if ip != "" {
		p.HostIP = netip.MustParseAddr(ip)
	}
	return p
}

// Two attachments collide where one packet could be for both.
func TestHostPortsCollide(t *testing.T) {
	v4, v6 := []string{"10.9.0.1"}, []string{"fd00:9::1"}
	both := append(v4[:1:1], v6...)
	for _, tt := range []struct {
		of          []string // addresses of the one that has
		has         HostPort
		to          []string // and of the one that asks
		asks        HostPort
		want        bool
		description string
	}{
		{both, mapping("", 80, "tcp"), both, mapping("", 80, "tcp"), true, "the same"},
		{both, mapping("", 80, "tcp"), both, mapping("", 81, "tcp"), false, "another port"},
		{both, mapping("", 80, "tcp"), both, mapping("", 80, "udp"), false, "another protocol"},
		{both, mapping("", 80, "tcp"), both, mapping("192.0.2.1", 80, "tcp"), true, "every address has that one"},
		{both, mapping("192.0.2.1", 80, "tcp"), both, mapping("192.0.2.1", 80, "tcp"), true, "one address"},
		{both, mapping("192.0.2.1", 80, "tcp"), both, mapping("192.0.2.2", 80, "tcp"), false, "two addresses"},
		{both, mapping("192.0.2.1", 80, "tcp"), both, mapping("0.0.0.0", 80, "tcp"), true, "every one of its family"},
		{both, mapping("192.0.2.1", 80, "tcp"), both, mapping("::", 80, "tcp"), false, "every one of the other family"},
		{both, mapping("0.0.0.0", 80, "tcp"), both, mapping("::", 80, "tcp"), false, "two families"},
		{v4, mapping("", 80, "tcp"), v6, mapping("", 80, "tcp"), false, "pods of two families"},
		{v4, mapping("2001:db8::1", 80, "tcp"), both, mapping("2001:db8::1", 80, "tcp"), false, "one leads nowhere"},
	} {
		entry := func(n int, addresses []string, p HostPort) *entry {
			e := newEntry(Attachment{Key: Key{"n", fmt.Sprint("c", n), "eth0"}, HostPorts: []HostPort{p}}, nil)
			for _, a := range addresses {
				e.Addresses = append(e.Addresses, netip.MustParseAddr(a))
			}
			return e
		}
		b := newBook()
		other := entry(1, tt.of, tt.has)
		b.entries[other.Key] = other
		if err := b.mayTake(entry(2, tt.to, tt.asks), nil); (err != nil) != tt.want {
			t.Errorf("%s: %v", tt.description, err)
		}
		if err := b.mayTake(entry(1, tt.to, tt.asks), other); err != nil {
			t.Errorf("%s, of itself: %v", tt.description, err)
		}
	}
}

// A host port is one attachment's until that is removed or has others; what fails leaves no lease.
func TestHostPortIsOnes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	pools := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}
	s.Configure(pools, nil)
	add := func(n int, ports ...HostPort) error {
		_, _, err := s.Add(Attachment{Key: Key{"net", fmt.Sprint("c", n), "eth0"}, PodNamespace: "default",
			PodName: fmt.Sprint("web-", n), HostPorts: ports}, nil)
		return err
	}
	web, dns := mapping("", 80, "tcp"), mapping("", 53, "udp")
	refused := func(what string, err error, want string) {
		t.Helper()
		var taken *PortTakenError
		if !errors.As(err, &taken) || err.Error() != want || s.Len() != 1 {
			t.Errorf("%s: %v, %d attachments", what, err, s.Len())
		}
	}
	if err := add(1, dns, web, dns); err != nil {
		t.Fatal(err)
	}
	const want = "lease: host port 80/tcp is taken by pod default/web-1 (net/c1/eth0)"
	refused("while it is taken", add(2, web), want)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Configure(pools, nil)
	refused("after a restart", add(2, web), want)
	if _, created, err := s.Add(s.All()[0], nil); err != nil || created {
		t.Errorf("in the same words: %t, %v", created, err)
	}
	if err := add(1, dns); err != nil {
		t.Errorf("in other words: %v", err)
	}
	if err := add(2, web); err != nil {
		t.Errorf("when it is free: %v", err)
	}
}
