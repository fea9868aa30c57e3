// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// madvCollapse is MADV_COLLAPSE (linux/mman.h, since Linux 6.1): have huge pages at once, whatever is set for the
// system.
const madvCollapse = 25

// memory is mapped pages: data is the usable part of mapping, which begins and ends at huge pages.
type memory struct {
	mapping, data []byte
	file          *os.File // that data is of, nil for memory that is this process's alone
	huge          bool     // in huge pages that were reserved
}

// mapMemory maps size bytes, present and zero. In huge pages: a frame a page would cost the loop a TLB miss a packet.
// Of a file in memory where that has them, so that another process may take it over; else of no file.
func mapMemory(size int) (memory, error) {
	rounded := (size + hugePage - 1) &^ (hugePage - 1)
	if m, err := mapReserved(rounded); err == nil {
		return m, nil
	}
	if m, err := mapShared(rounded); err == nil {
		return m, nil
	}
	return mapAlone(rounded)
}

// mapReserved takes reserved huge pages. Without enough of them it fails with ENOMEM at once (mm/hugetlb.c,
// hugetlb_reserve_pages).
func mapReserved(size int) (memory, error) {
	file, err := newFile(size, unix.MFD_HUGETLB|unix.MFD_HUGE_2MB)
	if err != nil {
		return memory{}, err
	}
	m, err := mapFile(file, size)
	if err != nil {
		return memory{}, errors.Join(err, file.Close())
	}
	m.huge = true
	if err := unix.Madvise(m.data, unix.MADV_POPULATE_WRITE); err != nil {
		return memory{}, errors.Join(err, m.release())
	}
	return m, nil
}

// mapShared takes transparent huge pages in a file. What systems are set to (shmem_enabled) is mostly not to give a
// file any; asked for each by itself, they do. A page of each has to be there for that (mm/khugepaged.c).
func mapShared(size int) (memory, error) {
	file, err := newFile(size, 0)
	if err != nil {
		return memory{}, err
	}
	m, err := mapFile(file, size)
	if err != nil {
		return memory{}, errors.Join(err, file.Close())
	}
	_ = unix.Madvise(m.data, unix.MADV_HUGEPAGE)
	for at := 0; at < len(m.data); at += hugePage {
		m.data[at] = 0
	}
	if err := unix.Madvise(m.data, madvCollapse); err != nil {
		return memory{}, errors.Join(err, m.release())
	}
	_ = unix.Madvise(m.data, unix.MADV_POPULATE_WRITE) // else they come when they are first touched
	return m, nil
}

// mapAlone takes transparent huge pages, or else ordinary ones.
func mapAlone(size int) (memory, error) {
	m, err := reserve(size)
	if err != nil {
		return memory{}, err
	}
	if err := unix.Mprotect(m.data, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return memory{}, errors.Join(err, m.release())
	}
	// Both are wishes: where the kernel has neither, pages come when they are first touched.
	_ = unix.Madvise(m.data, unix.MADV_HUGEPAGE)
	_ = unix.Madvise(m.data, unix.MADV_POPULATE_WRITE)
	return m, nil
}

// newFile makes a file in memory.
func newFile(size, flags int) (*os.File, error) {
	fd, err := unix.MemfdCreate("viaduct-umem", unix.MFD_CLOEXEC|flags)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	file := os.NewFile(uintptr(fd), "viaduct-umem")
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, errors.Join(fmt.Errorf("ftruncate: %w", err), file.Close())
	}
	return file, nil
}

// mapFile maps a file, which is the memory's from then on.
func mapFile(file *os.File, size int) (memory, error) {
	m, err := reserve(size)
	if err != nil {
		return memory{}, err
	}
	if err := mapOver(int(file.Fd()), m.data); err != nil {
		return memory{}, errors.Join(fmt.Errorf("map file: %w", err), m.release())
	}
	m.file = file
	return m, nil
}

// reserve takes addresses that have no memory.
func reserve(size int) (memory, error) {
	mapping, err := unix.Mmap(-1, 0, size+hugePage, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return memory{}, err
	}
	start := -address(mapping) & (hugePage - 1)
	return memory{mapping: mapping, data: mapping[start : start+uint64(size)]}, nil
}

func (m memory) release() error {
	err := unix.Munmap(m.mapping)
	if m.file != nil {
		err = errors.Join(err, m.file.Close())
	}
	return err
}
