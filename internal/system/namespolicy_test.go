// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// slowName is a name whose answer takes so long that policy changes before it comes.
const slowName = "slow.wild.test."

// zone is what the world's DNS server knows: addresses by name, and what names are aliases of. An address stands for
// one of each family, by its last byte.
var zone = map[string]struct {
	alias string
	last  byte
}{
	"www.example.test.":  {last: 1},
	"a.wild.test.":       {last: 2},
	"b.a.wild.test.":     {last: 3},
	"wild.test.":         {last: 4},
	"shop.example.test.": {alias: "front.cdn.test."},
	"front.cdn.test.":    {last: 5},
	slowName:             {last: 7},
	"other.test.":        {last: 6},
}

// named is the address of a family that ends so.
func named(family int, last byte) netip.Addr {
	if family == 4 {
		return netip.AddrFrom4([4]byte{198, 51, 100, last})
	}
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0x51, 15: last})
}

// TestDomainNames: a pod that may speak to names alone reaches the addresses that it was told for them when it asked,
// and no others; what it did not ask for, and what another pod asked for, counts for nothing.
func TestDomainNames(t *testing.T) {
	s := newStage(t)
	s.namedWorld()
	s.write("policy.yaml", clusterPolicy("names", "", "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: ["+
		"{action: Accept, to: [{networks: [192.0.2.2/32, '2001:db8::2/128']}], "+
		"protocols: [{udp: {destinationPort: {number: 53}}}]}, "+
		"{action: Accept, to: [{domainNames: [www.example.test, '*.wild.test', shop.example.test]}]}, "+
		"{action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}]}"))
	s.hasPolicies(1)
	s.is("the policy to be in force", func(w way) bool {
		_, pod := cast[w.from]
		return !pod
	})
	for f := range families {
		s.reachesNamed("web", f, false, 1, 2, 3, 4, 5, 6)
		s.forgedAnswers(f)
		s.reachesNamed("web", f, false, 1, 2, 3, 4, 5, 6)
		for _, c := range []struct {
			name   string
			last   byte
			opened bool
		}{
			{"www.example.test.", 1, true}, {"a.wild.test.", 2, true}, {"b.a.wild.test.", 3, true},
			{"wild.test.", 4, false}, {"shop.example.test.", 5, true}, {"other.test.", 6, false},
		} {
			s.must(s.resolve("web", f, c.name))
			s.reachesNamed("web", f, c.opened, c.last)
		}
		s.reachesNamed("db", f, false, 1, 2, 3, 4, 5, 6)
		s.must(s.resolve("db", f, "WWW.eXample.test."))
		s.reachesNamed("db", f, true, 1)
		s.reachesNamed("db", f, false, 2, 3, 4, 5, 6)
		s.must(s.resolve("db", f, slowName))
		s.reachesNamed("db", f, true, 7)
	}
	s.balanced()
}

// namedWorld gives the world the addresses of names, and a server that tells them.
func (s *stage) namedWorld() {
	s.t.Helper()
	for f, of := range families {
		addresses := netip.PrefixFrom(named(f, 0), named(f, 0).BitLen()-8)
		for last := byte(1); last <= 7; last++ {
			s.must(s.world.Address("lo", netip.PrefixFrom(named(f, last), named(f, last).BitLen())))
		}
		s.must(s.node.Route(addresses, of.world, "up", 0))
		s.serveNames(netip.AddrPortFrom(of.world, 53))
	}
}

func (s *stage) serveNames(at netip.AddrPort) {
	s.t.Helper()
	var c net.PacketConn
	s.must(s.world.Do(func() (err error) { c, err = net.ListenPacket("udp", at.String()); return err }))
	var served sync.WaitGroup
	served.Go(func() {
		buffer := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			var question dnsmessage.Message
			if err == nil && question.Unpack(buffer[:n]) == nil && len(question.Questions) == 1 {
				if question.Questions[0].Name.String() == slowName {
					s.changePolicy()
				}
				_, _ = c.WriteTo(answerTo(question.ID, question.Questions[0]), from)
			}
		}
	})
	s.t.Cleanup(func() {
		_ = c.Close()
		served.Wait()
	})
}

