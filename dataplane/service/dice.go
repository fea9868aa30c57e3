// SPDX-License-Identifier: Apache-2.0

package service

import (
	"math/bits"
	"math/rand/v2"
)

// Dice is what one worker chooses with: random numbers and the turns of round robin. The zero value is ready.
type Dice struct {
	die
	turns [1024]turn
}

// die is where the random numbers come from: a copy says which ones are next.
type die struct{ state uint64 }

// turn is whose turn it is in a pool. Pools that have to share a place begin anew by chance each time that it changes
// hands: they lose the order of their turns, and no backend is preferred.
type turn struct {
	pool uint32 // 0: nobody's
	at   uint32
}

// Seed has the dice fall as other dice with the same seed do.
func (d *Dice) Seed(seed uint64) { *d = Dice{die: die{seed | 1}} }

// next is a random number: wyrand of https://github.com/wangyi-fudan/wyhash.
func (d *die) next() uint64 {
	if d.state == 0 {
		d.state = rand.Uint64() | 1
	}
	d.state += 0xa0761d6478bd642f
	hi, lo := bits.Mul64(d.state, d.state^0xe7037ed1a0b428db)
	return hi ^ lo
}

// below is a random number below n, by multiplication (Lemire, ACM TOMACS 29, 2019). n is so small against 2^32 that
// its bias does not matter.
func (d *die) below(n int) int { return int(d.next() >> 32 * uint64(n) >> 32) }

// turn is the next turn of a pool. The first one is a random one, so that workers do not all begin with the same
// backend.
func (d *Dice) turn(pool uint32) uint32 {
	t := &d.turns[pool%uint32(len(d.turns))]
	if t.pool != pool {
		*t = turn{pool, uint32(d.next())}
	}
	t.at++
	return t.at
}
