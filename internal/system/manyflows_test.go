// SPDX-License-Identifier: Apache-2.0

package system

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Many flows are UDP flows of one pod to another: from sourcePorts ports, from firstSource on, to sinkPorts ports, from
// firstSink on.
const (
	sourcePorts, firstSource = 50_000, 10_000
	sinkPorts, firstSink     = 2, 5000
	manyFlows                = sourcePorts * sinkPorts
)

// TestManyFlowsRevoked: a policy that denies as many flows as this ends them all at once, with the connections among
// them: nothing of them passes once the dataplane says that the policy is in force.
func TestManyFlowsRevoked(t *testing.T) {
	s := newStage(t, "flows: 262144", "flowsPerPort: 262144")
	m := s.manyFlows("web", "db")
	c := s.connection("web", "db")
	defer c.Close()
	m.open()
	status, err := s.dataplaneStatus()
	s.must(err)
	if n := status.FlowTable.Flows; n < manyFlows {
		t.Fatalf("%d flows are in the table, of %d", n, manyFlows)
	}
	lastWord := s.chatters(c)
	m.answering.Store(false)
	stop := m.goesOn()
	time.Sleep(100 * time.Millisecond) // all of it flows

	written := time.Now()
	s.write("policy.yaml", networkPolicy("shop", "deny", "{podSelector: {}, policyTypes: [Ingress]}"))
	var acked time.Time
	s.eventually("the policy to be in force", func() error {
		now, err := s.dataplaneStatus()
		if err == nil && now.Policies == 0 {
			err = errors.New("it is not")
		}
		acked = time.Now()
		return err
	})
	rounds := m.rounds.Load()
	s.eventually("each flow to have tried again", func() error {
		if n := m.rounds.Load() - rounds; n < 2 {
			return fmt.Errorf("%d rounds", n)
		}
		return nil
	})
	stop()
	word := lastWord()
	after, err := s.dataplaneStatus()
	s.must(err)
	last, sent := m.last()
	t.Logf("the policy was in force %v after it was written; the last packet of %d flows arrived after %v, %v after the "+
		"policy was said to be in force; the last word of the connection %v after it was written; %d flows revoked",
		acked.Sub(written), manyFlows, last.Sub(written), last.Sub(acked), word.Sub(written), after.FlowTable.Revoked)
	if sent.After(acked) {
		t.Errorf("a packet passed that was sent %v after the policy was in force", sent.Sub(acked))
	}
	for what, at := range map[string]time.Time{"the policy in force": acked, "last packet": last, "last word": word} {
		if took := at.Sub(written); took > 5*time.Second {
			t.Errorf("%s %v after the policy was written", what, took)
		}
	}
	if n := after.FlowTable.Revoked - status.FlowTable.Revoked; n < manyFlows {
		t.Errorf("%d flows were revoked", n)
	}
	s.balanced()
}

// chatters has a connection say a word and hear its echo, again and again; the function that is returned ends that and
// says when the last word was heard.
func (s *stage) chatters(c net.Conn) (stop func() time.Time) {
	var last time.Time
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-end:
				return
			default:
			}
			if chat(c) == nil {
				last = time.Now()
			}
		}
	}()
	return func() time.Time {
		close(end)
		<-done
		return last
	}
}

// flood is many flows, between who sends in them and who hears.
type flood struct {
	s         *stage
	from      *ipv4.PacketConn
	to        net.Addr
	answering atomic.Bool
	heard     atomic.Int64
	rounds    atomic.Int64

	mu           sync.Mutex
	lastAt, sent time.Time // of the packet that arrived last
}

// manyFlows makes ready what sends from one pod, and what hears, and at first answers, in another.
func (s *stage) manyFlows(from, to string) *flood {
	s.t.Helper()
	// Nobody has the ports that answers come to: the stack must not say so.
	s.must(s.of(from).Do(func() error {
		return exec.Command("nft", "add table ip t; add chain ip t in { type filter hook input priority 0; }; "+
			fmt.Sprintf("add rule ip t in udp sport %d-%d drop", firstSink, firstSink+sinkPorts-1)).Run()
	}))
	m := &flood{s: s, to: &net.IPAddr{IP: s.address(to, 4).AsSlice()}}
	m.answering.Store(true)
	m.from = ipv4.NewPacketConn(s.raw(s.of(from), 4, unix.IPPROTO_UDP).IPConn)
	var served sync.WaitGroup
	s.t.Cleanup(served.Wait)
	for i := range uint16(sinkPorts) {
		sink := s.hears(to, netip.AddrPortFrom(s.address(to, 4), firstSink+i))
		s.must(sink.PacketConn.(*net.UDPConn).SetReadBuffer(8 << 20))
		served.Go(func() { m.hear(ipv4.NewPacketConn(sink.PacketConn)) })
	}
	return m
}

