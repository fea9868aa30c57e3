// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/dataplane/handover"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// What was learned of the network outlives the process: the addresses that names have, by which flows were let in, and
// neighbours, without which packets would wait. A successor is handed it; for one that comes after a crash it is beside
// the last good snapshot.

// Changes is another number once Learned has become something else.
func (f *Forwarder) Changes() uint64 {
	n := uint64(f.neighbors.Generation())
	if f.flows.Load() != nil { // f.dns is there before it
		n += f.dns.Changes() << 32
	}
	return n
}

// Learned is what RestoreLearned of another process takes; nil before there is anything. It waits for no change of
// tables.
func (f *Forwarder) Learned() []byte {
	boot, err := bootID()
	if f.flows.Load() == nil || err != nil {
		return nil
	}
	l := &handover.Learned{Boot: boot}
	t, offset := f.tables.Load(), monotonic()-f.clock()
	at := make(map[packet.PortID]int)
	of := func(id packet.PortID) *handover.LearnedPort {
		p := t.Port(id)
		if p == nil || !p.Present {
			return nil
		}
		i, there := at[id]
		if !there {
			i, at[id] = len(l.Ports), len(l.Ports)
			l.Ports = append(l.Ports, handover.LearnedPort{ID: id, IfIndex: p.IfIndex, Name: p.Name})
		}
		return &l.Ports[i]
	}
	for _, id := range f.dns.Ports() {
		if p := of(id); p != nil {
			p.Names = f.dns.Learned(id)
			for i := range p.Names {
				p.Names[i].Expires += offset
			}
		}
	}
	for _, n := range f.knownNeighbors() {
		if p := of(n.Port); p != nil {
			p.Neighbors = append(p.Neighbors, n)
		}
	}
	return l.Append(nil)
}

// knownNeighbors lists those whose MAC addresses were learned.
func (f *Forwarder) knownNeighbors() (list []handover.Neighbor) {
	for _, n := range f.neighbors.All(f.clock()) {
		if n.State.Usable() && n.State != neighbor.Permanent {
			list = append(list, handover.Neighbor{Port: n.Port, Addr: n.Addr, MAC: n.MAC})
		}
	}
	return list
}

// RestoreLearned has the ports of the first tables know what they had learned in another process, of this boot of the
// machine. It is called before Apply. What is not understood, or of another boot, is learned anew: the error says so.
func (f *Forwarder) RestoreLearned(b []byte) error {
	l, err := handover.ReadLearned(b)
	if err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil || boot != l.Boot {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.learned = l.Ports
	return nil
}

// restoreLearned gives ports what they had learned. Those that the tables do not have yet are asked for again.
func (f *Forwarder) restoreLearned(t *tables.Tables) {
	offset, now := monotonic()-f.clock(), f.clock()
	var left []handover.LearnedPort
	for i := range f.learned {
		of := &f.learned[i]
		p := t.Port(of.ID)
		if p == nil || !p.Present {
			left = append(left, *of)
			continue
		}
		if p.Name != of.Name || p.IfIndex != of.IfIndex {
			continue
		}
		for j := range of.Names {
			of.Names[j].Expires -= offset
		}
		f.dns.Restore(of.ID, of.Names)
		for _, n := range of.Neighbors { // verified when they are used
			f.neighbors.Learn(n.Port, n.Addr, n.MAC, neighbor.RequestSeen, now)
		}
	}
	if len(f.learned) > len(left) {
		f.log.Info("what was learned before holds", zap.Int("ports", len(f.learned)-len(left)))
	}
	f.learned = left
}

// bootID tells this boot of the machine from others.
func bootID() (id [16]byte, err error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id, err
	}
	plain := strings.ReplaceAll(strings.TrimSpace(string(text)), "-", "")
	if n, err := hex.Decode(id[:], []byte(plain[:min(len(plain), 2*len(id))])); err != nil || n != len(id) {
		return id, fmt.Errorf("boot id %q is none", text)
	}
	return id, nil
}
