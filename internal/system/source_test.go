// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/viaduct-net/viaduct/control/source/etcd/etcdtest"
)

// The directory goes, and another one takes its place: what was in force stays meanwhile.
func TestDirectoryAway(t *testing.T) {
	s := newSite(t, programs.race)
	want := newDesired()
	s.put(want)
	control, dataplane := s.startControl(), s.startDataplane()
	dataplane.ready()
	s.converges(want)
	all := s.startTraffic()
	s.flows(all)
	s.lossless(all, "the directory was away", func() {
		s.must(os.Rename(s.manifests, s.manifests+".away"))
		s.troubled(true)
		s.must(s.inForce(want))
		want.steer(2)
		want.routes["other"] = route{"10.66.0.0/16", "blackhole", nil}
		want.pods["p"] = pod{"a", map[string]string{"app": "p"}, "10.244.0.1"}
		place := s.manifests
		s.manifests += ".next"
		s.must(os.Mkdir(s.manifests, 0o755))
		s.put(want)
		s.must(os.Rename(s.manifests, place))
		s.manifests = place
		s.troubled(false)
		s.converges(want)
	})

	// The very directory of before returns, with what it had.
	s.must(os.Rename(s.manifests, s.manifests+".next"))
	s.troubled(true)
	s.must(os.Rename(s.manifests+".away", s.manifests))
	s.troubled(false)
	want = newDesired()
	s.converges(want)
	s.well()

	// And it is watched again.
	want.steer(3)
	s.put(want, "route-right-4", "route-right-6")
	s.converges(want)
	control.stop()
	dataplane.stop()
	s.nothingLeft()
}

// troubled waits until status says that something, or nothing, is wrong with the source.
func (s *site) troubled(wrong bool) {
	s.t.Helper()
	s.says(fmt.Sprintf("that the source is in trouble: %v", wrong), func(h health) string {
		switch {
		case h.Control == nil:
			return "control is away"
		case wrong != (h.Control.Source.Trouble != ""):
			return "trouble: " + h.Control.Source.Trouble
		case wrong && h.Healthy:
			return "healthy"
		}
		return ""
	})
}

// inForce says in what the tables differ from what is desired.
func (s *site) inForce(d *desired) error {
	t, err := s.tables()
	if err != nil {
		return err
	}
	return t.differ(d.tables())
}

// etcd goes in several ways, and returns with other contents: what was in force stays meanwhile.
func TestEtcdAway(t *testing.T) {
	s := newSite(t, programs.race)
	server := etcdtest.Start(t)
	want := newDesired()
	s.putEtcd(server, want)
	proxy := s.proxy(server)
	control, dataplane := s.startControl("--source", "etcd:http://"+etcdAddress), s.startDataplane()
	dataplane.ready()
	s.converges(want)
	all := s.startTraffic()
	s.flows(all)

	for _, away := range []struct {
		name        string
		goes, comes func()
	}{
		{"frozen", server.Freeze, server.Thaw},
		{"killed", server.Kill, server.Restart},
	} {
		s.lossless(all, "etcd was "+away.name, func() {
			away.goes()
			s.troubled(true)
			s.must(s.inForce(want))
			away.comes()
			s.troubled(false)
			s.converges(want)
		})
	}
	s.lossless(all, "etcd was cut off, and changed unseen", func() {
		proxy.cut(true)
		s.troubled(true)
		s.dropEtcd(server, want, "route-left-4", "route-left-6")
		want.routes["left-4"], want.routes["left-6"] = route{"10.8.0.0/16", "forward", []hop{{"10.1.0.2", "l0", 2, 0}}},
			route{"fd08::/16", "forward", []hop{{"fd00:1::2", "l0", 2, 1400}}}
		want.pods["p"] = pod{"a", map[string]string{"app": "p"}, "10.244.0.1"}
		s.putEtcd(server, want)
		server.Compact()
		proxy.cut(false)
		s.troubled(false)
		s.converges(want)
	})

	// Control that starts while etcd is away waits for it; the dataplane forwards.
	proxy.cut(true)
	control.kill()
	control = s.startControl("--source", "etcd:http://"+etcdAddress)
	s.troubled(true)
	dataplane.kill()
	dataplane = s.startDataplane()
	dataplane.ready()
	s.flows(all)
	proxy.cut(false)
	s.troubled(false)
	s.converges(want)
	s.well()
	control.stop()
	dataplane.stop()
	s.nothingLeft()
}

// etcdKey is the key of the object in a document.
func etcdKey(t *testing.T, text string) string {
	t.Helper()
	var o struct {
		Kind     string
		Metadata struct{ Name, Namespace string }
	}
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	if o.Kind == "Pod" && o.Metadata.Namespace == "" {
		o.Metadata.Namespace = "default"
	}
	if o.Metadata.Namespace != "" {
		o.Metadata.Name = o.Metadata.Namespace + "/" + o.Metadata.Name
	}
	return "/viaduct/" + o.Kind + "/" + o.Metadata.Name
}

func (s *site) putEtcd(server *etcdtest.Server, d *desired) {
	s.t.Helper()
	var pairs []string
	for _, text := range d.documents() {
		pairs = append(pairs, etcdKey(s.t, text), text)
	}
	server.Put(pairs...)
}

func (s *site) dropEtcd(server *etcdtest.Server, d *desired, names ...string) {
	s.t.Helper()
	for _, name := range names {
		server.Delete(etcdKey(s.t, d.documents()[name]))
	}
}

// etcdAddress is where a site's proxy to etcd listens, inside the node.
const etcdAddress = "127.0.0.1:2379"

// proxy carries connections from inside the node to an etcd outside of it, or nothing.
type proxy struct {
	to string

	mu    sync.Mutex
	off   bool
	conns map[net.Conn]bool
}

func (s *site) proxy(server *etcdtest.Server) *proxy {
	s.t.Helper()
	p := &proxy{to: strings.TrimPrefix(server.Endpoint, "http://"), conns: map[net.Conn]bool{}}
	var listener net.Listener
	s.must(s.node.Do(func() (err error) { listener, err = net.Listen("tcp", etcdAddress); return err }))
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			accepting.Go(func() { p.carry(c) })
		}
	})
	s.t.Cleanup(func() {
		listener.Close()
		p.cut(true)
		accepting.Wait()
	})
	return p
}

// cut ends all connections and refuses others, or lets them be again.
func (p *proxy) cut(off bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = off
	if off {
		for c := range p.conns {
			c.Close()
		}
	}
}

func (p *proxy) own(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off {
		c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *proxy) carry(front net.Conn) {
	if !p.own(front) {
		return
	}
	back, err := net.Dial("tcp", p.to)
	if err != nil || !p.own(back) {
		front.Close()
		return
	}
	var ways sync.WaitGroup
	for _, way := range [][2]net.Conn{{front, back}, {back, front}} {
		ways.Go(func() {
			_, _ = io.Copy(way[0], way[1]) // either side may end it in any way
			front.Close()
			back.Close()
		})
	}
	ways.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, front)
	delete(p.conns, back)
}
