// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// TestBegunByKernel: connections whose handshakes and ends the kernel carries come to the states that they have where
// every packet is seen.
func TestBegunByKernel(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for name, text := range dialogues {
			t.Run(name, func(t *testing.T) {
				r := newCarryRig(t, v6, Config{Flows: 64}, 64)
				r.early = true
				for line := range strings.Lines(strings.TrimSpace(text)) {
					say, want, _ := strings.Cut(strings.TrimSpace(line), ": ")
					_, outcome := r.send(r.segment(say))
					got := outcome + " " + r.state()
					if strings.HasPrefix(want, "tcp_out_of_window") && (outcome == "carried" || outcome == "known") {
						return // of windows less is known: see carriage.go
					}
					if got != want && strings.Replace(got, "carried", "known", 1) != want {
						t.Fatalf("%s: %s, want %s", say, got, want)
					}
					r.soundCarried()
				}
			})
		}
	})
}

// begunRig is one whose kernel carries connections from their beginnings on, and looks at no flow by itself.
func begunRig(t *testing.T, cfg Config) *carryRig {
	r := newCarryRig(t, false, cfg, 512)
	r.early = true
	return r
}

// says sends segments, and says what became of the last.
func (r *carryRig) says(lines ...string) (outcome string) {
	r.t.Helper()
	for _, line := range lines {
		_, outcome = r.send(r.segment(line))
	}
	return outcome
}

func (r *carryRig) wantStates(want map[string]int) {
	r.t.Helper()
	if got := r.tab.Stats().States; !maps.Equal(got, want) {
		r.t.Fatalf("%v, want %v", got, want)
	}
}

// TestNews: nobody asks about a connection, and it is what it is once the news of it have been taken: begun, open,
// ending, over. Its record is given back then, and what it has counted is the flow's.
func TestNews(t *testing.T) {
	r := begunRig(t, Config{Flows: 64})
	handshakes := func(want int32) {
		t.Helper()
		if got := r.tab.limits.ports[portA].handshakes.Load(); got != want {
			t.Errorf("%d handshakes are under way, want %d", got, want)
		}
	}
	for _, step := range []struct {
		say, state string
		handshakes int32
		news       int
	}{
		{"s SA 500 ack 101 win 1000 ws 7", "syn_received", 1, 1},
		{"c A 101 ack 501 win 500", "established", 0, 1},
		{"c PA 101 ack 501 win 500 len 10", "established", 0, 0},
		{"c FA 111 ack 501 win 500", "fin_wait", 0, 1},
		{"s A 501 ack 112 win 500 len 10", "close_wait", 0, 0},
		{"s FA 511 ack 112 win 500", "last_ack", 0, 1},
		{"c A 112 ack 512 win 500", "time_wait", 0, 1},
	} {
		if step.say == "s SA 500 ack 101 win 1000 ws 7" {
			r.says("c S 100 win 1000 ws 7")
			r.wantStates(map[string]int{"syn_sent": 1})
			handshakes(1)
		}
		if outcome := r.says(step.say); outcome != "carried" {
			t.Fatalf("%s: %s", step.say, outcome)
		}
		if n := r.tab.TakeNews(); n != step.news {
			t.Errorf("%s: %d news, want %d", step.say, n, step.news)
		}
		if step.state != "close_wait" { // of which there is no news: it makes no difference to anybody
			r.wantStates(map[string]int{step.state: 1})
		}
		handshakes(step.handshakes)
	}
	if n := r.kernel.Stats().Records; n != 0 {
		t.Errorf("%d records of a connection that is over", n)
	}
	if f := r.flow(); f.Sent.Packets != 5 || f.Replied.Packets != 3 || f.Carried {
		t.Errorf("%+v", f)
	}
	if s := r.tab.Stats(); s.Opened != 1 || s.Closed() != 0 {
		t.Errorf("%+v", s)
	}
}

// TestReopened: the same ends begin anew once both FINs were carried and acknowledged, with nobody having looked in
// between; before that they do not.
func TestReopened(t *testing.T) {
	whole := []string{
		"c S 100 win 1000", "s SA 500 ack 101 win 1000", "c A 101 ack 501 win 1000", "c FA 101 ack 501 win 1000",
		"s FA 501 ack 102 win 1000",
	}
	r := begunRig(t, Config{Flows: 64})
	r.says(whole...)
	if outcome := r.says("c S 7000000 win 1000"); outcome != "known" || r.state() != "last_ack" {
		t.Errorf("a SYN before the end: %s, %s", outcome, r.state())
	}
	r.says("c A 102 ack 502 win 1000")
	if outcome := r.says("c S 7000000 win 1000"); outcome != "new" || r.state() != "syn_sent" {
		t.Errorf("a SYN behind the end: %s, %s", outcome, r.state())
	}
	if outcome := r.says("s SA 800 ack 7000001 win 1000"); outcome != "carried" || r.state() != "syn_received" {
		t.Errorf("its answer: %s, %s", outcome, r.state())
	}
	if s := r.tab.Stats(); s.Opened != 2 || s.Reopened != 1 || s.Entries != 1 {
		t.Errorf("%+v", s)
	}
	r.soundCarried()
}

