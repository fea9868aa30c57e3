// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// early is how many pods begin to speak before they are ready, one after another.
const early = 500

// TestFirstPacketsArePoliced: of pods that speak as soon as their device is up, those are heard that policy lets, from
// their first packet on, and of the others not one packet is.
func TestFirstPacketsArePoliced(t *testing.T) {
	p := newPodSite(t, "10.244.0.0/21", "fd00:244:1::/64")
	p.write("policy.yaml", networkPolicy("default", "friends",
		"{podSelector: {matchLabels: {app: ear}}, ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]}"))
	p.write("pod-ear.yaml", podManifest("default", "ear", "app: ear"))
	var manifests []string
	for i := range early {
		manifests = append(manifests, podManifest("default", fmt.Sprint("p", i), "app: "+[]string{"friend", "foe"}[i%2]))
	}
	p.write("pods.yaml", strings.Join(manifests, "---\n"))
	p.eventually("the pods to be known", func() error {
		s, err := p.controlStatus()
		if err == nil && s.Objects["Pod"] != early+1 {
			err = fmt.Errorf("%d pods", s.Objects["Pod"])
		}
		return err
	})
	ear := p.pod("ear")
	p.must(ear.tryAdd())
	heard := p.listen(ear)
	pods := make([]*attached, early)
	for i := range pods {
		var err error
		pods[i], err = p.tryPod(fmt.Sprint("p", i))
		p.must(err)
		t.Cleanup(pods[i].close)
	}
	for i, pod := range pods {
		said := pod.speaks(netip.AddrPortFrom(ear.address[4+i%4/2*2], peerPort), fmt.Sprint(i))
		p.must(pod.tryAdd())
		p.must(<-said)
	}
	p.eventually("all friends to be heard", func() error {
		if n := len(heard.names()); n < early/2 {
			return fmt.Errorf("%d of %d", n, early/2)
		}
		return nil
	})
	for name := range heard.names() {
		if strings.TrimRight(name, "02468") == name {
			t.Errorf("pod %s was heard, which policy denies", name)
		}
	}
	p.must(each(early, 4, func(i int) error { return pods[i].tryDel() }))
	p.balanced()
}

// speaks has the pod send its name from before it is wired until it could, once.
func (a *attached) speaks(to netip.AddrPort, name string) <-chan error {
	done := make(chan error, 1)
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd := -1
	err := a.Do(func() (err error) { fd, err = unix.Socket(family, unix.SOCK_DGRAM, 0); return err })
	if err != nil {
		done <- err
		return done
	}
	go func() {
		defer func() { _ = unix.Close(fd) }()
		for deadline := time.Now().Add(within); ; {
			err := unix.Sendto(fd, []byte(name), 0, address)
			if err == nil || time.Now().After(deadline) {
				done <- err
				return
			}
			time.Sleep(50 * time.Microsecond) // there is no way there yet
		}
	}()
	return done
}

// ears are what is heard in a pod.
type ears struct {
	mu    sync.Mutex
	heard map[string]bool
}

func (e *ears) names() map[string]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.heard)
}

// listen hears the datagrams that come to a pod until the test ends.
func (p *podSite) listen(a *attached) *ears {
	p.t.Helper()
	e := &ears{heard: map[string]bool{}}
	var c net.PacketConn
	p.must(a.Do(func() (err error) { c, err = net.ListenPacket("udp", fmt.Sprint(":", peerPort)); return err }))
	var done sync.WaitGroup
	done.Go(func() {
		buffer := make([]byte, 64)
		for {
			n, _, err := c.ReadFrom(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			e.mu.Lock()
			e.heard[string(slices.Clone(buffer[:n]))] = true
			e.mu.Unlock()
		}
	})
	p.t.Cleanup(func() {
		_ = c.Close()
		done.Wait()
	})
	return e
}
