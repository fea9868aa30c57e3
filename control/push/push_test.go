// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// state has a port on each device.
func state(t *testing.T, devices ...string) model.State {
	t.Helper()
	ports := ""
	for _, d := range devices {
		ports += "{name: on-" + d + ", device: " + d + "}, "
	}
	objects, errs := model.Decode("node.yaml", []byte(
		"apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: lab}\nspec: {ports: ["+ports+"]}\n"))
	if len(errs) > 0 {
		t.Fatal(errs[0])
	}
	return model.NewState(objects...)
}

// dataplane answers snapshots as it is told to.
type dataplane struct {
	snapshots chan *api.Snapshot
	answers   chan error
}

func (d dataplane) apply(_ context.Context, s *api.Snapshot) error {
	d.snapshots <- s
	return <-d.answers
}

func run(t *testing.T, s *memory.Source) (dataplane, <-chan error, context.CancelFunc) {
	t.Helper()
	d := dataplane{make(chan *api.Snapshot), make(chan error)}
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	done := make(chan error, 1)
	go func() { done <- (&Local{Source: s, Log: zap.NewNop()}).Run(ctx, d.apply) }()
	return d, done, stop
}

// TestPush: each state is a snapshot; a refused one neither uses up its epoch nor moves the ports' numbers.
func TestPush(t *testing.T) {
	var s memory.Source
	s.Set(state(t, "a", "b"))
	d, done, stop := run(t, &s)
	defer stop()
	for _, step := range []struct {
		devices []string
		answer  error
		epoch   uint64
		ids     []uint32
	}{
		{[]string{"a", "b"}, nil, 1, []uint32{1, 2}},
		{[]string{"b", "c"}, errors.New("refused"), 2, []uint32{2, 3}},
		{[]string{"b", "d"}, nil, 2, []uint32{2, 3}},
		{[]string{"d"}, nil, 3, []uint32{3}},
	} {
		if step.epoch > 1 || step.answer != nil {
			s.Set(state(t, step.devices...))
		}
		snapshot := <-d.snapshots
		var ids []uint32
		for _, p := range snapshot.Ports {
			ids = append(ids, p.Id)
		}
		if snapshot.Epoch != step.epoch || len(ids) != len(step.ids) || ids[0] != step.ids[0] {
			t.Errorf("%v: epoch %d, ports %v, want epoch %d, ports %v", step.devices, snapshot.Epoch, ids, step.epoch, step.ids)
		}
		d.answers <- step.answer
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("stopped with %v", err)
	}
}

// TestFirstFails: without a first snapshot there is nothing to run.
func TestFirstFails(t *testing.T) {
	var refused memory.Source
	refused.Set(state(t, "a"))
	d, done, stop := run(t, &refused)
	defer stop()
	<-d.snapshots
	no := errors.New("no such device")
	d.answers <- no
	if err := <-done; !errors.Is(err, no) {
		t.Errorf("error %v, want the dataplane's", err)
	}

	var empty memory.Source
	empty.Set(model.State{}, &model.Error{Place: model.Place{File: "node.yaml"}, Reason: "a typing mistake"})
	_, done, stop = run(t, &empty)
	defer stop()
	err := <-done
	if err == nil || !strings.Contains(err.Error(), "typing mistake") {
		t.Errorf("error %v is not the manifest's, which is why there is no node", err)
	}

	var none memory.Source
	none.Set(model.State{})
	_, done, stop = run(t, &none)
	defer stop()
	if err := <-done; !errors.Is(err, compile.ErrNoNode) {
		t.Errorf("error %v, want that there is no node", err)
	}
}
