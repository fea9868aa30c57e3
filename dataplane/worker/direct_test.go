// SPDX-License-Identifier: Apache-2.0

package worker

import "testing"

// What is too large behind an outer header the client is told, if it has sent it.
func TestDirectTooBig(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		w := newWorld(t, v6)
		for _, line := range []string{"service web tcp direct", "frontend web node-port :30080", "backend web remote:8080"} {
			w.do(line)
		}
		const sent, outer = "tcp client:1000 > node:30080 syn", "toobig node > dataplane about tunnel dataplane > remote of "
		if got := w.send("host", sent); got != "host tunnel dataplane > remote of "+sent {
			t.Fatal(got)
		}
		reason := map[bool]string{false: " (fragmentation_needed)", true: " (packet_too_big)"}[v6]
		for what, want := range map[string]string{
			sent:                                "host error node > client about " + sent + reason,
			"tcp client2:1000 > node:30080 syn": "(icmp_without_flow)",
			"tcp a:1000 > node:30080 syn":       "(icmp_without_flow)",
		} {
			if got := w.send("host", outer+what); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
	}
}
