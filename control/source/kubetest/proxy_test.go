// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy leads to the API server over wires that can be cut.
type proxy struct {
	address string
	to      string
	mu      sync.Mutex
	cut     bool
	held    chan struct{} // closed when connections are let through
	wires   map[net.Conn]bool
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: listener.Addr().String(), to: to, held: make(chan struct{}), wires: map[net.Conn]bool{}}
	close(p.held)
	t.Cleanup(func() {
		listener.Close()
		p.set(true)
	})
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go p.join(client)
		}
	}()
	return p
}

// set cuts all wires and allows no others, or allows them again.
func (p *proxy) set(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	if cut {
		for wire := range p.wires {
			wire.Close()
		}
	}
}

// delay cuts all wires, and lets those that are laid anew wait until it is called off.
func (p *proxy) delay() (callOff func()) {
	p.mu.Lock()
	held := make(chan struct{})
	p.held = held
	p.mu.Unlock()
	p.set(true)
	p.set(false)
	return func() { close(held) }
}

func (p *proxy) wait() {
	p.mu.Lock()
	held := p.held
	p.mu.Unlock()
	<-held
}

func (p *proxy) join(client net.Conn) {
	defer client.Close()
	p.wait()
	server, err := net.Dial("tcp", p.to)
	if err != nil || !p.hold(client, server) {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	_, _ = io.Copy(client, server)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.wires, client)
	delete(p.wires, server)
}

func (p *proxy) hold(wires ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, wire := range wires {
		if p.cut {
			wire.Close()
			continue
		}
		p.wires[wire] = true
	}
	return !p.cut
}