// TestUnanswered: the record of a SYN that nobody answers goes with its entry. Another attempt is answered here.
func TestUnanswered(t *testing.T) {
	r := begunRig(t, Config{Flows: 64})
	r.says("c S 100 win 1000")
	if n := r.kernel.Stats().Records; n != 1 {
		t.Fatalf("%d records", n)
	}
	r.says("c S 100 win 1000")
	if n := r.kernel.Stats().Records; n != 1 {
		t.Fatalf("%d records behind a retransmission", n)
	}
	r.says("c S 9999 win 1000")
	if n := r.kernel.Stats().Records; n != 0 {
		t.Fatalf("%d records expect the answer to the first attempt", n)
	}
	if outcome := r.says("s SA 500 ack 10000 win 1000"); outcome != "known" || r.kernel.Stats().Records != 1 {
		t.Fatalf("its answer: %s, %d records", outcome, r.kernel.Stats().Records)
	}
	if outcome := r.says("c A 10000 ack 501 win 1000"); outcome != "carried" || r.state() != "established" {
		t.Fatalf("%s, %s", outcome, r.state())
	}

	r = begunRig(t, Config{Flows: 64})
	r.says("c S 100 win 1000")
	r.now += int64(31 * time.Second)
	for range sweepShare + 1 {
		r.tab.Sweep(r.now, 0, 1)
	}
	if s, k := r.tab.Stats(), r.kernel.Stats(); s.Entries != 0 || s.Expired != 1 || k.Records != 0 || r.kernel.HasYoung() {
		t.Errorf("%+v %+v", s, k)
	}
}

// TestYoungOnly: what is not the answer to the SYN comes here, and nothing of the opener's goes before that.
func TestYoungOnly(t *testing.T) {
	for _, say := range []string{
		"s SA 500 ack 102 win 1000", "s SA 500 ack 101 win 1000 len 10", "s A 500 ack 101 win 1000", "s S 500 win 1000",
		"s FA 500 ack 101 win 1000", "s RA 0 ack 101", "c A 101 ack 501 win 1000", "c R 101", "c FA 101 ack 501 win 1000",
	} {
		r := begunRig(t, Config{Flows: 64})
		r.says("c S 100 win 1000")
		if outcome := r.says(say); outcome == "carried" {
			t.Errorf("%s is carried", say)
		}
		r.soundCarried()
	}
}

// TestFewEarly: of a port that begins many connections that are not answered, those are entered that are.
func TestFewEarly(t *testing.T) {
	r := begunRig(t, Config{Flows: 1024, Handshakes: 64})
	begin := func(i int, flags uint8, d int) string {
		s := tcpSegment{src: uint16(20000 + i), dst: 80, seq: 100, flags: flags, window: 1000, scale: -1}
		from, to := r.a, r.b
		if d != 0 {
			s.src, s.dst, s.ack, from, to = s.dst, s.src, 101, to, from
		}
		_, outcome := r.send(parse(t, ipPacket(from, to, packet.ProtoTCP, s.bytes())))
		return outcome
	}
	for i := range 40 {
		begin(i, tcpSYN, 0)
	}
	if n := r.kernel.Stats().Records; n != 32 {
		t.Errorf("%d records of 40 SYNs, want 32", n)
	}
	if outcome := begin(35, tcpSYN|tcpACK, 1); outcome != "known" || r.kernel.Stats().Records != 33 {
		t.Errorf("the answer to one of the others: %s, %d records", outcome, r.kernel.Stats().Records)
	}
	if outcome := begin(5, tcpSYN|tcpACK, 1); outcome != "carried" {
		t.Errorf("the answer to one of the first: %s", outcome)
	}
}

// TestRevokedEarly: a connection that policy takes back while its handshake goes on is carried no further.
func TestRevokedEarly(t *testing.T) {
	for _, before := range [][]string{
		{"c S 100 win 1000"}, {"c S 100 win 1000", "s SA 500 ack 101 win 1000"},
	} {
		r := begunRig(t, Config{Flows: 64})
		r.says(before...)
		for f := range r.tab.Carried() {
			r.tab.Judge(f.ID, verdict.IngressDenied, r.now, 1, 0)
		}
		if n := r.kernel.Stats().Records; n != 0 {
			t.Fatalf("%d records", n)
		}
		for _, say := range []string{"s SA 500 ack 101 win 1000", "c A 101 ack 501 win 1000"} {
			if outcome := r.says(say); outcome != verdict.IngressDenied.String() {
				t.Errorf("%s behind %v: %s", say, before, outcome)
			}
		}
	}
}

