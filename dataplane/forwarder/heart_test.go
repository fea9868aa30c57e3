// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/worker"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// A worker hangs that has not got on for some beats, and no longer once it has; userspace is alive as long as one gets
// on.
func TestPulse(t *testing.T) {
	stuck := new(worker.Worker).Progress()
	asleep := worker.Asleep
	var p pulse
	if p.take(nil) {
		t.Error("nobody is alive")
	}
	both, one := []worker.Progress{stuck, asleep}, []worker.Progress{stuck, stuck}
	for beat := range 3 * hungAfter {
		if !p.take(both) {
			t.Fatalf("beat %d: one sleeps and is not alive", beat)
		}
		if hung := p.hung(); slices.Equal(hung, []int{0}) != (beat >= hungAfter) || len(hung) > 1 {
			t.Fatalf("after %d beats %v hang", beat, hung)
		}
	}
	if p.take(one) || !slices.Equal(p.hung(), []int{0}) {
		t.Errorf("none is alive, %v hang", p.hung())
	}
	if p.take([]worker.Progress{asleep, stuck}); p.hung() != nil {
		t.Errorf("%v hang", p.hung())
	}
	if !p.take(both[:1]) || p.hung() != nil {
		t.Error("others than before have no time")
	}
}

// questions asks by each of the connections, and returns how many were answered.
func (n *podNode) questions(clients []net.Conn) int {
	n.t.Helper()
	var got atomic.Int32
	var asking sync.WaitGroup
	for _, c := range clients {
		_, err := c.Write([]byte("?"))
		n.must(err)
		n.must(c.SetReadDeadline(time.Now().Add(time.Second)))
		asking.Go(func() {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				got.Add(1)
			}
		})
	}
	asking.Wait()
	return int(got.Load())
}

// While one of two workers hangs, what the kernel carries goes on, and so do flows that are the other's; what would be
// for the one is counted by hooks. Status says which. Once it gets on again all is as before.
func TestHungWorker(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	n.offload, n.workers = true, 2
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	carried := n.begun(a, b, "10.244.1.6")
	stop := n.datagrams(a, b, "10.244.1.6")
	var server net.PacketConn
	n.must(b.Do(func() (err error) { server, err = net.ListenPacket("udp", "10.244.1.6:0"); return err }))
	defer server.Close()
	go func() {
		buffer := make([]byte, 64)
		for {
			k, peer, err := server.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buffer[:k], peer)
		}
	}()
	var clients []net.Conn
	for range 32 {
		n.must(a.Do(func() error {
			c, err := net.Dial("udp", server.LocalAddr().String())
			clients = append(clients, c)
			return err
		}))
		t.Cleanup(func() { _ = clients[len(clients)-1].Close() })
	}

	released := make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	t.Cleanup(release)
	n.f.workers[1].worker.Do(func() { <-released })
	n.eventually("it to be known that a worker hangs", func() bool {
		workers := n.f.Status().Workers
		return workers[1].Silent && !workers[0].Silent
	})
	if d := n.f.Status().Degraded; !slices.ContainsFunc(d, func(d *dataplaneapi.Degradation) bool {
		return d.Subject == "worker 1"
	}) {
		t.Errorf("degraded: %v", d)
	}
	carried.mustSay(1 << 20)
	before := n.hookCount(5, xdpprog.AbsentDropped)
	answered := n.questions(clients)
	// What is asked by one queue is answered by the same.
	if dropped := n.hookCount(5, xdpprog.AbsentDropped) - before; answered < 4 || answered > 28 ||
		dropped < uint64(len(clients)-answered) {
		t.Errorf("%d of %d were answered, %d dropped by the hook", answered, len(clients), dropped)
	}
	carried.mustSay(1 << 20)
	if lost := stop(); lost != 0 {
		t.Errorf("%d datagrams that the kernel carries were lost", lost)
	}
	release()
	n.eventually("the worker to get on", func() bool { return !n.f.Status().Workers[1].Silent })
	if answered := n.questions(clients); answered != len(clients) {
		t.Errorf("at last %d of %d were answered", answered, len(clients))
	}
	n.balanced()
}

// hookCount is how many packets a pod's hook has counted for a reason.
func (n *podNode) hookCount(pod int, reason xdpprog.Reason) uint64 {
	n.t.Helper()
	for _, p := range n.f.Report(fmt.Sprint("default/pod", pod)).Ports {
		return p.Hook[reason.String()]
	}
	n.t.Fatalf("pod %d has no port", pod)
	return 0
}
