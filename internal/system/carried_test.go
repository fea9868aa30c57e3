// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// visits is how many packets of a pod's userspace has seen.
func (s *stage) visits(pod string) uint64 {
	s.t.Helper()
	r, err := s.ledger(cast[pod].namespace + "/" + pod)
	s.must(err)
	if len(r.Ports) != 1 {
		s.t.Fatalf("%d ports of %s", len(r.Ports), pod)
	}
	return r.Ports[0].Received
}

// bulk is one connection that carries random data.
type bulk struct {
	near, far net.Conn
	data      []byte
}

const bulkBytes = 32 << 20

// bulkTo opens a connection to an address, at which one of the cast's namespaces listens at a port.
func (s *stage) bulkTo(from, to *netlab.Namespace, at netip.AddrPort, listen uint16) *bulk {
	s.t.Helper()
	var l net.Listener
	s.must(to.Do(func() (err error) { l, err = net.Listen("tcp", fmt.Sprint(":", listen)); return err }))
	defer l.Close()
	b := &bulk{data: make([]byte, bulkBytes)}
	seed := [32]byte{1}
	_, _ = rand.NewChaCha8(seed).Read(b.data)
	s.must(from.Do(func() (err error) { b.near, err = net.DialTimeout("tcp", at.String(), patient); return err }))
	s.must(l.(*net.TCPListener).SetDeadline(time.Now().Add(patient)))
	far, err := l.Accept()
	s.must(err)
	b.far = far
	s.t.Cleanup(func() { b.near.Close(); b.far.Close() })
	return b
}

// moves sends all of the data from one end to the other, and checks it.
func (b *bulk) moves(from, to net.Conn) error {
	deadline := time.Now().Add(patient + patient)
	if err := errors.Join(from.SetDeadline(deadline), to.SetDeadline(deadline)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { _, err := from.Write(b.data); sent <- err }()
	got, sum := make([]byte, len(b.data)), sha256.Sum256(b.data)
	_, err := io.ReadFull(to, got)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if sha256.Sum256(got) != sum {
		return errors.New("other data came")
	}
	return nil
}

// chats wants a byte to go to and fro.
func (b *bulk) chats() error {
	one := []byte{7}
	for _, ends := range [][2]net.Conn{{b.near, b.far}, {b.far, b.near}} {
		if err := errors.Join(ends[0].SetDeadline(time.Now().Add(patient)),
			ends[1].SetDeadline(time.Now().Add(patient))); err != nil {
			return err
		}
		if _, err := ends[0].Write(one); err != nil {
			return err
		}
		got := make([]byte, 1)
		if _, err := io.ReadFull(ends[1], got); err != nil || !bytes.Equal(got, one) {
			return fmt.Errorf("got %v, %w", got, err)
		}
	}
	return nil
}

// silent wants nothing to arrive any more of what is written.
func (b *bulk) silent() error {
	for _, ends := range [][2]net.Conn{{b.near, b.far}, {b.far, b.near}} {
		_ = ends[0].SetDeadline(time.Now().Add(patient))
		if _, err := ends[0].Write([]byte{9}); err != nil {
			return nil //nolint:nilerr // it was reset: nothing arrives
		}
		_ = ends[1].SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := ends[1].Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) && n > 0 {
			return errors.New("data arrived")
		}
	}
	return nil
}

// few is how many packets of a connection of bulkBytes userspace may see, which has more than 20,000: those of the
// handshake, and of the moment until the kernel carries it.
const few = 3000

// carried wants data of a connection to go both ways by the kernel.
func (s *stage) carried(what string, b *bulk, pods ...string) {
	s.t.Helper()
	for range 3 {
		s.must(b.chats())
	}
	before := map[string]uint64{}
	for _, pod := range pods {
		before[pod] = s.visits(pod)
	}
	for _, ends := range [][2]net.Conn{{b.near, b.far}, {b.far, b.near}} {
		if err := b.moves(ends[0], ends[1]); err != nil {
			s.t.Fatalf("%s: %v", what, err)
		}
	}
	for _, pod := range pods {
		if n := s.visits(pod) - before[pod]; n > few {
			s.t.Errorf("%s: userspace saw %d packets of %s", what, n, pod)
		}
	}
}

