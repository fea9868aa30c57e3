// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	const (
		pass = `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n"
		skip = `{"Action":"output","Package":"p","Test":"TestS","Output":"s_test.go:1: needs root\n"}` + "\n" +
			`{"Action":"skip","Package":"p","Test":"TestS"}` + "\n"
		fail = `{"Action":"output","Package":"p","Test":"TestF","Output":"broken\n"}` + "\n" +
			`{"Action":"fail","Package":"p","Test":"TestF"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n"
		ended = `{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}` + "\n" +
			`{"Action":"pass","Package":"p"}` + "\n"
		build = `{"ImportPath":"q","Action":"build-output","Output":"q.go:1: no\n"}` + "\n" +
			`{"ImportPath":"q","Action":"build-fail"}` + "\n" +
			`{"Action":"fail","Package":"q","FailedBuild":"q"}` + "\n"
		hanged = `{"Action":"output","Package":"p","Test":"TestH","Output":"panic: test timed out\n"}` + "\n" +
			`{"Action":"fail","Package":"p"}` + "\n"
	)
	for _, c := range []struct {
		name, in string
		root, ok bool
		say      []string
	}{
		{"passes", pass + ended, true, true, []string{"ok  \tp", "1 passed, 0 failed, 0 skipped"}},
		{"nothing ran", ended, true, false, []string{"0 passed"}},
		{"skip as root", pass + skip + ended, true, false,
			[]string{"needs root", "as root", "1 passed, 0 failed, 1 skipped"}},
		{"skip as a user", pass + skip + ended, false, true, []string{"1 skipped"}},
		{"failure", pass + fail, false, false, []string{"broken", "1 passed, 1 failed"}},
		{"does not build", pass + build, false, false, []string{"q.go:1: no", "1 packages failed"}},
		{"hangs", pass + hanged, false, false, []string{"timed out"}},
		{"the go command fails", pass + "go: no such module\n", false, true, []string{"go: no such module"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			if ok := run(strings.NewReader(c.in), &out, c.root); ok != c.ok {
				t.Errorf("ok = %t, printed:\n%s", ok, &out)
			}
			for _, s := range c.say {
				if !strings.Contains(out.String(), s) {
					t.Errorf("%q is not in:\n%s", s, &out)
				}
			}
			if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); !strings.Contains(lines[len(lines)-1], "passed") {
				t.Errorf("last line %q", lines[len(lines)-1])
			}
		})
	}
}
