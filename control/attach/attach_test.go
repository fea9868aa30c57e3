// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/viaduct-net/viaduct/control/api/attach"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/lease"
)

// TestLife: an interface is attached, looked at, and removed, over the socket.
func TestLife(t *testing.T) {
	r := start(t, t.TempDir(), 0)
	ctx := t.Context()
	_, err := r.client.Ready(ctx, &attach.ReadyRequest{Leases: true})
	r.wants("ready without a dataplane", err, codes.FailedPrecondition)
	_, err = r.client.Add(ctx, request(1))
	r.wants("add without a dataplane", err, codes.Unavailable)
	f := r.follow()
	ready, err := r.client.Ready(ctx, &attach.ReadyRequest{})
	if err != nil || ready.Queues != 3 {
		t.Errorf("ready: %v, %v", ready, err)
	}
	added, err := r.client.Add(ctx, request(1))
	const want = `addresses:"10.244.1.2" addresses:"fd00:1::2" gateways:"169.254.1.1" gateways:"fe80::1" ` +
		`routes:{destination:"10.244.1.0/24"} routes:{destination:"0.0.0.0/0" mtu:1450} ` +
		`routes:{destination:"fd00:1::/64"} routes:{destination:"::/0" mtu:1450} mtu:65535`
	if got := strings.ReplaceAll(added.String(), "  ", " "); err != nil || got != want {
		t.Errorf("added %s, %v", got, err)
	}
	if f.ports() != "default/pod-1" {
		t.Errorf("ports %q", f.ports())
	}
	again, err := r.client.Add(ctx, request(1))
	if err != nil || again.String() != added.String() {
		t.Errorf("again: %v, %v", again, err)
	}
	checked, err := r.client.Check(ctx, &attach.CheckRequest{Key: request(1).Key})
	if err != nil || checked.String() != added.String() {
		t.Errorf("checked: %v, %v", checked, err)
	}
	other := request(1)
	other.Addresses = []string{"10.244.1.77"}
	if added, err = r.client.Add(ctx, other); err != nil || added.Addresses[0] != "10.244.1.77" {
		t.Errorf("in other words: %v, %v", added, err)
	}
	if n := r.store.Len(); n != 1 {
		t.Errorf("%d attachments", n)
	}
	for _, found := range []bool{true, false} {
		removed, err := r.client.Remove(ctx, &attach.RemoveRequest{Key: request(1).Key})
		if err != nil || removed.Found != found {
			t.Errorf("removed: %v, %v", removed, err)
		}
	}
	r.eventually("the port is gone", func() bool { return f.ports() == "" })
	_, err = r.client.Check(ctx, &attach.CheckRequest{Key: request(1).Key})
	r.wants("check of nothing", err, codes.NotFound)
}

// TestRefusals: what cannot be had is said by its code, and nothing is left of it.
func TestRefusals(t *testing.T) {
	r := start(t, t.TempDir(), 0)
	f := r.follow()
	f.tell(func() {
		f.refuse = compile.Origin("default/pod-5")
		f.closed["default/pod-6"] = "no device vd6"
	})
	if _, err := r.client.Add(t.Context(), request(1)); err != nil {
		t.Fatal(err)
	}
	asking := func(i int, delegated bool, addresses ...string) *attach.AddRequest {
		q := request(i)
		q.Addresses, q.Delegated = addresses, delegated
		return q
	}
	for name, c := range map[string]struct {
		q    *attach.AddRequest
		code codes.Code
	}{
		"another's":           {asking(2, false, "10.244.1.2"), codes.AlreadyExists},
		"another's delegated": {asking(2, true, "10.244.1.2"), codes.AlreadyExists},
		"outside":             {asking(2, false, "10.9.9.9"), codes.InvalidArgument},
		"the node's":          {asking(2, true, "10.244.1.1"), codes.InvalidArgument},
		"refused":             {request(5), codes.InvalidArgument},
		"closed":              {request(6), codes.FailedPrecondition},
	} {
		_, err := r.client.Add(t.Context(), c.q)
		r.wants(name, err, c.code)
	}
	if n := r.store.Len(); n != 1 {
		t.Errorf("%d attachments are left", n)
	}
	r.eventually("one port is left", func() bool { return f.ports() == "default/pod-1" })
	if added, err := r.client.Add(t.Context(), asking(3, true, "192.168.7.7")); err != nil ||
		len(added.Addresses) != 1 || len(added.Gateways) != 1 || len(added.Routes) != 2 {
		t.Errorf("delegated: %v, %v", added, err)
	}
	f.tell(func() { f.closed["default/pod-1"] = "gone" })
	r.source.Replace(nodeConfig(t, "{podCIDRs: [10.244.1.0/30], workers: 1}"))
	r.eventually("the port is closed", func() bool { return r.server.InForce("default/pod-1") != nil })
	_, err := r.client.Check(t.Context(), &attach.CheckRequest{Key: request(1).Key})
	r.wants("check of a closed port", err, codes.FailedPrecondition)
	_, err = r.client.Ready(t.Context(), &attach.ReadyRequest{Leases: true})
	r.wants("ready without an address", err, codes.ResourceExhausted)
	_, err = r.client.Add(t.Context(), request(4))
	r.wants("add without an address", err, codes.ResourceExhausted)
}

