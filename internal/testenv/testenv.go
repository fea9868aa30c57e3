// SPDX-License-Identifier: Apache-2.0

// Package testenv says what tests may expect of the machine that they run on. A skip has to prove itself: for a
// missing privilege a test is skipped, for a kernel that lacks what its version has it fails.
package testenv

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Root skips the test when it does not run as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// Skip skips the test for err, an attempt to use a kernel feature that exists since the version ("6.6"); where the
// kernel is that or newer, the test fails. It does nothing without an error.
func Skip(t testing.TB, since string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if release := Kernel(); AtLeast(release, since) {
		t.Fatalf("kernel %s has this since %s, but: %v", release, since, err)
	}
	t.Skipf("needs kernel %s: %v", since, err)
}

// Kernel returns the kernel's release: "6.18.5-amd64".
func Kernel() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// AtLeast compares major and minor version of two releases.
func AtLeast(release, since string) bool {
	major, minor := version(release)
	wantMajor, wantMinor := version(since)
	return major > wantMajor || major == wantMajor && minor >= wantMinor
}

func version(release string) (major, minor int) {
	number := func(s string) int {
		end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
		if end >= 0 {
			s = s[:end]
		}
		n, _ := strconv.Atoi(s) // no number counts as 0
		return n
	}
	first, rest, _ := strings.Cut(release, ".")
	return number(first), number(rest)
}
