// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// checker is *testing.T or *rapid.T.
type checker interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// checkStep compares a step with its delta, and with a compilation of the same objects from nothing.
func checkStep(
	t checker, node compile.Node, objects map[model.Key]*model.Object,
	c *compile.Compiler, before *api.Snapshot, step *compile.Step,
) {
	t.Helper()
	switch {
	case step.Delta != nil:
		next, err := step.Delta.Apply(before)
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(next, step.Snapshot) {
			t.Errorf("the delta makes another snapshot: %s", cmp.Diff(canonical(step.Snapshot), canonical(next)))
		}
	case before != nil && step.Snapshot != before:
		t.Errorf("another snapshot without a delta")
	}
	want, errs, err := compile.Once(slices.Collect(maps.Values(objects)), node)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(canonical(want), canonical(step.Snapshot)); diff != "" {
		t.Errorf("snapshot from nothing (-) and by steps (+):\n%s", diff)
	}
	if diff := cmp.Diff(texts(errs), texts(c.Errors())); diff != "" {
		t.Errorf("errors from nothing (-) and by steps (+):\n%s", diff)
	}
}

func texts(errs []*model.Error) (list []string) {
	for _, e := range errs {
		list = append(list, e.Error())
	}
	return list
}

var _ checker = (*testing.T)(nil)
