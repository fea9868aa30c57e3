// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// state is where a flow stands, in all protocols.
type state uint8

// The states. TCP's are those of RFC 9293 3.3.2 as they look from the middle.
const (
	free state = iota
	tcpSynSent
	tcpSynSent2 // simultaneous open: both ends have sent a SYN
	tcpSynReceived
	tcpPickedUp // opened in mid-stream, and only one end has been heard
	tcpEstablished
	tcpFinWait   // one end has sent a FIN
	tcpCloseWait // and the other one has acknowledged it
	tcpLastAck   // both have sent a FIN
	tcpTimeWait  // and both have acknowledged it
	tcpClosed    // by RST
	tcpOneWay    // open, and only its opener is heard
	udpUnreplied
	udpReplied
	udpStream
	icmpAsked
	icmpAnswered
	sctpCookieWait
	sctpCookieEchoed
	sctpEstablished
	sctpShutdown
	sctpClosed
	otherUnreplied
	otherReplied
	numStates
)

// class is who may take an entry's place when memory is full: see room.go.
type class uint8

const (
	classOpen class = iota // answered and not over
	classHalf              // nobody has answered
	classDone              // over, or likely to be
	numClasses
)

// states names them and says how long a flow lasts in them without a packet. Values are those of the kernel
// (nf_conntrack_proto_tcp.c and its kin, Documentation/networking/nf_conntrack-sysctl.rst) but for these: established
// TCP has a day instead of five, which is longer than a night and 12 times the interval of keep-alives (RFC 9293
// 3.8.4), and half of the memory of a busy table would else be flows whose ends are gone; a SYN has 30 s instead of
// 120, for an entry that expired comes back with the next retransmission; time wait is 60 s, the ends' own
// (TCP_TIMEWAIT_LEN in include/net/tcp.h); what is picked up in mid-stream and unanswered has a minute; what is
// seen in one direction has IPVS's 15 minutes (net/netfilter/ipvs/ip_vs_proto_tcp.c), for the other end's RST is not
// seen.
var states = [numStates]struct {
	name    string
	timeout time.Duration
	class   class
}{
	free:             {"free", 0, classOpen},
	tcpSynSent:       {"syn_sent", 30 * time.Second, classHalf},
	tcpSynSent2:      {"syn_sent2", 30 * time.Second, classHalf},
	tcpSynReceived:   {"syn_received", 60 * time.Second, classHalf},
	tcpPickedUp:      {"picked_up", 60 * time.Second, classHalf},
	tcpEstablished:   {"established", 24 * time.Hour, classOpen},
	tcpFinWait:       {"fin_wait", 120 * time.Second, classOpen},
	tcpCloseWait:     {"close_wait", 60 * time.Second, classOpen},
	tcpLastAck:       {"last_ack", 30 * time.Second, classOpen},
	tcpTimeWait:      {"time_wait", 60 * time.Second, classDone},
	tcpClosed:        {"closed", 10 * time.Second, classDone},
	tcpOneWay:        {"one_way", 15 * time.Minute, classOpen},
	udpUnreplied:     {"udp_unreplied", 30 * time.Second, classHalf},
	udpReplied:       {"udp_replied", 30 * time.Second, classDone},
	udpStream:        {"udp_stream", 120 * time.Second, classOpen},
	icmpAsked:        {"icmp_asked", 30 * time.Second, classHalf},
	icmpAnswered:     {"icmp_answered", 30 * time.Second, classDone},
	sctpCookieWait:   {"sctp_cookie_wait", 30 * time.Second, classHalf},
	sctpCookieEchoed: {"sctp_cookie_echoed", 30 * time.Second, classHalf},
	sctpEstablished:  {"sctp_established", 210 * time.Second, classOpen},
	sctpShutdown:     {"sctp_shutdown", 30 * time.Second, classOpen},
	sctpClosed:       {"sctp_closed", 10 * time.Second, classDone},
	otherUnreplied:   {"other_unreplied", 600 * time.Second, classHalf},
	otherReplied:     {"other_replied", 600 * time.Second, classOpen},
}

// timeouts are those of states in ticks; classes are theirs.
var (
	timeouts [32]uint32
	classes  [32]class
)

func init() {
	for i, s := range states {
		timeouts[i], classes[i] = ticks(int64(s.timeout)), s.class
	}
}

// handshake: TCP, whose handshake is not over.
func (s state) handshake() bool { return s == tcpSynSent || s == tcpSynSent2 || s == tcpSynReceived }

// stands: TCP, of which both ends may know.
func (s state) stands() bool { return s >= tcpPickedUp && s <= tcpLastAck }

// closed: a packet that opens flows opens this one anew.
func (s state) closed() bool { return s == tcpTimeWait || s == tcpClosed || s == sctpClosed }

// of: flows of a protocol have this state.
func (s state) of(proto packet.IPProto) bool {
	first, last := otherUnreplied, otherReplied
	switch proto {
	case packet.ProtoTCP:
		first, last = tcpSynSent, tcpOneWay
	case packet.ProtoUDP:
		first, last = udpUnreplied, udpStream
	case packet.ProtoICMP, packet.ProtoICMPv6:
		first, last = icmpAsked, icmpAnswered
	case packet.ProtoSCTP:
		first, last = sctpCookieWait, sctpClosed
	}
	return s >= first && s <= last
}
