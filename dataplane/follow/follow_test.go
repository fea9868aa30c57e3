// SPDX-License-Identifier: Apache-2.0

package follow_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/follow"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/internal/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// control is a fake of the other end, that says what a test has it say.
type control struct {
	api.UnimplementedControlServer
	t       *testing.T
	path    string
	server  *grpc.Server
	streams chan *stream
}

// stream is one Sync stream, as control has it.
type stream struct {
	hello *api.Hello
	api.Control_SyncServer
	end chan error
}

// serve listens until the test or stop ends it.
func serve(t *testing.T, dir string) *control {
	t.Helper()
	c := &control{t: t, path: filepath.Join(dir, "control.sock"), streams: make(chan *stream, 16)}
	l, err := process.Listen(t.Context(), c.path)
	if err != nil {
		t.Fatal(err)
	}
	c.server = grpc.NewServer(grpc.Creds(process.Credentials()),
		grpc.MaxRecvMsgSize(process.MaxMessage), grpc.MaxSendMsgSize(process.MaxMessage))
	api.RegisterControlServer(c.server, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.server.Serve(l)
	}()
	t.Cleanup(func() {
		c.server.Stop()
		<-done
	})
	return c
}

func (c *control) Sync(s api.Control_SyncServer) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	one := &stream{m.GetHello(), s, make(chan error, 1)}
	c.streams <- one
	select {
	case err := <-one.end:
		return err
	case <-s.Context().Done():
		return s.Context().Err()
	}
}

// next is the next stream that a dataplane opens.
func (c *control) next() *stream {
	c.t.Helper()
	select {
	case s := <-c.streams:
		return s
	case <-time.After(20 * time.Second):
		c.t.Fatal("no dataplane came")
		return nil
	}
}

// say sends a message and returns the answer.
func (s *stream) say(t *testing.T, m any) *api.FromDataplane {
	t.Helper()
	out := new(api.FromControl)
	switch m := m.(type) {
	case *api.Snapshot:
		out.Message = &api.FromControl_Snapshot{Snapshot: m}
	case *api.Delta:
		out.Message = &api.FromControl_Delta{Delta: m}
	}
	if err := s.Send(out); err != nil {
		t.Fatal(err)
	}
	answer, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func (s *stream) acked(t *testing.T, m any, epoch uint64) {
	t.Helper()
	if a := s.say(t, m).GetAck(); a.GetEpoch() != epoch || a.GetApplyNanoseconds() == 0 || len(a.GetClosed()) != 1 {
		t.Fatalf("ack %v, want epoch %d", a, epoch)
	}
}

// fake is a forwarder without devices: real tables, nothing that they are used by.
type fake struct {
	mu        sync.Mutex
	neighbors *neighbor.Table
	tables    *tables.Tables
	inForce   *api.Snapshot
	applied   []uint64
	slow      chan struct{} // when it is not nil, applying waits for it
}

func newFake() *fake {
	f := &fake{neighbors: neighbor.NewTable(neighbor.Config{})}
	f.tables, _ = tables.Build(nil, &api.Snapshot{}, links, f.neighbors)
	return f
}

func links(string) (tables.Link, bool) {
	return tables.Link{MAC: packet.MAC{2}, MTU: 1500, Up: true}, true
}

func (f *fake) Apply(_ context.Context, s *api.Snapshot) error {
	if f.slow != nil {
		<-f.slow
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t, err := tables.Build(f.tables, s, links, f.neighbors)
	return f.commit(t, s, err)
}

func (f *fake) ApplyDelta(_ context.Context, d *api.Delta) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next, err := d.Apply(f.inForce)
	if err != nil {
		return err
	}
	t, err := tables.Update(f.tables, next, d, links)
	return f.commit(t, next, err)
}

func (f *fake) commit(t *tables.Tables, s *api.Snapshot, err error) error {
	if err != nil {
		return err
	}
	f.tables, f.inForce = t, s
	f.applied = append(f.applied, s.Epoch)
	return nil
}

func (f *fake) Closed() []*api.ClosedPort { return []*api.ClosedPort{{Port: 9, Reason: "is closed"}} }

func (f *fake) InForce() *api.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inForce
}

func (f *fake) epochs() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.applied)
}