// hear counts what comes, and answers with the same.
func (m *flood) hear(c *ipv4.PacketConn) {
	batch := batchOf(64)
	for {
		n, err := c.ReadBatch(batch, 0)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n == 0 {
			continue
		}
		m.mu.Lock()
		m.lastAt = time.Now()
		for i := range batch[:n] {
			if at := time.Unix(0, int64(binary.BigEndian.Uint64(batch[i].Buffers[0]))); at.After(m.sent) {
				m.sent = at
			}
		}
		m.mu.Unlock()
		if m.answering.Load() {
			for left := batch[:n]; len(left) > 0; {
				done, err := c.WriteBatch(left, 0)
				if err != nil {
					break
				}
				left = left[done:]
			}
		}
		m.heard.Add(int64(n))
	}
}

const manyBytes = 8 // of data in a datagram: when it was sent, nanoseconds since 1970

func batchOf(n int) []ipv4.Message {
	batch := make([]ipv4.Message, n)
	for i := range batch {
		batch[i].Buffers = [][]byte{make([]byte, manyBytes)}
	}
	return batch
}

// open has each flow begun and answered.
func (m *flood) open() {
	m.s.t.Helper()
	const ahead = 1024 // of those that were heard
	m.s.must(m.send(func(sent int) error {
		for deadline := time.Now().Add(within); int64(sent)-m.heard.Load() > ahead; time.Sleep(50 * time.Microsecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("of %d datagrams %d were heard", sent, m.heard.Load())
			}
		}
		return nil
	}))
	m.s.eventually("all flows to be heard", func() error {
		if n := m.heard.Load(); n != manyFlows {
			return fmt.Errorf("%d of %d", n, manyFlows)
		}
		return nil
	})
}

// goesOn has all flows send round after round, until what is returned is called.
func (m *flood) goesOn() (stop func()) {
	end, done := make(chan struct{}), make(chan error, 1)
	ended := errors.New("ended")
	go func() {
		var err error
		for err == nil {
			err = m.send(func(int) error {
				select {
				case <-end:
					return ended
				default:
					time.Sleep(200 * time.Microsecond) // others are to have the CPU too
					return nil
				}
			})
			m.rounds.Add(1)
		}
		done <- err
	}()
	return func() {
		m.s.t.Helper()
		close(end)
		if err := <-done; !errors.Is(err, ended) {
			m.s.t.Error(err)
		}
	}
}

// send sends a datagram in each flow, and asks before each batch, with the number that were sent, whether to go on.
func (m *flood) send(may func(sent int) error) error {
	batch := make([]ipv4.Message, 128)
	for i := range batch {
		batch[i].Addr, batch[i].Buffers = m.to, [][]byte{make([]byte, 8+manyBytes)}
	}
	for sent := 0; sent < manyFlows; {
		if err := may(sent); err != nil {
			return err
		}
		n := min(len(batch), manyFlows-sent)
		for i := range n {
			flow, d := sent+i, batch[i].Buffers[0]
			binary.BigEndian.PutUint16(d, uint16(firstSource+flow/sinkPorts))
			binary.BigEndian.PutUint16(d[2:], uint16(firstSink+flow%sinkPorts))
			binary.BigEndian.PutUint16(d[4:], 8+manyBytes) // without a checksum
			binary.BigEndian.PutUint64(d[8:], uint64(time.Now().UnixNano()))
		}
		for left := batch[:n]; len(left) > 0; {
			done, err := m.from.WriteBatch(left, 0)
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
			done = max(done, 0) // -1 when there was no buffer for the first
			left, sent = left[done:], sent+done
		}
	}
	return nil
}

// last is when the last datagram came, and when the youngest one that came was sent.
func (m *flood) last() (at, sent time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lastAt, m.sent
}