// TestKilledYoung: a process that comes after one that was killed in the midst of a handshake finds it where it stands.
func TestKilledYoung(t *testing.T) {
	all := []string{
		"c S 100 win 1000 ws 7", "s SA 500 ack 101 win 1000 ws 7", "c A 101 ack 501 win 500", "c FA 101 ack 501 win 500",
		"s FA 501 ack 102 win 500", "c A 102 ack 502 win 500",
	}
	states := []string{"syn_sent", "syn_received", "established", "fin_wait", "last_ack", "time_wait"}
	for i := range all[:5] {
		r := begunRig(t, Config{Flows: 64})
		r.says(all[:i+1]...)
		if failed := r.restart(Config{Flows: 64}); len(failed) != 0 {
			t.Fatal(failed)
		}
		r.soundCarried()
		if got := r.state(); got != states[i] {
			t.Errorf("behind %s: %s, want %s", all[i], got, states[i])
		}
		for j, say := range all[i+1:] {
			if outcome := r.says(say); outcome != "carried" || r.state() != states[i+1+j] {
				t.Errorf("killed behind %s, %s: %s, %s", all[i], say, outcome, r.state())
			}
		}
	}
}

// TestGuessedAck: who has begun a connection under an address that is not his does not know the number of the answer,
// and nothing that he guesses has the handshake be over.
func TestGuessedAck(t *testing.T) {
	for _, ack := range []string{"600", "60000", "1000000", "4294960000"} {
		r := begunRig(t, Config{Flows: 64})
		r.says("c S 100 win 65535 ws 14", "s SA 500 ack 101 win 1000 ws 14")
		if outcome := r.says("c A 101 ack " + ack + " win 500"); outcome == "carried" || r.state() != "syn_received" {
			t.Errorf("ACK of %s: %s, %s", ack, outcome, r.state())
		}
		if outcome := r.says("c A 101 ack 501 win 500"); outcome != "carried" || r.state() != "established" {
			t.Errorf("behind an ACK of %s: %s, %s", ack, outcome, r.state())
		}
	}
}

// TestCountedOnly: a hook has counted a packet of the opener's, and not found out yet that it does not carry it. That
// is no answer to the answer.
func TestCountedOnly(t *testing.T) {
	r := begunRig(t, Config{Flows: 64})
	r.says("c S 100 win 1000", "s SA 500 ack 101 win 1000")
	const packetsOfOpener = 64 // in the first record
	if binary.NativeEndian.Uint64(r.mem.Records[packetsOfOpener+64:]) != 1 {
		t.Fatal("it is not the first record")
	}
	binary.NativeEndian.PutUint64(r.mem.Records[packetsOfOpener:], 1)
	r.tab.TakeNews()
	r.wantStates(map[string]int{"syn_received": 1})
}

// TestRoused: who rests is told of the first connection that begins, and of no other until he rests again.
func TestRoused(t *testing.T) {
	r := begunRig(t, Config{Flows: 64})
	roused := func() bool {
		select {
		case <-r.tab.rest.roused:
			return true
		default:
			return false
		}
	}
	begin := func(say string) {
		r.says(say)
		if r.kernel.Stats().Records != 1 {
			t.Fatalf("%s is not carried on", say)
		}
	}
	begin("c S 100 win 1000")
	if roused() {
		t.Error("nobody rested")
	}
	r.says("c R 101")
	r.tab.Rest()
	if roused() {
		t.Error("nothing has begun")
	}
	begin("c S 7000000 win 1000")
	if !roused() || roused() {
		t.Error("who rested is not told once")
	}
	r.says("c R 7000001")
	begin("c S 9000000 win 1000")
	if roused() {
		t.Error("nobody rested")
	}
}

// TestKilledYoungLongAgo: nobody has heard that the handshake was over before the process was killed, and the next one
// comes when the connection has been quiet for longer than a handshake may take.
func TestKilledYoungLongAgo(t *testing.T) {
	for _, tt := range []struct {
		last  string
		there bool
	}{
		{"c A 101 ack 501 win 500", true},
		{"s SA 500 ack 101 win 1000 ws 7", false},
	} {
		r := begunRig(t, Config{Flows: 64})
		for _, say := range []string{"c S 100 win 1000 ws 7", "s SA 500 ack 101 win 1000 ws 7", "c A 101 ack 501 win 500"} {
			r.says(say)
			if say == tt.last {
				break
			}
		}
		r.now += int64(90 * time.Second)
		failed := r.restart(Config{Flows: 64})
		if is := len(failed) == 0; is != tt.there {
			t.Errorf("behind %s: there %t, want %t: %v", tt.last, is, tt.there, failed)
		} else if is && r.state() != "established" {
			t.Errorf("behind %s: %s", tt.last, r.state())
		}
	}
}
