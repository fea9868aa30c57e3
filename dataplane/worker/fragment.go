// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// fragmentShare: one frame in so many may wait for the first fragment of its datagram. How many packets may, which
// ones, and for how long, is the table's to say (package fragment).
const fragmentShare = 8

// awaiting is the frames of the fragments that wait for their datagram's first.
type awaiting struct {
	slots []awaitingFragment // by ticket; of no frames: nobody waits
	going awaitingFragment   // the one that rejoin lets go, whose slot may be in use again
}

type awaitingFragment struct {
	in     packet.PortID
	device int
	count  int
	descs  [maxFrames]xsk.Desc
}

// await keeps a fragment until the first of its datagram has been judged.
func (w *Worker) await(p *packet.Packet, device int, descs []xsk.Desc, d *pipeline.Decision) {
	ticket, ok := w.pipeline.Fragments().Hold(d.Datagram, len(descs), w.umem.Chunks()/fragmentShare)
	if !ok {
		w.finish(p.In, verdict.FragmentQueueFull)
		w.free(descs)
		return
	}
	for int(ticket) >= len(w.awaiting.slots) { // made as they are needed: most workers see no such fragment
		w.awaiting.slots = append(w.awaiting.slots, awaitingFragment{})
	}
	kept := &w.awaiting.slots[ticket]
	kept.in, kept.device, kept.count = p.In, device, len(descs)
	copy(kept.descs[:], descs)
	w.book.Account(p.In).Add(ledger.Held, 1)
}

// rejoin has the fragments that need not wait any longer follow the first of their datagram, or drops them.
func (w *Worker) rejoin() {
	for {
		ticket, reason, ok := w.pipeline.Fragments().Due()
		if !ok {
			return
		}
		kept := &w.awaiting.going
		*kept = w.awaiting.slots[ticket]
		w.awaiting.slots[ticket].count = 0
		descs := kept.descs[:kept.count]
		if reason == verdict.None {
			w.rejudge(&w.packet, kept.in, kept.device, descs)
			continue
		}
		w.free(descs)
		w.book.Account(kept.in).Sub(ledger.Held, 1)
		w.finish(kept.in, reason)
	}
}
