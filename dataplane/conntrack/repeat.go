// SPDX-License-Identifier: Apache-2.0

package conntrack

// A port from which many connections are begun that nobody answers is flooding, or being used to flood. From then on a
// SYN of its is dropped when it comes for the first time and let on when it is repeated: who means it repeats it after
// a second (RFC 6298 2.1), a flood of random sources does not. So a flood ends here, before policy is asked and before
// the end that it is for works on it, and who is behind the same port and means it gets through a second later;
// the node itself at once (Table.Excuse).
//
// What came is remembered in 4 bytes, 24 bits of a keyed hash and 8 of time, in buckets of a cache line: 8 million of
// them in a table of the default size, of which the oldest of a bucket gives way. The memory is the process's only once
// a flood has touched it.
const (
	repeatUnit   = 27 // bits of a time in ns: 0.13 s
	repeatWays   = 16
	repeatLeast  = 3  // units: 0.4 s, less than any first retransmission
	repeatMost   = 60 // units: 8 s
	repeatFactor = 32 // places for each entry of the table
	repeatMax    = 1 << 24
)

// repeated says whether a SYN with this fingerprint has come before, and remembers it otherwise.
func (sh *shard) repeated(mark uint64, now int64) bool {
	size := uint64(len(sh.syns) / repeatWays)
	at := (mark >> 32 * size) >> 32 * repeatWays
	bucket := (*[repeatWays]uint32)(sh.syns[at : at+repeatWays])
	tag, unit := uint32(mark)<<8, uint8(now>>repeatUnit)
	oldest, most := 0, uint8(0)
	for i, place := range bucket {
		age := unit - uint8(place)
		if place>>8 == tag>>8 && place != 0 {
			if age >= repeatLeast && age <= repeatMost {
				return true
			}
			if age < repeatLeast {
				return false // a copy of the first
			}
			oldest = i
			break
		}
		if place == 0 {
			age = 0xff
		}
		if age > most {
			oldest, most = i, age
		}
	}
	bucket[oldest] = tag | uint32(unit)
	return false
}
