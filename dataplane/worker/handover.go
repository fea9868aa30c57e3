// SPDX-License-Identifier: Apache-2.0

package worker

import "github.com/viaduct-net/viaduct/dataplane/xsk"

// Packet is a packet that waits for something, in frames that are the worker's.
type Packet struct {
	Device int // that it came by, as Tables.Demux takes it
	Descs  []xsk.Desc
}

// Waiting lists the packets received that wait: for a neighbour, for their port's limit, for the first fragment of
// their datagram. Of answers of our own there are none: who gets no answer asks again. It is for the worker's
// goroutine, as Leave and TakeUp are, between two passes, when nothing is staged.
func (w *Worker) Waiting() (list []Packet) {
	add := func(device int, descs []xsk.Desc) {
		list = append(list, Packet{device, append([]xsk.Desc(nil), descs...)})
	}
	for i := range w.hold.packets {
		if h := &w.hold.packets[i]; h.reason == 0 {
			add(h.device, h.descs[:h.count])
		}
	}
	for _, d := range w.pace.due {
		p := &w.pace.slots[d.slot]
		add(p.device, p.descs[:p.count])
	}
	for i := range w.awaiting.slots {
		if p := &w.awaiting.slots[i]; p.count > 0 {
			add(p.device, p.descs[:p.count])
		}
	}
	return list
}

// Leave has Run return and leave links and frames as they are, for they are another process's.
func (w *Worker) Leave() {
	w.left = true
	w.stopping.Store(true)
}

// TakeUp has the next pass judge packets that waited in another process, as if they were received then. Their frames
// are the worker's from here on, and there are links to their devices.
func (w *Worker) TakeUp(waiting []Packet) { w.takenUp = append(w.takenUp, waiting...) }

// takeUp judges what TakeUp was given.
func (w *Worker) takeUp() {
	for _, p := range w.takenUp {
		if p.Device < len(w.byDevice) && w.byDevice[p.Device] != nil {
			w.process(w.byDevice[p.Device], p.Descs)
			continue
		}
		w.free(p.Descs)
	}
	w.takenUp = nil
	w.bookReceived()
}
