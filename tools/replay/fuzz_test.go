// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"testing"

	"github.com/viaduct-net/viaduct/internal/captures"
	"github.com/viaduct-net/viaduct/internal/pcap"
)

// FuzzReplay feeds any bytes as a packet to a port, and from the host to pods, twice (the second meets what the first
// left behind): both end with a reason and the books balance.
func FuzzReplay(f *testing.F) {
	files, err := captures.Files()
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		in, err := pcap.NewReader(bytes.NewReader(file.Data))
		if err != nil {
			f.Fatal(err)
		}
		if p, err := in.Next(); err == nil {
			f.Add(p.Data)
		}
	}
	dirs := map[string]string{"left": directoryOf(f, lab), "host": directoryOf(f, pods)}
	f.Fuzz(func(t *testing.T, data []byte) {
		for port, dir := range dirs {
			cfg := Config{Manifests: dir, Port: port, MTU: 1500}
			r := replayed(t, cfg, capture(t, &pcap.Packet{Data: data}, &pcap.Packet{Data: data}))
			if r.err != nil || !r.summary.Balanced || len(r.lines) != 2 {
				t.Fatalf("error %v, summary %+v", r.err, r.summary)
			}
			for _, l := range r.lines {
				if l.Reason == "" || l.Reason == "none" || l.Verdict == "held" && l.Reason != "waiting_for_fragment" {
					t.Fatalf("no reason: %+v", l)
				}
			}
		}
	})
}
