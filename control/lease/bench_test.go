// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"sync"
	"sync/atomic"
	"testing"
)

// parallel calls f for 0 to n-1 from so many goroutines.
func parallel(n, goroutines int, f func(int)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range goroutines {
		group.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				f(i - 1)
			}
		})
	}
	group.Wait()
}

func BenchmarkAdd(b *testing.B) {
	s := opened(b, "10.0.0.0/8", "fd00::/64")
	for i := 0; b.Loop(); i++ {
		add(b, s, i)
	}
}

func BenchmarkAddRemove(b *testing.B) {
	s := opened(b, "10.0.0.0/24", "fd00::/64")
	for range 250 {
		add(b, s, 1000+s.Len())
	}
	for b.Loop() {
		add(b, s, 1)
		remove(b, s, 1)
	}
}

// BenchmarkAddParallel is ten at a time; the time is that of each Add by itself, divided by ten.
func BenchmarkAddParallel(b *testing.B) {
	s := opened(b, "10.0.0.0/8", "fd00::/64")
	parallel(b.N, 10, func(i int) { add(b, s, i) })
}

// BenchmarkDecide is Add without the disk.
func BenchmarkDecide(b *testing.B) {
	book := newBook()
	book.configure(prefixes("10.0.0.0/16", "fd00::/64"), nil)
	for i := range 5000 {
		book.add(pod(i), nil, epoch)
	}
	a := pod(9000)
	b.ReportAllocs()
	for b.Loop() {
		book.add(a, nil, epoch)
		book.remove([]Key{a.Key})
		book.changes, book.touched = nil, nil
	}
}

// BenchmarkOpen opens a store of 5000.
func BenchmarkOpen(b *testing.B) {
	path := b.TempDir() + "/leases.db"
	s := open(b, path)
	s.Configure(prefixes("10.0.0.0/16", "fd00::/64"), nil)
	parallel(5000, 100, func(i int) { add(b, s, i) })
	s.Close()
	for b.Loop() {
		s := open(b, path)
		s.Configure(prefixes("10.0.0.0/16", "fd00::/64"), nil)
		s.Close()
	}
}