// following runs a client until the test ends.
func following(t *testing.T, dir string, f follow.Forwarder) *follow.Client {
	t.Helper()
	c := follow.New(follow.Config{Socket: filepath.Join(dir, "control.sock"), Node: "a", Version: "1", Forwarder: f,
		Logger: zaptest.NewLogger(t)})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

func snapshot(epoch uint64, routes int) *api.Snapshot {
	s := &api.Snapshot{Epoch: epoch, Origins: []string{"", "Route default/r (r.yaml:1)"},
		Groups: []*api.NextHopGroup{{Id: 1, Kind: api.NextHopGroup_KIND_BLACKHOLE}}}
	for i := range routes {
		s.Routes = append(s.Routes, &api.Route{Prefix: []byte{byte(20 + i>>16), byte(i >> 8), byte(i), 0}, Bits: 24, Group: 1,
			Origin: 1})
	}
	return s
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 2000 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}

func TestFollows(t *testing.T) {
	dir, f := t.TempDir(), newFake()
	server, client := serve(t, dir), following(t, dir, f)
	s := server.next()
	if s.hello.Node != "a" || s.hello.Version != "1" || s.hello.InForce != nil {
		t.Errorf("hello %v", s.hello)
	}
	one, two := snapshot(5, 3), snapshot(6, 4)
	s.acked(t, one, 5)
	s.acked(t, api.Difference(one, two), 6)
	if got := f.InForce(); !proto.Equal(got, two) {
		t.Errorf("in force is %v", got)
	}
	eventually(t, "the books", func() bool { return client.Status().Deltas == 1 })
	if st := client.Status(); !st.Connected || st.Snapshots != 1 || st.Nacks != 0 || st.SinceUnixNanoseconds == 0 {
		t.Errorf("status %v", st)
	}
}

// What is refused leaves what was in force, is said with object and field, and a whole snapshot mends it.
func TestRefuses(t *testing.T) {
	dir, f := t.TempDir(), newFake()
	server, client := serve(t, dir), following(t, dir, f)
	s := server.next()
	one := snapshot(5, 3)
	s.acked(t, one, 5)
	for name, row := range map[string]struct {
		message               any
		object, field, reason string
	}{
		"gap": {&api.Delta{Base: 4, Set: snapshot(6, 0)}, "", "", "the delta builds on epoch 4, and 5 is in force"},
		"no group": {&api.Delta{Base: 5, Set: &api.Snapshot{Epoch: 6, Routes: []*api.Route{
			{Prefix: []byte{99, 0, 0, 0}, Bits: 8, Group: 77, Origin: 1}}}},
			"Route default/r (r.yaml:1)", "routes[0].group", "there is no group 77"},
		"removes what is not there": {&api.Delta{Base: 5, Set: &api.Snapshot{Epoch: 6}, RemovedGroups: []uint32{7}},
			"", "", "the delta removes what is not there: id:7"},
		"garbage": {&api.Snapshot{Epoch: 6, Ports: []*api.Port{{Id: 1 << 31}}}, "", "ports[0].id",
			"2147483648 is not from 1 to 1048575"},
	} {
		t.Run(name, func(t *testing.T) {
			n := s.say(t, row.message).GetNack()
			want := &api.Nack{Epoch: 6, Object: row.object, Field: row.field, Reason: row.reason}
			if n.GetEpoch() != 6 || n.Object != want.Object || n.Field != want.Field ||
				slices.Compare([]byte(compact(n.Reason)), []byte(compact(want.Reason))) != 0 {
				t.Errorf("nack %v, want %v", n, want)
			}
			if got := f.InForce(); !proto.Equal(got, one) {
				t.Errorf("in force is %v", got)
			}
		})
	}
	s.acked(t, snapshot(7, 5), 7)
	eventually(t, "the books", func() bool { return client.Status().Nacks == 4 && client.Status().Snapshots == 2 })
}

// compact takes out blanks: the text form of a message has one or two, at random.
func compact(s string) string {
	return string(slices.DeleteFunc([]byte(s), func(b byte) bool { return b == ' ' || b == 0xa0 || b == 0xc2 }))
}

// A message of no known kind, and one that is no message, end the stream, not the dataplane.
func TestNonsense(t *testing.T) {
	dir, f := t.TempDir(), newFake()
	server, _ := serve(t, dir), following(t, dir, f)
	s := server.next()
	s.acked(t, snapshot(5, 1), 5)
	if err := s.Send(&api.FromControl{}); err != nil {
		t.Fatal(err)
	}
	s = server.next()
	if s.hello.GetInForce().GetEpoch() != 5 {
		t.Errorf("hello %v", s.hello)
	}
	// To a FromControl this is a Snapshot whose content is cut off.
	if err := s.SendMsg(wrapperspb.Bytes([]byte{0xff, 0xff})); err != nil {
		t.Fatal(err)
	}
	server.next().acked(t, snapshot(6, 1), 6)
}

// Control is killed and comes back: the dataplane says what it has, and goes on from there.
func TestControlComesBack(t *testing.T) {
	dir, f := t.TempDir(), newFake()
	first, client := serve(t, dir), following(t, dir, f)
	one := snapshot(5, 3)
	first.next().acked(t, one, 5)
	first.server.Stop()
	eventually(t, "the end of the stream to be noticed", func() bool { return !client.Status().Connected })
	if st := client.Status(); st.Error == "" {
		t.Errorf("status %v", st)
	}
	second := serve(t, dir)
	s := second.next()
	if !proto.Equal(s.hello.InForce, one) {
		t.Errorf("hello has %v", s.hello.InForce)
	}
	s.acked(t, snapshot(5, 3), 5)
	s.end <- status.Error(codes.Aborted, "another dataplane follows") // ends in order
	second.next().acked(t, snapshot(6, 3), 6)
	if got := f.epochs(); !slices.Equal(got, []uint64{5, 5, 6}) {
		t.Errorf("epochs %v", got)
	}
}

// A dataplane that is there first waits, and one whose socket is a dead file does too.
func TestWaitsForControl(t *testing.T) {
	dir, f := t.TempDir(), newFake()
	client := following(t, dir, f)
	eventually(t, "an attempt", func() bool { return client.Status().Error != "not connected yet" })
	why := client.Status().Error
	if !strings.HasPrefix(why, "dial unix "+dir) || !strings.HasSuffix(why, "no such file or directory") {
		t.Errorf("control is away, as: %s", why)
	}
	if err := os.WriteFile(filepath.Join(dir, "control.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, dir).next().acked(t, snapshot(1, 1), 1)
}

// The client stops while it applies something that takes its time.
func TestStopsWhileApplying(t *testing.T) {
	dir, f := t.TempDir(), newFake()
	f.slow = make(chan struct{})
	server := serve(t, dir)
	client := follow.New(follow.Config{Socket: server.path, Forwarder: f, Logger: zaptest.NewLogger(t)})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	s := server.next()
	if err := s.Send(&api.FromControl{Message: &api.FromControl_Snapshot{Snapshot: snapshot(1, 1)}}); err != nil {
		t.Fatal(err)
	}
	f.slow <- struct{}{}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// 100,000 routes are one message, and so is the Hello of a dataplane that has them; 1,000 deltas follow.
func TestLargeAndMany(t *testing.T) {
	dir, f := t.TempDir(), newFake()
	server, _ := serve(t, dir), following(t, dir, f)
	s := server.next()
	at := snapshot(1, 100_000)
	s.acked(t, at, 1)
	for i := range 1000 {
		next := proto.CloneOf(&api.Snapshot{Epoch: at.Epoch + 1, Origins: at.Origins, Groups: at.Groups})
		next.Routes = slices.Clone(at.Routes)
		r := proto.CloneOf(next.Routes[i])
		r.Origin = 0
		next.Routes[i] = r
		d := &api.Delta{Base: at.Epoch, Set: &api.Snapshot{Epoch: next.Epoch, Routes: []*api.Route{r}}}
		s.acked(t, d, next.Epoch)
		at = next
	}
	s.end <- errors.New("again")
	s = server.next()
	if !proto.Equal(s.hello.InForce, at) {
		t.Error("the hello has something else than was sent")
	}
}

// Streams that end at once, again and again, leave no descriptors open.
func TestDescriptors(t *testing.T) {
	dir, f := t.TempDir(), newFake()
	server, _ := serve(t, dir), following(t, dir, f)
	var before int
	for i := range 20 {
		s := server.next()
		s.acked(t, snapshot(uint64(i+1), 1), uint64(i+1))
		if n := descriptors(t); i == 4 {
			before = n
		} else if i > 4 && n > before+4 {
			t.Fatalf("%d descriptors, %d before", n, before)
		}
		s.end <- fmt.Errorf("end %d", i)
	}
}

func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
