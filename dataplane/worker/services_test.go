// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestServices runs the tables in testdata/services, each for both families. A line is a change of the world (see
// world.do), or a packet and what comes of it:
//
//	PORT PACKET => PORT PACKET     it is sent on, so
//	PORT PACKET => (reason)        it ends here
//	PORT PACKET => PORT PACKET (reason)    it is answered
//
// A port * in what is expected is any but one that was used already.
//
// A line "=== name" begins anew.
func TestServices(t *testing.T) {
	files, err := filepath.Glob("testdata/services/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no tables", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.Split("\n"+string(text), "\n=== ")[1:] {
			name, lines, _ := strings.Cut(part, "\n")
			for _, v6 := range []bool{false, true} {
				family := map[bool]string{false: "/IPv4", true: "/IPv6"}[v6]
				t.Run(strings.TrimSuffix(filepath.Base(file), ".txt")+"/"+name+family, func(t *testing.T) {
					runTable(t, v6, lines)
				})
			}
		}
	}
}

func runTable(t *testing.T, v6 bool, lines string) {
	w := newWorld(t, v6)
	for line := range strings.Lines(lines) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
		line = strings.Join(strings.Fields(line), " ")
		if line == "" || w.do(line) {
			continue
		}
		sent, want, ok := strings.Cut(line, " => ")
		by, what, _ := strings.Cut(sent, " ")
		if _, is := worldPorts[by]; !ok || !is {
			t.Fatalf("neither a change nor a packet: %q", line)
		}
		if got := w.send(by, what); !fits(got, want) {
			t.Errorf("%s\n got %s\nwant %s", sent, got, want)
		}
	}
}

// fits compares, where want may have a port *.
func fits(got, want string) bool {
	before, after, any := strings.Cut(want, "*")
	return got == want || any && strings.HasPrefix(got, before) && strings.HasSuffix(got, after) &&
		!strings.HasPrefix(got[len(before):], "1000 ")
}