// TestCarried: established connections go by the kernel, whatever their addresses become on the way, and their data
// arrives as it was sent.
func TestCarried(t *testing.T) {
	s := newServiceStage(t)
	s.service("", []string{"web"})
	const listen = targetPort + 1
	for f, of := range families {
		direct := netip.AddrPortFrom(s.address("web", f), listen)
		s.carried("pod to pod", s.bulkTo(s.of("spy"), s.of("web"), direct, listen), "spy", "web")
		s.carried("world to pod", s.bulkTo(s.of("world"), s.of("web"), direct, listen), "web")
		s.carried("pod to world", s.bulkTo(s.of("spy"), s.of("world"),
			netip.AddrPortFrom(s.address("world", f), listen), listen), "spy")
		s.carried("pod to node", s.bulkTo(s.of("spy"), s.of("node"), netip.AddrPortFrom(of.uplink, listen), listen), "spy")
	}
	s.balanced()
}

// TestCarriedService: so do those that are led to a service's backend.
func TestCarriedService(t *testing.T) {
	s := newServiceStage(t)
	const listen = targetPort + 1
	text := ""
	for f, cluster := range map[int]string{4: "10.96.0.40", 6: "fd00:96::40"} {
		text += fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: bulk-%d, namespace: shop}\n"+
			"spec: {type: NodePort, clusterIP: %q, clusterIPs: [%q], ipFamilies: [IPv%d], "+
			"ports: [{protocol: TCP, port: 90, targetPort: %d, nodePort: 3009%d}]}\n", f, cluster, cluster, f, listen, f)
		text += fmt.Sprintf("---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: bulk-%d, "+
			"namespace: shop, labels: {kubernetes.io/service-name: bulk-%d}}\naddressType: IPv%d\n"+
			"ports: [{protocol: TCP, port: %d}]\nendpoints: [{addresses: [%q], conditions: {ready: true}, "+
			"nodeName: node}]\n", f, f, f, listen, s.address("web", f))
	}
	s.write("bulk.yaml", text)
	for f, cluster := range map[int]string{4: "10.96.0.40", 6: "fd00:96::40"} {
		s.eventually("the service", func() error {
			if out, status := s.cli("services", fmt.Sprint("shop/bulk-", f)); status != 0 {
				return errors.New(out)
			}
			return nil
		})
		front := netip.AddrPortFrom(netip.MustParseAddr(cluster), 90)
		node := netip.AddrPortFrom(families[f].uplink, uint16(30090+f))
		s.carried("pod to service", s.bulkTo(s.of("spy"), s.of("web"), front, listen), "spy", "web")
		s.carried("pod to itself by service", s.bulkTo(s.of("web"), s.of("web"), front, listen), "web")
		s.carried("node to service", s.bulkTo(s.of("node"), s.of("web"), front, listen), "web")
		s.carried("world to node port", s.bulkTo(s.of("world"), s.of("web"), node, listen), "web")
	}
	s.balanced()
}

// TestCarriedRevoked: what policy takes back stops in the kernel too, and what it still lets goes on.
func TestCarriedRevoked(t *testing.T) {
	s := newStage(t)
	const open, shut = 6000, 6001
	for f := range families {
		stays := s.bulkTo(s.of("spy"), s.of("web"), netip.AddrPortFrom(s.address("web", f), open), open)
		ends := s.bulkTo(s.of("spy"), s.of("web"), netip.AddrPortFrom(s.address("web", f), shut), shut)
		other := s.bulkTo(s.of("db"), s.of("spy"), netip.AddrPortFrom(s.address("spy", f), shut), shut)
		for _, b := range []*bulk{stays, ends, other} {
			s.must(b.moves(b.near, b.far))
		}
		s.write("policy.yaml", networkPolicy("shop", "half", fmt.Sprintf(
			"{podSelector: {matchLabels: {app: %s}}, ingress: [{ports: [{port: %d}]}]}", cast["web"].app, open)))
		s.hasPolicies(1)
		s.eventually("a connection to end", ends.silent)
		s.must(ends.silent())
		s.carried("what is let", stays, "spy", "web")
		s.carried("what nobody spoke of", other, "spy")
		s.remove("policy.yaml")
		s.hasPolicies(0)
	}
	s.balanced()
}

