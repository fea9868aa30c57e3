// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go4.org/netipx"
)

// crashFile is the variable that makes a child of the test binary: the path of the store.
const crashFile = "VIADUCT_LEASE_CRASH"

const (
	crashWriters = 4
	crashKeys    = 12 // of each writer, who adds and removes its own
)

// crashChild adds and removes until it is killed, and says what it asks, before, and what was answered, after.
func crashChild(path string) {
	s, err := Open(path)
	if err != nil {
		fmt.Println("failed open", err)
		return
	}
	s.Configure(prefixes("10.0.0.0/26", "fd00::/64"), nil)
	fmt.Println("open")
	var group sync.WaitGroup
	for writer := range crashWriters {
		group.Go(func() {
			for {
				n := writer*crashKeys + rand.IntN(crashKeys)
				if rand.IntN(2) == 0 {
					crashAdd(s, n)
				} else {
					crashRemove(s, n)
				}
			}
		})
	}
	group.Wait()
}

func crashAdd(s *Store, n int) {
	fmt.Printf("asked %d\n", n)
	a, _, err := s.Add(pod(n), nil)
	if err != nil {
		fmt.Printf("failed add %d: %v\n", n, err)
		return
	}
	fmt.Printf("added %d %s %s\n", n, a.Addresses[0], a.Addresses[1])
}

func crashRemove(s *Store, n int) {
	fmt.Printf("asked %d\n", n)
	if _, err := s.Remove(key(n)); err != nil {
		fmt.Printf("failed remove %d: %v\n", n, err)
		return
	}
	fmt.Printf("removed %d\n", n)
}

// TestCrash kills a process that adds and removes, again and again. What it was answered is so after each; what it was
// still waiting for has happened wholly or not at all.
func TestCrash(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	path := filepath.Join(t.TempDir(), "leases.db")
	acked := map[int]string{} // the addresses of the attachment; "" is none
	answers := 0
	for round := range rounds {
		after := 1 + rand.IntN(60)
		if round%8 == 0 {
			after = 0
		}
		asked, n := crash(t, path, acked, after)
		answers += n
		verifyCrash(t, path, acked, asked)
		if t.Failed() {
			return
		}
	}
	if answers == 0 {
		t.Error("none lived long enough to answer")
	}
	t.Logf("%d answers before %d kills", answers, rounds)
}

// crash runs a child and kills it after so many answers, or, for 0, at some time while it starts. It notes what was
// answered, and returns what was not.
func crash(t *testing.T, path string, acked map[int]string, after int) (asked map[int]bool, answers int) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), crashFile+"="+path)
	output, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if after == 0 {
		defer time.AfterFunc(rand.N(20*time.Millisecond), func() { child.Process.Kill() }).Stop()
	}
	asked = map[int]bool{}
	for reader := bufio.NewReader(output); ; {
		line, err := reader.ReadString('\n')
		if err == io.EOF {
			break
		}
		var n int
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		number, addresses, _ := strings.Cut(rest, " ")
		fmt.Sscan(number, &n)
		switch word {
		case "asked":
			asked[n] = true
		case "added", "removed":
			acked[n] = addresses
			delete(asked, n)
			if answers++; answers == after {
				child.Process.Kill()
			}
		case "failed":
			t.Error(line)
		}
	}
	child.Wait()
	return asked, answers
}

// verifyCrash opens what the child left, and goes on from there.
func verifyCrash(t *testing.T, path string, acked map[int]string, asked map[int]bool) {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	distinct(t, s)
	for n := range crashWriters * crashKeys {
		found := ""
		if a, ok := s.Get(key(n)); ok {
			found = fmt.Sprintf("%s %s", a.Addresses[0], a.Addresses[1])
		}
		if found != acked[n] && !asked[n] {
			t.Errorf("%d has %q, was answered %q", n, found, acked[n])
		}
		acked[n] = found
	}
	nothingLost(t, s.writer.book, netip.MustParsePrefix("10.0.0.0/26"))
}

// nothingLost wants each address of a pool to be held, given back or yet to come.
func nothingLost(t *testing.T, b *book, prefix netip.Prefix) {
	t.Helper()
	b.configure([]netip.Prefix{prefix}, nil)
	p := b.pools[0]
	if _, ok := p.fresh(b.used); !ok {
		p.next = netipx.PrefixLastIP(prefix)
	}
	for a := prefix.Addr(); a.Less(p.next); a = a.Next() {
		if _, blocked := p.blocked.at(a); !blocked && (b.held[a] != nil) == (b.places[a] != 0) {
			t.Errorf("%s is nowhere, or in two places", a)
		}
	}
}
