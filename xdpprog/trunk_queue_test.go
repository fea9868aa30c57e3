// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// queueRecorder is an XDP program at the trunk's outer device that notes of each frame the queue it came in by. Frames
// are told apart by their destination MAC, which from_port leaves alone.
type queueRecorder struct{ seen *ebpf.Map }

func newQueueRecorder(t *testing.T, ifindex int) queueRecorder {
	t.Helper()
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { seen.Close() })
	const data, dataEnd, rxQueue = 0, 4, 16 // struct xdp_md
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL",
		Flags: unix.BPF_F_XDP_HAS_FRAGS, Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, data, asm.Word),
			asm.LoadMem(asm.R3, asm.R1, dataEnd, asm.Word),
			asm.LoadMem(asm.R5, asm.R1, rxQueue, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, 14),
			asm.JGT.Reg(asm.R4, asm.R3, "out"),
			asm.LoadMem(asm.R4, asm.R2, 2, asm.Word),
			asm.StoreMem(asm.RFP, -4, asm.R4, asm.Word),
			asm.StoreMem(asm.RFP, -8, asm.R5, asm.Word),
			asm.LoadMapPtr(asm.R1, seen.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
			asm.Mov.Imm(asm.R0, xdpDrop).WithSymbol("out"),
			asm.Return(),
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	// Native: the generic hook sees nothing of what bpf_redirect sent (net/core/dev.c, do_xdp_generic).
	l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: ifindex, Flags: link.XDPDriverMode})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return queueRecorder{seen}
}

// queues sends packets, which begin behind the MAC addresses, and returns the queue of each.
func (r queueRecorder) queues(t *testing.T, from *packetSocket, packets [][]byte) []uint32 {
	t.Helper()
	got := make([]uint32, len(packets))
	for i, p := range packets {
		frame := binary.BigEndian.AppendUint32([]byte{2, 0}, uint32(i))
		from.send(t, join(frame, stationMAC[:], p))
		await(t, "the trunk to carry a frame", func() bool {
			return r.seen.LookupAndDelete(frame[2:], &got[i]) == nil
		})
	}
	return got
}

// ends of a flow.
type ends struct {
	src, dst         []byte
	srcPort, dstPort uint16
}

func (e ends) reversed() ends { return ends{e.dst, e.src, e.dstPort, e.srcPort} }

func randomEnds(r *rand.Rand, size int) ends {
	e := ends{make([]byte, size), make([]byte, size), uint16(r.Uint32()), uint16(r.Uint32())}
	for _, a := range [][]byte{e.src, e.dst} { // neighbours, as pods of a node are
		copy(a, []byte{10, 244})
		a[size-1] = byte(r.Uint32())
	}
	return e
}

type flowKind struct {
	proto     byte
	more      uint16 // the fragment field of IPv4, or of IPv6's fragment header
	extension bool   // IPv6 only
}

// packet builds what this end sends; reply says which of two directions it is, for ICMP.
func (k flowKind) packet(e ends, reply bool) []byte {
	transport := make([]byte, 16)
	switch k.proto {
	case 1, 58: // the identifier is the same in both directions
		transport[0] = map[bool]byte{false: 8, true: 0}[reply]
		if k.proto == 58 {
			transport[0] = map[bool]byte{false: 128, true: 129}[reply]
		}
		binary.BigEndian.PutUint16(transport[4:], e.srcPort^e.dstPort)
	default:
		binary.BigEndian.PutUint16(transport, e.srcPort)
		binary.BigEndian.PutUint16(transport[2:], e.dstPort)
	}
	if len(e.src) == 4 {
		ip := fragment4(ip4(ours4, transport), k.more)
		ip[9] = k.proto
		copy(ip[12:], e.src)
		copy(ip[16:], e.dst)
		return join([]byte{8, 0}, ip)
	}
	next := k.proto
	if k.more != 0 {
		transport = join([]byte{next, 0, byte(k.more >> 8), byte(k.more), 0, 0, 0, 1}, transport)
		next = 44
	}
	if k.extension {
		transport = join(extension(60, 1), extension(next, 0), transport)
		next = 0
	}
	ip := ip6(ours6, next, 64, transport)
	copy(ip[8:], e.src)
	copy(ip[24:], e.dst)
	return join([]byte{0x86, 0xdd}, ip)
}

