// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Seed is the keys of a table's hashes. Who does not know them cannot make flows that collide.
type Seed [12]uint64

func randomSeed() (s Seed) {
	var b [8 * len(s)]byte
	rand.Read(b[:]) // never fails: it ends the program
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return s
}

// hash is NH of UMAC (RFC 4418 5.2.2) with words of 64 bits: the sum of products of pairs of words, a key added to
// each word. Two inputs that are chosen without knowledge of the keys give the same 128 bits with a probability of
// 2^-64. A further pair folds those into 64.
func (s *Seed) hash(k *key) uint64 {
	h1, l1 := bits.Mul64(k.lo.Hi+s[0], k.lo.Lo+s[1])
	h2, l2 := bits.Mul64(k.hi.Hi+s[2], k.hi.Lo+s[3])
	h3, l3 := bits.Mul64(k.word+s[4], s[5])
	l, c := bits.Add64(l1, l2, 0)
	h, _ := bits.Add64(h1, h2, c)
	l, c = bits.Add64(l, l3, 0)
	h, _ = bits.Add64(h, h3, c)
	h, l = bits.Mul64(h+s[6], l+s[7])
	return h ^ l
}

// source hashes the address that opens flows, for the sketch of limit.go.
func (s *Seed) source(a packet.Addr) uint64 {
	h, l := bits.Mul64(a.Hi+s[8], a.Lo+s[9])
	h, l = bits.Mul64(h+s[6], l+s[7])
	return h ^ l
}

// mark hashes a SYN of a flow: its direction and its sequence number, for the fingerprints of syn.go.
func (s *Seed) mark(hash uint64, from uint8, seq uint32) uint64 {
	h, l := bits.Mul64(hash+s[10], uint64(from)<<32|uint64(seq)+s[11])
	return h ^ l
}
