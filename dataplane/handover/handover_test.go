// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

const patience = 5 * time.Second

// ends are both ends of a hand-over.
func ends(t *testing.T) (successor, predecessor *Conn) {
	t.Helper()
	run := t.TempDir()
	l, err := Listen(run)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	if info, err := os.Stat(filepath.Join(run, SocketName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the socket is %v, %v", info, err)
	}
	accepted := make(chan *Conn, 1)
	go func() {
		c, _, _ := l.Accept()
		accepted <- c
	}()
	successor, err = Dial(run)
	must(t, err)
	predecessor = <-accepted
	t.Cleanup(func() { _, _ = successor.Close(), predecessor.Close() })
	return successor, predecessor
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestNobodyToAsk(t *testing.T) {
	if _, err := Dial(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
	run := t.TempDir()
	l, err := Listen(run)
	must(t, err)
	must(t, l.Close())
	if _, err := Dial(run); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a killed process left: %v", err)
	}
	l, err = Listen(run)
	must(t, err)
	must(t, l.Close())
}

// More files than one packet carries arrive in order, and are the same.
func TestMessages(t *testing.T) {
	successor, predecessor := ends(t)
	var files []*os.File
	for i := range 600 {
		f, err := NewFile([]byte{byte(i), byte(i >> 8)})
		must(t, err)
		files = append(files, f)
	}
	defer CloseFiles(files)
	sent := State{Flows: 7, Workers: []Worker{{Owners: []byte{0, 1, 2}}}}
	failed := make(chan error, 1)
	go func() { failed <- predecessor.Send(StateMessage, patience, sent, files...) }()
	var got State
	received, err := successor.Receive(StateMessage, patience, &got)
	must(t, err)
	must(t, <-failed)
	defer CloseFiles(received)
	if !reflect.DeepEqual(got, sent) || len(received) != len(files) {
		t.Fatalf("%+v with %d files", got, len(received))
	}
	for i, f := range received {
		b, err := ReadFile(f)
		must(t, err)
		if len(b) != 2 || int(b[0])|int(b[1])<<8 != i {
			t.Fatalf("file %d has %v", i, b)
		}
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Fatalf("file %d would be inherited: %v", i, err)
		}
	}
}

func TestRefusal(t *testing.T) {
	successor, predecessor := ends(t)
	must(t, predecessor.Send(RefusalMessage, patience, Refusal{"no"}))
	var refused *RefusedError
	if _, err := successor.Receive(OfferMessage, patience, nil); !errors.As(err, &refused) || refused.Reason != "no" {
		t.Errorf("refusal arrives as %v", err)
	}
	must(t, predecessor.Send(CommitMessage, patience, nil))
	if _, err := successor.Receive(OfferMessage, patience, nil); err == nil || !strings.Contains(err.Error(), "commit") {
		t.Errorf("another message is taken: %v", err)
	}
	must(t, predecessor.Close())
	if _, err := successor.Receive(OfferMessage, patience, nil); !errors.Is(err, io.EOF) {
		t.Errorf("the other end's death is %v", err)
	}
}

// What is no message is refused.
func TestGarbage(t *testing.T) {
	for _, text := range []string{"x", "viaductX\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00",
		"viaductH\x00\x00\x00\x02\x00\x00\x00\x00\x7f\x00\x00\x00", strings.Repeat("viaductH", 9)} {
		successor, predecessor := ends(t)
		_, err := predecessor.c.Write([]byte(text))
		must(t, err)
		if _, err := successor.Receive(OfferMessage, patience, nil); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// Both ends mean the same, whenever Commit is sent and the predecessor's patience ends.
func TestCommitIsOneForBoth(t *testing.T) {
	yes, no := 0, 0
	for i := range 300 {
		successor, predecessor := ends(t)
		sent := make(chan error, 1)
		go func() {
			time.Sleep(time.Duration(i) * 10 * time.Microsecond)
			sent <- successor.Send(CommitMessage, patience, nil)
		}()
		committed := predecessor.Committed(1500*time.Microsecond, nil)
		if err := <-sent; (err == nil) != committed {
			t.Fatalf("the successor's commit: %v; the predecessor's: %v", err, committed)
		}
		if committed {
			yes++
		} else {
			no++
		}
		_, _ = successor.Close(), predecessor.Close()
	}
	t.Logf("%d committed, %d not", yes, no)
}

// A predecessor that is told to stop does not wait, and one whose successor dies goes on.
func TestNotCommitted(t *testing.T) {
	_, predecessor := ends(t)
	over := make(chan struct{})
	close(over)
	if predecessor.Committed(time.Hour, over) {
		t.Error("committed by nobody")
	}
	successor, predecessor := ends(t)
	must(t, successor.Close())
	if predecessor.Committed(time.Hour, nil) {
		t.Error("committed by one who died")
	}
}

// someFlow fills every field.
func someFlow() conntrack.Saved {
	a := func(n uint64) packet.Addr { return packet.Addr{Hi: n, Lo: n + 1} }
	return conntrack.Saved{
		Near: packet.Ends{Src: a(1), Dst: a(2), SrcPort: 3, DstPort: 4},
		Far:  packet.Ends{Src: a(5), Dst: a(6), SrcPort: 7, DstPort: 8}, Proto: 6, Timestamp: true, In: 9, Out: 10,
		State: "established", Generation: 11, Rule: 12, Revoked: 13, Translated: true, Direct: true,
		Sent: conntrack.Traffic{Packets: 14, Bytes: 15}, Replied: conntrack.Traffic{Packets: 16, Bytes: 17},
		Age: 18, Expires: 19, TCP: conntrack.SavedTCP{Ends: [2]uint32{20, 21}, Limits: [2]uint32{22, 23},
			Acks: [2]uint32{24, 25}, Windows: [2]uint16{26, 27}, Scales: [2]uint8{28, 29}, Adrift: 1, Unknown: 2, Forged: true},
	}
}

func TestFlowsFile(t *testing.T) {
	flow, other := someFlow(), conntrack.Saved{State: "free"}
	flow.Backend = 5
	b := AppendFlow(AppendFlow(nil, &flow), &other)
	flows, err := ReadFlows(b, 2)
	must(t, err)
	flow.Backend = 0
	list := collect(flows, 2)
	if !list[0].Served || list[1].Served || !reflect.DeepEqual(list[0].Saved, flow) || list[1].Saved != other {
		t.Errorf("%+v", list)
	}
	for n := range b {
		if _, err := ReadFlows(b[:n], 2); err == nil {
			t.Fatalf("%d of %d bytes are taken for the file", n, len(b))
		}
	}
	if _, err := ReadFlows(b, 1); err == nil {
		t.Error("a file that is too long is taken")
	}
}

// collect reads them in so many parts.
func collect(f *Flows, parts int) (list []Flow) {
	for _, part := range f.Parts(parts) {
		for flow := range part {
			list = append(list, *flow)
		}
	}
	return list
}

func FuzzReadFlows(f *testing.F) {
	flow := someFlow()
	f.Add(AppendFlow(nil, &flow), 1)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		flows, err := ReadFlows(b, n)
		if err != nil {
			return
		}
		list := collect(flows, 1)
		if !slices.Equal(list, collect(flows, 3)) || len(list) != flows.Len() {
			t.Fatal("other flows in parts")
		}
		var again []byte
		for i := range list {
			if list[i].Served {
				list[i].Backend = 1
			}
			again = AppendFlow(again, &list[i].Saved)
		}
		if back, err := ReadFlows(again, n); err != nil || back.Len() != len(list) {
			t.Fatalf("%d flows, then %d: %v", len(list), flows.Len(), err)
		}
	})
}
