// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// levels of lists, each of ten times the one before.
func levels(n int) string {
	var b strings.Builder
	b.WriteString("a0: &a0 x\n")
	for i := range n {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d,", i), 10))
	}
	return b.String()
}

// TestAliases: they are followed, and a small document does not become a large one.
func TestAliases(t *testing.T) {
	huge := strings.Repeat("y", 1<<20)
	long := "x: &x " + huge + "\n"
	for name, c := range map[string]struct{ text, reason string }{
		"of no use":  {"x: '*.example.com & more'\n", ""},
		"a few":      {"x: &x {a: b}\ny: *x\nz: {<<: *x}\n", ""},
		"large":      {long + "l: [*x]\n", ""},
		"many large": {long + "l: [" + strings.Repeat("*x,", 300) + "]\n", "aliases stand for more than"},
		"merged":     {"x: &x {a: " + huge + "}\nl: [" + strings.Repeat("{<<: *x},", 9) + "]\n", "stand for"},
		"nested":     {levels(7), "aliases stand for more than"},
		"much, none": {"x: &x 1\ny: *x\nz: [" + strings.Repeat(strings.Repeat("z", 1023)+",", 4096) + "]\n", "object of"},
		"of itself":  {"x: &x [*x]\n", "contains itself"},
		"unknown":    {"x: &x 1\ny: *y\n", "unknown anchor"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, errs := Decode("f.yaml", []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n"+c.text))
		runtime.ReadMemStats(&after)
		if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 200 {
			t.Errorf("%s: took %d MiB", name, took)
		}
		if (len(errs) > 0) != (c.reason != "") || len(errs) > 0 && !strings.Contains(errs[0].Reason, c.reason) {
			t.Errorf("%s: errors %v, want %q", name, errs, c.reason)
		}
	}
}