// TestHostPorts: a host port is one pod's, and CHECK says which ones an attachment has.
func TestHostPorts(t *testing.T) {
	r := start(t, t.TempDir(), 0)
	r.follow()
	of := func(i int, ports ...*attach.HostPort) *attach.AddRequest {
		q := request(i)
		q.HostPorts = ports
		return q
	}
	port := func(host, container uint32, protocol, ip string) *attach.HostPort {
		return &attach.HostPort{HostIp: ip, HostPort: host, ContainerPort: container, Protocol: protocol}
	}
	web, dns := port(80, 8080, "tcp", ""), port(53, 53, "udp", "192.0.2.1")
	_, err := r.client.Add(t.Context(), of(1, web, dns))
	r.wants("add", err, codes.OK)
	const compiled = "[{invalid IP 80 8080 PROTOCOL_TCP} {192.0.2.1 53 53 PROTOCOL_UDP}]"
	if got := fmt.Sprint(Known(r.store)[0].HostPorts); got != compiled {
		t.Errorf("the compiler is told of %s", got)
	}
	_, err = r.client.Check(t.Context(), &attach.CheckRequest{
		Key: request(1).Key, HostPorts: []*attach.HostPort{dns, web}})
	r.wants("check in another order", err, codes.OK)
	_, err = r.client.Check(t.Context(), &attach.CheckRequest{Key: request(1).Key})
	r.wants("check without host ports", err, codes.FailedPrecondition)
	const differ = "the host ports are 80/tcp to 8080, 192.0.2.1:53/udp to 53, not none"
	if err == nil || !strings.Contains(err.Error(), differ) {
		t.Errorf("%v", err)
	}
	_, err = r.client.Add(t.Context(), of(2, port(80, 80, "tcp", "192.0.2.9")))
	r.wants("another's", err, codes.AlreadyExists)
	if err == nil || !strings.Contains(err.Error(), "pod default/pod-1") {
		t.Errorf("%v", err)
	}
	for name, q := range map[string]*attach.AddRequest{
		"no host port":      of(3, port(0, 80, "tcp", "")),
		"no such host port": of(3, port(1<<16, 80, "tcp", "")),
		"no container port": of(3, port(81, 0, "tcp", "")),
		"no protocol":       of(3, port(81, 80, "", "")),
		"no address":        of(3, port(81, 80, "tcp", "x")),
		"two destinations":  of(3, port(81, 80, "tcp", ""), port(81, 81, "tcp", "")),
	} {
		_, err := r.client.Add(t.Context(), q)
		r.wants(name, err, codes.InvalidArgument)
	}
	if n := r.store.Len(); n != 1 {
		t.Errorf("%d attachments are left", n)
	}
	_, err = r.client.Add(t.Context(), of(1, dns))
	r.wants("in other words", err, codes.OK)
	_, err = r.client.Add(t.Context(), of(2, web))
	r.wants("what it had is free", err, codes.OK)
}

// TestNextOfItsName: a pod that is attached while the one before of its name is removed keeps its port, whoever of the
// two gets it.
func TestNextOfItsName(t *testing.T) {
	r := start(t, t.TempDir(), 0)
	f := r.follow()
	of := func(i int) *attach.AddRequest {
		q := request(i)
		q.PodName = "web-0"
		return q
	}
	if _, err := r.client.Add(t.Context(), of(0)); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		var both sync.WaitGroup
		both.Go(func() {
			_, err := r.client.Remove(t.Context(), &attach.RemoveRequest{Key: of(i).Key})
			r.wants("remove", err, codes.OK)
		})
		both.Go(func() {
			_, err := r.client.Add(t.Context(), of(i+1))
			r.wants("add", err, codes.OK)
		})
		both.Wait()
		a, there := r.store.Get(lease.Key{Network: "net", Container: of(i + 1).Key.Container, Interface: "eth0"})
		if !there {
			t.Fatalf("pod %d has no lease", i+1)
		}
		r.eventually("the port is the only one", func() bool { return f.ports() == a.Port })
	}
}

