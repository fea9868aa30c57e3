// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
	"github.com/viaduct-net/viaduct/internal/process"
)

// itself is the environment variable that makes the test's binary the program.
const itself = "VIADUCT_DATAPLANE_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(itself) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// node is two hosts with a namespace for the dataplane between them, and a place for control.
type node struct {
	t                   *testing.T
	lab                 *netlab.Lab
	left, middle, right *netlab.Namespace
	run, state          string
	program             *netlab.Process
	out                 *output
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	n := &node{t: t, lab: netlab.New(), run: filepath.Join(dir, "run"), state: filepath.Join(dir, "state")}
	t.Cleanup(func() { n.must(n.lab.Close()) })
	n.must(os.Mkdir(n.run, 0o700))
	for name, ns := range map[string]**netlab.Namespace{"left": &n.left, "middle": &n.middle, "right": &n.right} {
		var err error
		*ns, err = n.lab.Namespace(name)
		n.must(err)
	}
	n.wire(n.left, "l0", "10.1.0.2/24")
	n.wire(n.right, "r0", "10.2.0.2/24")
	return n
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) wire(host *netlab.Namespace, device, address string) {
	n.t.Helper()
	a := netip.MustParsePrefix(address)
	n.must(n.lab.Veth(netlab.End{In: host, Device: device, Addresses: []netip.Prefix{a}},
		netlab.End{In: n.middle, Device: device}))
	n.must(host.Route(netip.MustParsePrefix("0.0.0.0/0"), a.Addr().Prev(), device, 0))
}

func (n *node) unwire(device string) {
	n.t.Helper()
	link, err := n.middle.Links().LinkByName(device)
	n.must(err)
	n.must(n.middle.Links().LinkDel(link))
}

// output is what the program says on its standard output.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// start starts the program.
func (n *node) start() {
	n.t.Helper()
	c := exec.Command("/proc/self/exe", "--run", n.run, "--state", n.state, "--bpf", "", "--ring", "256")
	c.Env = append(os.Environ(), itself+"=1")
	n.out = &output{}
	c.Stdout, c.Stderr = n.out, n.out
	var err error
	n.program, err = n.lab.Start(n.middle, c)
	n.must(err)
	n.t.Cleanup(func() {
		if n.t.Failed() {
			n.t.Log(n.out.String())
		}
	})
}

// kill ends the program as a crash would.
func (n *node) kill() {
	n.t.Helper()
	n.must(syscall.Kill(n.program.PID(), syscall.SIGKILL))
	<-n.program.Done()
}

func (n *node) stop() {
	n.t.Helper()
	n.must(n.program.Stop(20 * time.Second))
}