// TestCarryingOff: carrying is switched off and on under traffic, for the node, a namespace and a pod, and nothing is
// lost of what flows at a steady rate.
func TestCarryingOff(t *testing.T) {
	s := newStage(t)
	all := s.podTraffic(s.pods["web"], s.pods["spy"])
	s.flows(all)
	b := s.bulkTo(s.of("spy"), s.of("web"), netip.AddrPortFrom(s.address("web", 4), 6000), 6000)
	s.carried("before", b, "spy", "web")
	pod := podManifest(cast["web"].namespace, "web", "app: "+cast["web"].app)
	off := strings.Replace(pod, "namespace:", `annotations: {viaduct.dev/offload: "false"}, namespace:`, 1)
	namespace := fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, "+
		"annotations: {viaduct.dev/offload: \"false\"}}\n", cast["web"].namespace)
	for _, way := range []struct {
		what    string
		off, on func()
	}{
		{"the node", func() { s.configure("offload: false") }, func() { s.configure() }},
		{"a pod", func() { s.write("pod-web.yaml", off) }, func() { s.write("pod-web.yaml", pod) }},
		{"a namespace", func() { s.write("ns.yaml", namespace) }, func() { s.remove("ns.yaml") }},
	} {
		s.lossless(all, "carrying was switched off for "+way.what, func() {
			way.off()
			s.eventually("userspace to see the packets of "+way.what, func() error {
				before := s.visits("web")
				if err := b.moves(b.far, b.near); err != nil {
					return err
				}
				if n := s.visits("web") - before; n < 200 {
					return fmt.Errorf("it saw %d", n)
				}
				return nil
			})
			way.on()
			s.eventually("the kernel to carry those of "+way.what, func() error {
				before := s.visits("web")
				if err := b.moves(b.far, b.near); err != nil {
					return err
				}
				if n := s.visits("web") - before; n > few {
					return fmt.Errorf("userspace saw %d", n)
				}
				return nil
			})
		})
	}
	s.balanced()
}

// TestCarriedAway: while the dataplane is away its flows go on and lose nothing, and others wait; when it is back it
// knows them, translated ones too, and policy that changed meanwhile is in force.
func TestCarriedAway(t *testing.T) {
	s := newServiceStage(t)
	s.service("", []string{"web"})
	all := s.podTraffic(s.pods["web"], s.pods["spy"])
	s.flows(all)
	cluster := frontends(4)["cluster address"]
	call, err := dial(s.of("spy"), "tcp", cluster)
	s.must(err)
	defer call.Close()
	for range 3 {
		_, _, err = call.ask(patient)
		s.must(err)
	}
	b := s.bulkTo(s.of("spy"), s.of("web"), netip.AddrPortFrom(s.address("web", 4), 6000), 6000)
	s.carried("before", b, "spy", "web")
	for round := range 3 {
		s.lossless(all, "the dataplane was away", func() {
			s.dataplane.kill()
			s.must(b.moves(b.near, b.far))
			_, _, err = call.ask(patient)
			s.must(err)
			if _, _, err := whoWithin(s.of("spy"), "udp", cluster, 300*time.Millisecond); err == nil {
				t.Error("a flow was opened while the dataplane was away")
			}
			s.dataplane = s.startDataplane()
			s.eventually("a new flow", func() error {
				_, _, err := whoWithin(s.of("spy"), "tcp", cluster, time.Second)
				return err
			})
			s.must(b.moves(b.far, b.near))
			_, _, err = call.ask(patient)
			s.must(err)
		})
		s.carried(fmt.Sprint("after round ", round), b, "spy", "web")
	}
	s.dataplane.kill()
	s.write("policy.yaml", networkPolicy("shop", "deny", "{podSelector: {}, policyTypes: [Ingress]}"))
	s.dataplane = s.startDataplane()
	s.hasPolicies(1)
	s.eventually("a connection to end that policy takes back", b.silent)
	s.balanced()
}

// TestPodGoneWhileCarried: what was carried to a pod that is gone is not carried to who has its address next.
func TestPodGoneWhileCarried(t *testing.T) {
	s := newStage(t)
	web := s.pods["web"]
	at := netip.AddrPortFrom(s.address("web", 4), 6000)
	b := s.bulkTo(s.of("spy"), s.of("web"), at, 6000)
	s.carried("before", b, "spy", "web")
	web.del()
	s.must(b.near.SetDeadline(time.Now().Add(patient)))
	_, _ = b.near.Write([]byte("to whom it may concern"))
	again := s.pod("again")
	again.runtime.Args[1][1] = cast["web"].namespace
	again.runtime.CapabilityArgs = map[string]any{"ips": []string{at.Addr().String()}}
	again.add()
	if again.address[4] != at.Addr() {
		t.Fatalf("it has %v, not %v", again.address[4], at.Addr())
	}
	before := s.visits("spy")
	_, _ = b.near.Write([]byte("to whom it may concern, once more"))
	s.eventually("userspace to judge what is sent there", func() error {
		if s.visits("spy") == before {
			return errors.New("it has seen nothing")
		}
		return nil
	})
	s.balanced()
}
