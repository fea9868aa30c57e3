// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Line is what became of one packet of the capture: a line of the report.
type Line struct {
	Index     int    `json:"index"`     // in the capture, from 0
	Length    int    `json:"length"`    // bytes on the wire
	Truncated bool   `json:"truncated"` // whether the capture has fewer
	Verdict   string `json:"verdict"`
	Reason    string `json:"reason"`
	// Rule is what of policy decided; where policy was not asked, or nothing of it had to decide, the object that the
	// destination's route came from; empty: no route of a manifest.
	Rule    string `json:"rule"`
	InPort  string `json:"in_port"`  // empty: none has its VLAN tags
	OutPort string `json:"out_port"` // by which it, or the answer to it, left; empty: nothing left
}

func (l *Line) fill(r verdict.Reason) { l.Verdict, l.Reason = r.Verdict().String(), r.String() }

// Summary is the last line of the report.
type Summary struct {
	Packets  int            `json:"packets"` // of the capture
	Verdicts map[string]int `json:"verdicts"`
	Reasons  map[string]int `json:"reasons"`
	// NotReceived are packets that no device would have delivered: empty, or larger than any queue takes.
	NotReceived int `json:"not_received"`
	// NeighborsAnswered counts next hops whose MAC was asked for, and made up.
	NeighborsAnswered int       `json:"neighbors_answered"`
	Sent              int       `json:"sent"` // packets in the output
	Ledger            []Account `json:"ledger"`
	Total             Account   `json:"total"`
	// Balanced says that received = forwarded + consumed + dropped + held on each port, that transmitted = forwarded +
	// originated + extra fragments, and that the ledger counts the reasons that the report gives.
	Balanced bool   `json:"balanced"`
	Error    string `json:"error"` // why reading the capture ended early; empty: it did not
}

// Account is the ledger of one port.
type Account struct {
	Port        string `json:"port"`
	Received    uint64 `json:"received"`
	Forwarded   uint64 `json:"forwarded"`
	Consumed    uint64 `json:"consumed"`
	Dropped     uint64 `json:"dropped"`
	Held        uint64 `json:"held"`
	Originated  uint64 `json:"originated"`
	Fragments   uint64 `json:"fragments"`
	Transmitted uint64 `json:"transmitted"`
}

func account(port string, t *ledger.Totals) Account {
	return Account{
		Port: port, Received: t.Get(ledger.Received), Forwarded: t.Sum(verdict.Forwarded),
		Consumed: t.Sum(verdict.Consumed), Dropped: t.Sum(verdict.Dropped), Held: t.Get(ledger.Held),
		Originated: t.Get(ledger.Originated), Fragments: t.Get(ledger.Fragments), Transmitted: t.Get(ledger.Transmitted),
	}
}

func (s *Summary) add(l Line) {
	s.Packets++
	s.Verdicts[l.Verdict]++
	s.Reasons[l.Reason]++
}

// agrees compares the report's counts with the ledger's. The two come about on different ways: the report from what
// was observed of each packet, the ledger from the worker's own books. Packets that were reported as waiting, and ended
// later, are under ended.
func (s *Summary) agrees(total *ledger.Totals, ended map[verdict.Reason]uint64) bool {
	if total.Get(ledger.Received)+uint64(s.NotReceived) != uint64(s.Packets) {
		return false
	}
	var unreceived, waiting, over uint64
	for r := verdict.None + 1; r < verdict.NumReasons; r++ {
		reported, booked := uint64(s.Reasons[r.String()]), total.Get(ledger.ByReason(r))
		if r.Verdict() == verdict.Held {
			waiting += reported
			continue
		}
		reported, over = reported+ended[r], over+ended[r]
		if reported < booked {
			return false
		}
		unreceived += reported - booked
	}
	if waiting != over+total.Get(ledger.Held) {
		return false
	}
	return unreceived == uint64(s.NotReceived) && uint64(s.Sent) == total.Get(ledger.Transmitted)
}

func (s *Summary) sort() {
	slices.SortFunc(s.Ledger, func(a, b Account) int { return cmp.Compare(a.Port, b.Port) })
}

// writeText writes the summary for people.
func (s *Summary) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%d packets in, %d out\n", s.Packets, s.Sent)
	for _, reason := range slices.SortedFunc(maps.Keys(s.Reasons), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.Reasons[b], s.Reasons[a]), cmp.Compare(a, b))
	}) {
		if err == nil {
			_, err = fmt.Fprintf(w, "%8d  %s\n", s.Reasons[reason], reason)
		}
	}
	t := s.Total
	if err == nil {
		_, err = fmt.Fprintf(w, "ledger: received %d = forwarded %d + consumed %d + dropped %d + held %d: %s\n",
			t.Received, t.Forwarded, t.Consumed, t.Dropped, t.Held, balances(s.Balanced))
	}
	return err
}

func balances(b bool) string {
	if b {
		return "balances"
	}
	return "does NOT balance"
}
