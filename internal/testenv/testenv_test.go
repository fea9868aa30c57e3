// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"testing"
)

func TestAtLeast(t *testing.T) {
	for _, c := range []struct {
		release, since string
		want           bool
	}{
		{"6.18.5-amd64", "6.6", true},
		{"6.6.0", "6.6", true},
		{"6.5.13", "6.6", false},
		{"5.19", "6.0", false},
		{"7.0-rc1", "6.18", true},
		{"6.9-rc2", "6.18", false},
		{"", "5.4", false},
	} {
		if got := AtLeast(c.release, c.since); got != c.want {
			t.Errorf("AtLeast(%q, %q) = %t", c.release, c.since, got)
		}
	}
	if !AtLeast(Kernel(), "4.0") {
		t.Errorf("kernel %q", Kernel())
	}
}

func TestSkip(t *testing.T) {
	fake := &recorder{TB: t}
	Skip(fake, "0.1", nil)
	if fake.did != "" {
		t.Errorf("without an error: %s", fake.did)
	}
	Skip(fake, "0.1", errors.New("no such thing"))
	if fake.did != "fatal" {
		t.Errorf("on a kernel that has it: %q", fake.did)
	}
	fake.did = ""
	Skip(fake, "99.0", errors.New("no such thing"))
	if fake.did != "skip" {
		t.Errorf("on a kernel that is too old: %q", fake.did)
	}
}

type recorder struct {
	testing.TB
	did string
}

func (r *recorder) Helper()               {}
func (r *recorder) Fatalf(string, ...any) { r.note("fatal") }
func (r *recorder) Skipf(string, ...any)  { r.note("skip") }
func (r *recorder) note(what string) {
	if r.did == "" { // the real ones do not return
		r.did = what
	}
}
