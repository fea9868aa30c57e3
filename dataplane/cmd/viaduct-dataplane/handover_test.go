// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/handover"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// startBeside starts the program with more flags, and leaves what runs to end by itself.
func (n *node) startBeside(pins string, more ...string) {
	n.t.Helper()
	c := exec.Command("/proc/self/exe", append([]string{"--run", n.run, "--state", n.state, "--bpf", pins,
		"--ring", "2048"}, more...)...)
	c.Env = append(os.Environ(), itself+"=1")
	n.out = &output{}
	c.Stdout, c.Stderr = n.out, n.out
	out := n.out
	var err error
	n.program, err = n.lab.Start(n.middle, c)
	n.must(err)
	n.t.Cleanup(func() {
		if n.t.Failed() {
			n.t.Log(out.String())
		}
	})
}

// ended waits until a program has ended by itself, which it has with status 0.
func (n *node) ended(p *netlab.Process) {
	n.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		n.t.Fatal("the predecessor does not end")
	}
	n.must(p.Err())
}

// ping sends numbered datagrams from left to right until stop is called, which says how many did not come.
func (n *node) ping() (stop func() (lost int)) {
	n.t.Helper()
	var in *net.UDPConn
	n.must(n.right.Do(func() (err error) {
		in, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(10, 2, 0, 2)})
		return err
	}))
	var out net.Conn
	n.must(n.left.Do(func() (err error) {
		out, err = net.Dial("udp", in.LocalAddr().String())
		return err
	}))
	end, done := make(chan struct{}), make(chan int)
	go func() {
		for sent := 0; ; sent++ {
			select {
			case <-end:
				done <- sent
				return
			case <-time.After(500 * time.Microsecond):
				_, _ = fmt.Fprintf(out, "%d", sent)
			}
		}
	}()
	arrived := make(chan int)
	go func() {
		count := 0
		for b := make([]byte, 16); ; count++ {
			if _, err := in.Read(b); err != nil {
				arrived <- count
				return
			}
		}
	}()
	return func() int {
		close(end)
		sent := <-done
		time.Sleep(200 * time.Millisecond)
		_ = in.Close()
		_ = out.Close()
		return sent - <-arrived
	}
}

// A dataplane that is started with --take-over beside another takes over from it, sockets and all; without it the
// second one is refused, and so is a third one at once.
func TestTakeOver(t *testing.T) {
	n := newNode(t)
	pins := filepath.Join("/sys/fs/bpf", fmt.Sprint("viaduct-take-over-", os.Getpid()))
	t.Cleanup(func() { _ = os.RemoveAll(pins) })
	c, _ := n.listen()
	n.startBeside(pins)
	s, _ := n.hello(c)
	if n.whole(s, snapshot(1)).GetAck() == nil {
		t.Fatal("refused")
	}
	n.ready()
	n.must(n.cross())
	first, firstOut := n.program, n.out

	n.startBeside(pins)
	if err := n.program.Err(); err == nil || !strings.Contains(n.out.String(), "runs already") {
		t.Errorf("a second one: %v, %s", err, n.out)
	}
	stop := n.ping()
	time.Sleep(50 * time.Millisecond)
	n.startBeside(pins, "--take-over")
	n.ready()
	n.ended(first)
	if !strings.Contains(firstOut.String(), "a successor has taken over") {
		t.Error(firstOut.String())
	}
	if lost := stop(); lost != 0 {
		t.Errorf("%d datagrams were lost", lost)
	}
	if st := n.status(); st.TablesFrom != "predecessor" || st.Epoch != 1 || strings.Contains(n.out.String(), "fresh") {
		t.Errorf("status %v", st)
	}
	n.must(n.cross())
	s, hello := n.hello(c)
	if hello.InForce.GetEpoch() != 1 || n.whole(s, snapshot(2)).GetAck().GetEpoch() != 2 {
		t.Errorf("hello %v", hello)
	}

	second, out := n.program, n.out
	n.startBeside(pins, "--take-over")
	if err := n.program.Err(); err == nil || !strings.Contains(n.out.String(), "took over itself") {
		t.Errorf("a third one at once: %v, %s", err, n.out)
	}
	n.program, n.out = second, out
	n.must(n.cross())
	n.stop()
}

// Where hooks are not pinned the successor gets no sockets, which it says, and opens its own.
func TestTakeOverAfresh(t *testing.T) {
	n := newNode(t)
	c, _ := n.listen()
	n.startBeside("")
	s, _ := n.hello(c)
	n.whole(s, snapshot(1))
	n.ready()
	first := n.program
	n.startBeside("", "--take-over")
	n.ready()
	n.ended(first)
	if !strings.Contains(n.out.String(), "not pinned") {
		t.Error(n.out.String())
	}
	n.must(n.cross())
	n.stop()
}

// Whoever asks and then falls silent, dies or speaks something else leaves the dataplane as it was.
func TestTakeOverGivenUp(t *testing.T) {
	n := newNode(t)
	pins := filepath.Join("/sys/fs/bpf", fmt.Sprint("viaduct-given-up-", os.Getpid()))
	t.Cleanup(func() { _ = os.RemoveAll(pins) })
	c, _ := n.listen()
	n.startBeside(pins)
	s, _ := n.hello(c)
	n.whole(s, snapshot(1))
	n.ready()
	stop := n.ping()
	var stat os.FileInfo
	n.eventually("the socket", func() bool {
		var err error
		stat, err = os.Stat(filepath.Join(n.run, handover.SocketName))
		return err == nil
	})
	if stat.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v", stat.Mode())
	}
	const patience = 5 * time.Second
	hello := handover.Hello{Layout: handover.Layout, Pins: pins, Sockets: "viaduct", Ring: 2048}
	for step := range 4 {
		conn, err := handover.Dial(n.run)
		n.must(err)
		if step == 3 {
			hello.Layout++
		}
		if step > 0 {
			n.must(conn.Send(handover.HelloMessage, patience, hello))
			files, err := conn.Receive(handover.OfferMessage, patience, nil)
			handover.CloseFiles(files)
			if refused := err != nil; refused != (step == 3) {
				t.Fatalf("step %d: %v", step, err)
			}
		}
		if step == 2 {
			n.must(conn.Send(handover.ReadyMessage, patience, nil))
			files, err := conn.Receive(handover.StateMessage, patience, nil)
			n.must(err)
			handover.CloseFiles(files)
		}
		n.must(conn.Close())
	}
	n.must(n.cross())
	if lost := stop(); lost != 0 {
		t.Errorf("%d datagrams were lost", lost)
	}
	n.stop()
}