// TestStandingStays: an attachment that is asked for again in the same words stays, whatever is wrong with it.
func TestStandingStays(t *testing.T) {
	r := start(t, t.TempDir(), 0)
	f := r.follow()
	if _, err := r.client.Add(t.Context(), request(1)); err != nil {
		t.Fatal(err)
	}
	f.tell(func() { f.closed["default/pod-1"] = "its device is gone" })
	r.source.Replace(nodeConfig(t, "{podCIDRs: [10.244.1.0/24], workers: 1}"))
	r.eventually("the port is closed", func() bool { return r.server.InForce("default/pod-1") != nil })
	_, err := r.client.Add(t.Context(), request(1))
	r.wants("again", err, codes.FailedPrecondition)
	if r.store.Len() != 1 || f.ports() != "default/pod-1" {
		t.Errorf("%d attachments, ports %q", r.store.Len(), f.ports())
	}
}

// TestDeadline: an answer comes within the time, and nothing is left of what was asked for.
func TestDeadline(t *testing.T) {
	r := start(t, t.TempDir(), 50*time.Millisecond)
	f := r.follow()
	f.tell(func() { f.held = true })
	_, err := r.client.Add(t.Context(), request(1))
	r.wants("a dataplane that does not answer", err, codes.Unavailable)
	if n := r.store.Len(); n != 0 {
		t.Errorf("%d attachments are left", n)
	}
	f.tell(func() { f.held = false })
	r.eventually("no port is left", func() bool { return f.ports() == "" && r.server.Attachable() == nil })
}