// changePolicy changes what matters to nobody, and waits until that is in force.
func (s *stage) changePolicy() {
	before, err := s.dataplaneStatus()
	if err != nil {
		s.t.Error(err)
		return
	}
	s.write("policy-other.yaml", networkPolicy("elsewhere", fmt.Sprint("p", before.Epoch), "{podSelector: {}}"))
	for deadline := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		after, err := s.dataplaneStatus()
		if err == nil && after.Epoch > before.Epoch {
			return
		}
		if time.Now().After(deadline) {
			s.t.Errorf("policy did not change: %v", err)
			return
		}
	}
}

// answerTo is what the zone says, with a TTL of a minute.
func answerTo(id uint16, q dnsmessage.Question) []byte {
	m := dnsmessage.Message{
		Header: dnsmessage.Header{ID: id, Response: true, RecursionAvailable: true}, Questions: []dnsmessage.Question{q},
	}
	name := dnsmessage.MustNewName(strings.ToLower(q.Name.String()))
	if alias := zone[name.String()].alias; alias != "" {
		to := dnsmessage.MustNewName(alias)
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.CNAMEResource{CNAME: to},
		})
		name = to
	}
	r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: 60}}
	if last := zone[name.String()].last; q.Type == dnsmessage.TypeA {
		r.Body = &dnsmessage.AResource{A: named(4, last).As4()}
	} else {
		r.Body = &dnsmessage.AAAAResource{AAAA: named(6, last).As16()}
	}
	m.Answers = append(m.Answers, r)
	text, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return text
}

func questionFor(family int, name string) dnsmessage.Question {
	q := dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	if family == 6 {
		q.Type = dnsmessage.TypeAAAA
	}
	return q
}

// resolve asks the world's server for a name, by the family whose address it asks for.
func (s *stage) resolve(pod string, family int, name string) error {
	question := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 77, RecursionDesired: true},
		Questions: []dnsmessage.Question{questionFor(family, name)},
	}
	text, err := question.Pack()
	if err != nil {
		return err
	}
	var c net.Conn
	err = s.of(pod).Do(func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(families[family].world, 53).String())
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(text); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(patient)); err != nil {
		return err
	}
	if _, err = c.Read(make([]byte, 512)); err != nil {
		return fmt.Errorf("resolve %s: %w", name, err)
	}
	return nil
}

// reachesNamed checks whether a pod reaches addresses of names.
func (s *stage) reachesNamed(pod string, family int, want bool, lasts ...byte) {
	s.t.Helper()
	patience := patient
	if !want {
		patience = chatTime
	}
	_ = each(len(lasts), len(lasts), func(i int) error {
		to := netip.AddrPortFrom(named(family, lasts[i]), peerPort)
		_, err := askWithin(s.of(pod), "tcp", to, patience)
		if (err == nil) != want {
			s.t.Errorf("from %s to %v: reached %t, %v", pod, to, err == nil, err)
		}
		return nil
	})
}

// forgedAnswers come to a pod that asked nothing: from the server's port, and from that of another pod.
func (s *stage) forgedAnswers(family int) {
	s.t.Helper()
	text := answerTo(77, questionFor(family, "www.example.test."))
	web := netip.AddrPortFrom(s.address("web", family), 4000)
	heard := s.hears("web", web)
	for _, who := range []string{"world", "db"} {
		in := s.raw(s.of(who), family, unix.IPPROTO_UDP)
		datagram := udpOf(netip.AddrPortFrom(s.address(who, family), 53), web, text)
		if who == "db" { // it may not speak to others by this policy
			s.drops(who, "egress_denied", 1, func() { in.say(web.Addr(), datagram) })
			continue
		}
		in.say(web.Addr(), datagram)
		heard.next("an answer to nothing", text)
	}
}
