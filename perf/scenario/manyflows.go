// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/viaduct-net/viaduct/perf/rig"
)

// manyFlows are flows of UDP between two pods, each from one of the sockets of the one to one of the other's.
type manyFlows struct {
	clients []*net.UDPConn
	servers []*net.UDPConn
	at      []netip.AddrPort
	count   int
	answers chan struct{}
}

// flowsOfSocket is how many flows a client's socket has, each to another server's.
const flowsOfSocket = 256

// openFlows opens count flows, each with packets in both directions. Clients are of all of the namespaces from: what
// one pod may open is bounded.
func openFlows(from []*rig.Namespace, to *rig.Namespace, count int) (_ *manyFlows, err error) {
	m := &manyFlows{count: count, answers: make(chan struct{}, flowsOfSocket)}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	for range min(count, flowsOfSocket) {
		c, at, err := listenUDP(to)
		if err != nil {
			return nil, err
		}
		m.servers, m.at = append(m.servers, c), append(m.at, at)
		go echoAll(c)
	}
	for i := range (count + flowsOfSocket - 1) / flowsOfSocket {
		c, _, err := listenUDP(from[i%len(from)])
		if err != nil {
			return nil, err
		}
		m.clients = append(m.clients, c)
		go m.hear(c)
	}
	return m, m.refresh()
}

// echoAll sends back what comes until the socket is closed.
func echoAll(c *net.UDPConn) {
	var b [64]byte
	for {
		n, from, err := c.ReadFromUDPAddrPort(b[:])
		if err != nil {
			return
		}
		_, _ = c.WriteToUDPAddrPort(b[:n], from)
	}
}

func (m *manyFlows) hear(c *net.UDPConn) {
	var b [64]byte
	for {
		if _, _, err := c.ReadFromUDPAddrPort(b[:]); err != nil {
			return
		}
		m.answers <- struct{}{}
	}
}

// refresh sends on each flow there and back, more than once, so that none is idle and all are known in both directions.
func (m *manyFlows) refresh() error {
	for range 3 {
		for i, c := range m.clients {
			sent := 0
			for _, at := range m.at[:min(flowsOfSocket, m.count-i*flowsOfSocket)] {
				if _, err := c.WriteToUDPAddrPort([]byte{1}, at); err != nil {
					return fmt.Errorf("send: %w", err)
				}
				sent++
			}
			for patience := time.After(100 * time.Millisecond); sent > 0; sent-- {
				select {
				case <-m.answers:
				case <-patience: // some are lost where nobody has room
					sent = 1
				}
			}
		}
	}
	return nil
}

func (m *manyFlows) close() error {
	var errs []error
	for _, c := range append(m.clients, m.servers...) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