// While a worker hangs what is for its queue ends at the hook, of others nothing does, and neighbour discovery goes to
// another one.
func TestHungQueue(t *testing.T) {
	const queues, flows, hung = 3, 60, portID % 3 // ARP's
	table := loadFlows(t, FlowTableOptions{Records: 16})
	l := newTrunkLab(t, queues, TrunkOptions{Flows: table})
	l.port.Router = true
	setPort(t, l.trunk, l.port)
	from, recorder := l.sender(t), newQueueRecorder(t, l.wire.peer)
	random := rand.New(rand.NewPCG(5, 7))
	var packets, discovery [][]byte
	for i := range flows {
		packets = append(packets, flowKind{proto: []byte{6, 17, 132}[i%3]}.packet(randomEnds(random, 4+i%2*12), false))
		solicitation := flowKind{proto: 58}.packet(randomEnds(random, 16), false)
		solicitation[2+40] = 135
		discovery = append(discovery, solicitation)
	}
	discovery = append(discovery, join([]byte{8, 6}, arpFrom(stationMAC[5], ours4)))
	queue, asked := recorder.queues(t, from, packets), recorder.queues(t, from, discovery)
	if !slices.Contains(queue, hung) || !slices.Contains(asked[:flows], hung) || asked[flows] != hung {
		t.Fatalf("packets in queues %v, discovery in %v", queue, asked)
	}
	controlOf(table).hung = 1 << hung
	for i, p := range packets {
		if queue[i] == hung {
			if r := l.judged(t, from, join([]byte{2, 0, 0, 0, 0, 1}, stationMAC[:], p)); r != AbsentDropped {
				t.Fatalf("for the queue of the worker that hangs: %s", r)
			}
		} else if q := recorder.queues(t, from, [][]byte{p}); q[0] != queue[i] {
			t.Fatalf("for queue %d, in %d", queue[i], q[0])
		}
	}
	for i, q := range recorder.queues(t, from, discovery) {
		if want := asked[i]; q != want && (want != hung || q != (hung+1)%queues) || q == hung {
			t.Fatalf("discovery for queue %d, in %d", want, q)
		}
	}
}

func TestQueues(t *testing.T) {
	const queues, flows = 3, 300
	l := newTrunkLab(t, queues, TrunkOptions{})
	l.port.Router = true // both directions come from one station here
	setPort(t, l.trunk, l.port)
	from, recorder := l.sender(t), newQueueRecorder(t, l.wire.peer)
	random := rand.New(rand.NewPCG(5, 6))
	for _, size := range []int{4, 16} {
		for _, k := range []flowKind{
			{proto: 6}, {proto: 17}, {proto: 132}, {proto: 1}, {proto: 58}, {proto: 47},
			{proto: 17, more: 0x2000}, {proto: 17, more: 0x0010}, {proto: 6, extension: true},
			{proto: 17, more: 1, extension: true},
		} {
			t.Run(fmt.Sprintf("%d bytes, %+v", size, k), func(t *testing.T) {
				var there, back [][]byte
				for range flows {
					e := randomEnds(random, size)
					there, back = append(there, k.packet(e, false)), append(back, k.packet(e.reversed(), true))
				}
				a, b := recorder.queues(t, from, there), recorder.queues(t, from, back)
				var spread [queues]int
				for i := range a {
					if a[i] != b[i] {
						t.Fatalf("queue %d there, %d back: %x", a[i], b[i], there[i])
					}
					spread[a[i]]++
				}
				for _, n := range spread {
					if n < flows/queues/2 {
						t.Errorf("%v packets in the queues", spread)
					}
				}
			})
		}
	}
}

// All fragments of a packet and all packets of a flow behind extensions go one way.
func TestQueuesOfFragments(t *testing.T) {
	l := newTrunkLab(t, 4, TrunkOptions{})
	l.port.Router = true
	setPort(t, l.trunk, l.port)
	from, recorder := l.sender(t), newQueueRecorder(t, l.wire.peer)
	random := rand.New(rand.NewPCG(7, 8))
	for range 50 {
		four, six := randomEnds(random, 4), randomEnds(random, 16)
		other4, other6 := four, six
		other4.srcPort, other6.srcPort = 1, 1 // payload, in later fragments
		for name, same := range map[string][2][]byte{
			"ipv4": {flowKind{proto: 17, more: 0x2000}.packet(four, false), flowKind{proto: 17, more: 9}.packet(other4, false)},
			"ipv6": {flowKind{proto: 17, more: 1}.packet(six, false), flowKind{proto: 6, more: 16}.packet(other6, false)},
			"extensions": {flowKind{proto: 17}.packet(six, false),
				flowKind{proto: 17, extension: true}.packet(six, false)},
			"atomic": {flowKind{proto: 17}.packet(six, false), flowKind{proto: 17, more: 2}.packet(six, false)},
		} {
			if q := recorder.queues(t, from, same[:]); q[0] != q[1] {
				t.Errorf("%s: queues %v", name, q)
			}
		}
	}
}