func (n *node) eventually(what string, is func() bool) {
	n.t.Helper()
	for range 1000 {
		if is() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	n.t.Fatalf("waited in vain for %s", what)
}

func (n *node) ready() {
	n.t.Helper()
	n.eventually("ready", func() bool { return strings.Contains(n.out.String(), "ready\n") })
}

func (n *node) status() *dataplaneapi.StatusReply {
	conn, err := process.Dial(filepath.Join(n.run, "dataplane.sock"))
	n.must(err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	s, err := dataplaneapi.NewDataplaneClient(conn).Status(ctx, &dataplaneapi.StatusRequest{}, grpc.WaitForReady(true))
	n.must(err)
	return s
}

// cross sends bytes from the left host to the right one and back.
func (n *node) cross() error {
	var listener net.Listener
	n.must(n.right.Do(func() (err error) {
		listener, err = net.Listen("tcp", "10.2.0.2:0")
		return err
	}))
	defer listener.Close()
	go func() {
		if c, err := listener.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	return n.left.Do(func() error {
		c, err := net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		go func() { _, _ = c.Write(make([]byte, 1<<20)) }()
		_, err = io.ReadFull(c, make([]byte, 1<<20))
		return err
	})
}

// control is a fake of the other end.
type control struct {
	api.UnimplementedControlServer
	server  *grpc.Server
	streams chan api.Control_SyncServer
}

func (c *control) Sync(s api.Control_SyncServer) error {
	c.streams <- s
	<-s.Context().Done()
	return nil
}

// listen starts control; stop ends it.
func (n *node) listen() (c *control, stop func()) {
	n.t.Helper()
	l, err := process.Listen(n.t.Context(), filepath.Join(n.run, "control.sock"))
	n.must(err)
	c = &control{server: grpc.NewServer(grpc.Creds(process.Credentials())), streams: make(chan api.Control_SyncServer, 8)}
	api.RegisterControlServer(c.server, c)
	go func() { _ = c.server.Serve(l) }()
	n.t.Cleanup(c.server.Stop)
	return c, c.server.Stop
}

// hello is the next stream, and what its dataplane said first.
func (n *node) hello(c *control) (api.Control_SyncServer, *api.Hello) {
	n.t.Helper()
	select {
	case s := <-c.streams:
		m, err := s.Recv()
		n.must(err)
		return s, m.GetHello()
	case <-time.After(20 * time.Second):
		n.t.Fatal("the dataplane does not follow")
		return nil, nil
	}
}

func (n *node) whole(s api.Control_SyncServer, snapshot *api.Snapshot) *api.FromDataplane {
	n.t.Helper()
	n.must(s.Send(&api.FromControl{Message: &api.FromControl_Snapshot{Snapshot: snapshot}}))
	answer, err := s.Recv()
	n.must(err)
	return answer
}

func (n *node) delta(s api.Control_SyncServer, d *api.Delta) *api.FromDataplane {
	n.t.Helper()
	n.must(s.Send(&api.FromControl{Message: &api.FromControl_Delta{Delta: d}}))
	answer, err := s.Recv()
	n.must(err)
	return answer
}

func snapshot(epoch uint64) *api.Snapshot {
	port := func(id uint32, device string, a, b, c, d byte) *api.Port {
		return &api.Port{Id: id, Name: device, Device: device,
			Addresses: []*api.Prefix{{Address: []byte{a, b, c, d}, Bits: 24}}}
	}
	return &api.Snapshot{Epoch: epoch, Origins: []string{""}, Node: &api.NodeSettings{Name: "a", Workers: 1},
		Ports: []*api.Port{port(1, "l0", 10, 1, 0, 1), port(2, "r0", 10, 2, 0, 1)}}
}

// From nothing: control is waited for; what is wrong is refused and survived; what is right forwards, and goes on doing
// so when control is gone.
func TestFollowsControl(t *testing.T) {
	n := newNode(t)
	n.start()
	if s := n.status(); s.ControlLink.Connected || s.TablesFrom != "" || s.Epoch != 0 || len(s.Degraded) == 0 {
		t.Errorf("status without control: %v", s)
	}
	c, stop := n.listen()
	s, hello := n.hello(c)
	if hello.InForce != nil || hello.Version == "" {
		t.Errorf("hello %v", hello)
	}
	bad := snapshot(1)
	bad.Ports[1].Queues = []uint32{9}
	if nack := n.whole(s, bad).GetNack(); nack.GetEpoch() != 1 || !strings.Contains(nack.Reason, "does not exist") {
		t.Fatalf("nack %v", nack)
	}
	if n.status().LastNack.GetEpoch() != 1 {
		t.Error("the refusal is not said")
	}
	good := snapshot(2)
	if ack := n.whole(s, good).GetAck(); ack.GetEpoch() != 2 {
		t.Fatalf("ack %v", ack)
	}
	n.ready()
	n.must(n.cross())

	closed := proto.CloneOf(good)
	closed.Epoch = 3
	closed.Groups = []*api.NextHopGroup{{Id: 1, Kind: api.NextHopGroup_KIND_UNREACHABLE}}
	closed.Routes = []*api.Route{{Prefix: []byte{10, 2, 0, 2}, Bits: 32, Group: 1}}
	if a := n.delta(s, api.Difference(good, closed)); a.GetAck().GetEpoch() != 3 {
		t.Fatalf("answer %v", a)
	}
	if err := n.cross(); err == nil {
		t.Error("a route that came with a delta is not in force")
	}
	if a := n.delta(s, api.Difference(good, closed)); a.GetNack().GetEpoch() != 3 {
		t.Fatalf("a delta on another epoch got %v", a)
	}
	again := snapshot(4)
	if a := n.delta(s, api.Difference(closed, again)); a.GetAck().GetEpoch() != 4 {
		t.Fatalf("answer %v", a)
	}
	n.must(n.cross())

	stop()
	n.eventually("control to be missed", func() bool { return !n.status().ControlLink.Connected })
	n.must(n.cross())
	st := n.status()
	if st.TablesFrom != "control" || st.Epoch != 4 || st.ControlLink.Deltas != 2 || st.ControlLink.Nacks != 2 {
		t.Errorf("status %v", st)
	}
	n.stop()
}

// A dataplane that is killed while control is away starts from the state file, with ports whose devices come later.
func TestStartsFromTheStateFile(t *testing.T) {
	n := newNode(t)
	n.start()
	c, stop := n.listen()
	s, _ := n.hello(c)
	if n.whole(s, snapshot(7)).GetAck() == nil {
		t.Fatal("refused")
	}
	n.eventually("the state file", func() bool { return n.status().StateFile.Epoch == 7 })
	stop()
	n.kill()

	n.start()
	n.ready()
	if s := n.status(); s.TablesFrom != "state file" || s.Epoch != 7 || s.StateFile.Trouble != "" {
		t.Errorf("status %v", s)
	}
	n.must(n.cross())
	n.stop()

	n.unwire("l0")
	n.unwire("r0")
	n.start()
	n.ready()
	n.wire(n.left, "l0", "10.1.0.2/24")
	n.wire(n.right, "r0", "10.2.0.2/24")
	n.eventually("the ports to open", func() bool {
		for _, p := range n.status().Ports {
			if p.State != dataplaneapi.PortState_PORT_STATE_UP {
				return false
			}
		}
		return true
	})
	n.must(n.cross())

	c, stop = n.listen()
	s, hello := n.hello(c)
	if !proto.Equal(hello.InForce, snapshot(7)) {
		t.Errorf("hello %v", hello)
	}
	if n.whole(s, snapshot(8)).GetAck().GetEpoch() != 8 {
		t.Error("control's own snapshot is refused")
	}
	n.must(n.cross())
	stop()
	n.stop() // which writes what is in force

	path := filepath.Join(n.state, "snapshot.pb")
	b, err := os.ReadFile(path)
	n.must(err)
	n.must(os.WriteFile(path, b[:len(b)-3], 0o600))
	n.start()
	n.eventually("the damage to be said", func() bool {
		return strings.Contains(n.status().StateFile.Trouble, "set aside")
	})
	if s := n.status(); s.Epoch != 0 || s.TablesFrom != "" {
		t.Errorf("status with a torn file: %v", s)
	}
	n.stop()
	if strings.Contains(n.out.String(), "ready") {
		t.Error("ready without tables")
	}
}

// A device that is not there closes its own port, which the ack says, and opens it when it comes.
func TestDeviceComesLater(t *testing.T) {
	n := newNode(t)
	n.unwire("r0")
	n.start()
	c, _ := n.listen()
	s, _ := n.hello(c)
	ack := n.whole(s, snapshot(1)).GetAck()
	if len(ack.GetClosed()) != 1 || ack.Closed[0].Port != 2 || !strings.Contains(ack.Closed[0].Reason, "not there") {
		t.Fatalf("ack %v", ack)
	}
	n.ready()
	n.wire(n.right, "r0", "10.2.0.2/24")
	var err error
	for range 100 { // until the dataplane has heard of it
		if err = n.cross(); err == nil {
			break
		}
	}
	n.must(err)
	n.stop()
}

// Two dataplanes do not share a directory.
func TestStateHasOneOwner(t *testing.T) {
	n := newNode(t)
	n.start()
	n.status()
	n.run = t.TempDir()
	n.start()
	if err := n.program.Err(); err == nil || !strings.Contains(n.out.String(), "--state") {
		t.Errorf("%v: %s", err, n.out)
	}
}
