// SPDX-License-Identifier: Apache-2.0

package denial

import (
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

func flow(port uint16) Denial {
	return Denial{Tuple: conntrack.Tuple{Src: packet.Addr4(0x0a000001), Dst: packet.Addr4(0x0a000002), SrcPort: port,
		DstPort: 80, Proto: packet.ProtoTCP}, Reason: verdict.IngressDenied, Rule: 20}
}

func TestLog(t *testing.T) {
	var l Log
	if l.List() != nil {
		t.Error("an empty log lists something")
	}
	a, b := flow(1), flow(2)
	l.Note(&a, 10)
	l.Note(&b, 20)
	a.Rule, a.In = 21, 3
	l.Note(&a, 30)
	list := l.List()
	if len(list) != 2 || list[0].Tuple != a.Tuple || list[0].Packets != 2 || list[0].First != 10 || list[0].Last != 30 ||
		list[0].Rule != 21 || list[0].In != 3 || list[1].Tuple != b.Tuple || list[1].Packets != 1 {
		t.Errorf("%+v", list)
	}
	a.Staged, a.Reason = true, verdict.None
	l.Note(&a, 40)
	if list := l.List(); len(list) != 2 || !list[0].Staged || list[0].Packets != 1 || list[0].First != 40 {
		t.Errorf("%+v", list)
	}
}

// A flood takes no more memory, and the latest of it are told.
func TestFlood(t *testing.T) {
	var l Log
	for port := range 60_000 {
		d := flow(uint16(port))
		l.Note(&d, int64(port))
	}
	list := l.List()
	if len(list) < size/2 || len(list) > size || list[0].Last != 59_999 {
		t.Errorf("%d remembered, the latest of %d", len(list), list[0].Last)
	}
	d := flow(7)
	if n := testing.AllocsPerRun(100, func() { l.Note(&d, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