// TestParallel: calls for one attachment take turns, the others do not wait for each other.
func TestParallel(t *testing.T) {
	r := start(t, t.TempDir(), 0)
	f := r.follow()
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			for range 3 {
				if _, err := r.client.Add(t.Context(), request(i%50)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if n := len(strings.Fields(f.ports())); n != 50 || r.store.Len() != 50 {
		t.Errorf("%d ports, %d attachments", n, r.store.Len())
	}
	for i := range 50 {
		all.Go(func() {
			if _, err := r.client.Remove(t.Context(), &attach.RemoveRequest{Key: request(i).Key}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	r.eventually("no port is left", func() bool { return f.ports() == "" })
	if n := r.store.Len(); n != 0 {
		t.Errorf("%d attachments", n)
	}
}

// TestCollect: what the runtime does not know goes, of its network only.
func TestCollect(t *testing.T) {
	r := start(t, t.TempDir(), 0)
	r.follow()
	for i := range 4 {
		q := request(i)
		if i == 3 {
			q.Key.Network = "other"
		}
		if _, err := r.client.Add(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	got, err := r.client.Collect(t.Context(), &attach.CollectRequest{Network: "net",
		Valid: []*attach.Key{{Container: "c1", Interface: "eth0"}, {Container: "none", Interface: "eth0"}}})
	if err != nil || fmt.Sprint(got.Devices) != "[vd0 vd2]" || r.store.Len() != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestKilled: control may end at any point between the lease and the answer: what it finds in its store is in force
// once a dataplane follows.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, 0)
	f := r.follow()
	if _, err := r.client.Add(t.Context(), request(1)); err != nil {
		t.Fatal(err)
	}
	_ = f
	var none reader
	a, _ := none.add(request(2))
	if _, _, err := r.store.Add(a, nil); err != nil { // and no more
		t.Fatal(err)
	}
	r.stop()
	r = start(t, dir, 0)
	if f = r.follow(); f.ports() != "default/pod-1 default/pod-2" {
		t.Errorf("ports %q", f.ports())
	}
	added, err := r.client.Add(t.Context(), request(2))
	if err != nil || added.Addresses[0] != "10.244.1.3" {
		t.Errorf("again: %v, %v", added, err)
	}
}

// TestHostile: what is not as it should be is refused before anything comes of it.
func TestHostile(t *testing.T) {
	r := start(t, t.TempDir(), 0)
	r.follow()
	long := strings.Repeat("x", 1<<20)
	for name, change := range map[string]func(q *attach.AddRequest){
		"no key":           func(q *attach.AddRequest) { q.Key = nil },
		"no network":       func(q *attach.AddRequest) { q.Key.Network = "" },
		"a path":           func(q *attach.AddRequest) { q.Key.Network = "../x" },
		"a long container": func(q *attach.AddRequest) { q.Key.Container = long },
		"a zero byte":      func(q *attach.AddRequest) { q.Key.Container = "c\x00d" },
		"a long interface": func(q *attach.AddRequest) { q.Key.Interface = "0123456789abcdef" },
		"a slash":          func(q *attach.AddRequest) { q.Key.Interface = "a/b" },
		"dots":             func(q *attach.AddRequest) { q.Key.Interface = ".." },
		"no namespace":     func(q *attach.AddRequest) { q.Netns = "" },
		"a relative path":  func(q *attach.AddRequest) { q.Netns = "netns" },
		"a long path":      func(q *attach.AddRequest) { q.Netns = "/" + long },
		"half a pod":       func(q *attach.AddRequest) { q.PodName = "" },
		"no pod's name":    func(q *attach.AddRequest) { q.PodName = "Pod\n" },
		"a long namespace": func(q *attach.AddRequest) { q.PodNamespace = strings.Repeat("x", 64) },
		"a long UID":       func(q *attach.AddRequest) { q.PodUid = long },
		"eth0":             func(q *attach.AddRequest) { q.Device = "eth0" },
		"a long device":    func(q *attach.AddRequest) { q.Device = "vd01234567890123" },
		"only a prefix":    func(q *attach.AddRequest) { q.Device = "vd" },
		"a strange device": func(q *attach.AddRequest) { q.Device = "vd/../x" },
		"no MAC":           func(q *attach.AddRequest) { q.Mac = nil },
		"a long MAC":       func(q *attach.AddRequest) { q.Mac = []byte(long) },
		"a group's MAC":    func(q *attach.AddRequest) { q.Mac[0] = 1 },
		"zeros":            func(q *attach.AddRequest) { q.Mac = make([]byte, 6) },
		"a router's MAC":   func(q *attach.AddRequest) { q.Mac = []byte{2, 0x76, 0x64, 0, 0, 0} },
		"no way":           func(q *attach.AddRequest) { q.Attach = 7 },
		"text":             func(q *attach.AddRequest) { q.Addresses = []string{"x"} },
		"a prefix":         func(q *attach.AddRequest) { q.Addresses = []string{"10.244.1.7/24"} },
		"a zone":           func(q *attach.AddRequest) { q.Addresses = []string{"fd00:1::7%eth0"} },
		"mapped":           func(q *attach.AddRequest) { q.Addresses = []string{"::ffff:10.244.1.7"} },
		"loopback":         func(q *attach.AddRequest) { q.Addresses = []string{"127.0.0.1"} },
		"link-local":       func(q *attach.AddRequest) { q.Addresses = []string{"fe80::7"} },
		"multicast":        func(q *attach.AddRequest) { q.Addresses = []string{"ff02::7"} },
		"class E":          func(q *attach.AddRequest) { q.Addresses = []string{"250.0.0.1"} },
		"twice":            func(q *attach.AddRequest) { q.Addresses = []string{"10.244.1.7", "10.244.1.7"} },
		"many":             func(q *attach.AddRequest) { q.Addresses = make([]string, 1000) },
		"none, delegated":  func(q *attach.AddRequest) { q.Delegated = true },
	} {
		q := request(1)
		change(q)
		_, err := r.client.Add(t.Context(), q)
		r.wants(name, err, codes.InvalidArgument)
		if err != nil && len(err.Error()) > 300 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
	for name, call := range map[string]func() error{
		"remove": func() error { _, err := r.client.Remove(t.Context(), &attach.RemoveRequest{}); return err },
		"check":  func() error { _, err := r.client.Check(t.Context(), &attach.CheckRequest{}); return err },
		"collect": func() error {
			_, err := r.client.Collect(t.Context(), &attach.CollectRequest{Network: "net", Valid: []*attach.Key{nil}})
			return err
		},
	} {
		r.wants(name, call(), codes.InvalidArgument)
	}
	if n := r.store.Len(); n != 0 {
		t.Errorf("%d attachments", n)
	}
}

// TestTurns: who waits for an attachment may stop to, and nobody is left.
func TestTurns(t *testing.T) {
	k, key := newKeys(), lease.Key{Network: "n"}
	first, err := k.lock(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.lock(ctx, key); err == nil {
		t.Error("two have one key")
	}
	if k.try(key) != nil {
		t.Error("two have one key")
	}
	first()
	if unlock := k.try(key); unlock == nil {
		t.Error("the key is held by nobody, and not free")
	} else {
		unlock()
	}
	k.idle()
	if len(k.held) != 0 {
		t.Errorf("held %v", k.held)
	}
}

// BenchmarkAdd is Add and Remove over the socket, with a disk and a dataplane that answers at once.
func BenchmarkAdd(b *testing.B) {
	r := start(b, b.TempDir(), 0)
	r.follow()
	for i := range 250 {
		if _, err := r.client.Add(b.Context(), request(i)); err != nil {
			b.Fatal(err)
		}
	}
	var remove time.Duration
	for b.Loop() {
		if _, err := r.client.Add(b.Context(), request(1000)); err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		if _, err := r.client.Remove(b.Context(), &attach.RemoveRequest{Key: request(1000).Key}); err != nil {
			b.Fatal(err)
		}
		remove += time.Since(begin)
	}
	b.ReportMetric(float64(remove.Nanoseconds())/float64(b.N), "remove-ns/op")
}
