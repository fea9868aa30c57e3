// SPDX-License-Identifier: Apache-2.0

// Package etcdtest runs real etcd servers for tests: Debian's, on loopback, with their data in the test's directory.
package etcdtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// TB is what is needed of *testing.T and its like.
type TB interface {
	Helper()
	Cleanup(func())
	TempDir() string
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// Server is an etcd of one member, or one of several. It is stopped when the test ends.
type Server struct {
	Endpoint string // "http://127.0.0.1:40123"; the same after a restart
	Dir      string // of its data

	t       TB
	pki     *PKI
	user    *Login
	name    string
	peer    string
	cluster string // as --initial-cluster has it
	run     *run
}

// Login is a user and a password.
type Login struct{ User, Password string }

// Root is who may do everything on a server after EnableAuth.
var Root = Login{"root", "root's own"}

// run is one process.
type run struct {
	cmd  *exec.Cmd
	log  output
	done chan struct{}
}

// output is what the process has written, for when it fails.
type output struct {
	mu sync.Mutex
	bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.Buffer.Write(p)
}

func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := o.String()
	return text[max(0, len(text)-2000):]
}

// Start runs a server without TLS.
func Start(t TB) *Server { return start(t, nil) }

// StartTLS runs a server that has a certificate of the PKI, and asks for one of it.
func StartTLS(t TB, pki *PKI) *Server { return start(t, pki) }

func start(t TB, pki *PKI) *Server {
	t.Helper()
	s := newServer(t, pki, "m0")
	s.cluster = s.name + "=" + s.peer
	s.Restart()
	return s
}

// StartCluster runs n members of one etcd, without TLS.
func StartCluster(t TB, n int) []*Server {
	t.Helper()
	var members []*Server
	var cluster []string
	for i := range n {
		s := newServer(t, nil, fmt.Sprintf("m%d", i))
		members, cluster = append(members, s), append(cluster, s.name+"="+s.peer)
	}
	for _, s := range members {
		s.cluster = strings.Join(cluster, ",")
		s.launch()
	}
	for _, s := range members {
		s.Await()
	}
	return members
}

func newServer(t TB, pki *PKI, name string) *Server {
	t.Helper()
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Fatal("there is no etcd in PATH: install Debian's package etcd-server")
	}
	scheme := "http"
	if pki != nil {
		scheme = "https"
	}
	s := &Server{
		t: t, pki: pki, name: name, Dir: filepath.Join(t.TempDir(), "data"),
		Endpoint: scheme + "://" + freeAddress(t),
		peer:     "http://" + freeAddress(t),
	}
	t.Cleanup(s.Kill)
	return s
}

// freeAddress is a loopback address that nothing listens on, for as long as nobody else takes it.
func freeAddress(t TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Restart runs the server again, on the same data and address, and waits until it answers. A running one is stopped
// first.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.launch()
	s.Await()
}

func (s *Server) launch() {
	s.t.Helper()
	args := []string{
		"--name", s.name, "--data-dir", s.Dir,
		"--listen-client-urls", s.Endpoint, "--advertise-client-urls", s.Endpoint,
		"--listen-peer-urls", s.peer, "--initial-advertise-peer-urls", s.peer, "--initial-cluster", s.cluster,
		"--heartbeat-interval", "50", "--election-timeout", "500",
		"--logger", "zap", "--log-level", "warn",
	}
	if s.pki != nil {
		args = append(args, "--cert-file", s.pki.ServerCert, "--key-file", s.pki.ServerKey,
			"--trusted-ca-file", s.pki.CA, "--client-cert-auth")
	}
	r := &run{cmd: exec.Command("etcd", args...), done: make(chan struct{})}
	r.cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // ETCD_… variables are flags, too
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go r.live(started)
	if err := <-started; err != nil {
		s.t.Fatalf("start etcd: %v", err)
	}
	s.run = r
}

// live runs the process, from a thread that lives until it has ended: the parent-death signal follows the thread that
// started it (prctl(2), PR_SET_PDEATHSIG), and tests end threads.
func (r *run) live(started chan<- error) {
	runtime.LockOSThread() // never unlocked
	err := r.cmd.Start()
	started <- err
	if err == nil {
		_ = r.cmd.Wait()
		close(r.done)
	}
}

// Await returns when the server answers requests that its cluster has to agree to.
func (s *Server) Await() {
	s.t.Helper()
	client := s.dial(nil)
	defer client.Close()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := client.Get(ctx, "any")
		cancel()
		if err == nil || s.user != nil && strings.Contains(err.Error(), "user name is empty") {
			return
		}
		select {
		case <-s.run.done:
			s.t.Fatalf("etcd ended:\n%s", s.run.log.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.t.Fatalf("etcd does not answer:\n%s", s.run.log.tail())
}

// Stop ends the server in an orderly way.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends the server at once.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

func (s *Server) end(signal syscall.Signal) {
	if s.run == nil {
		return
	}
	_ = s.run.cmd.Process.Signal(signal)
	_ = s.run.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-s.run.done:
	case <-time.After(10 * time.Second):
		_ = s.run.cmd.Process.Kill()
		<-s.run.done
	}
	s.run = nil
}

// Freeze stops the server's time: connections stay, nothing answers.
func (s *Server) Freeze() { _ = s.run.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (s *Server) Thaw() { _ = s.run.cmd.Process.Signal(syscall.SIGCONT) }

// Snapshot writes a backup to the file.
func (s *Server) Snapshot(file string) {
	s.etcdctl("--endpoints", s.Endpoint, "snapshot", "save", file)
}

// Restore stops the server, which is its cluster's only one, and runs it on what the backup has. The cluster keeps its
// identifier.
func (s *Server) Restore(file string) {
	s.t.Helper()
	s.Reset()
	s.etcdctl("snapshot", "restore", file, "--name", s.name, "--data-dir", s.Dir,
		"--initial-cluster", s.cluster, "--initial-advertise-peer-urls", s.peer)
	s.Restart()
}

// Reset stops the server and throws its data away.
func (s *Server) Reset() {
	s.t.Helper()
	s.Stop()
	if err := os.RemoveAll(s.Dir); err != nil {
		s.t.Fatal(err)
	}
}

// etcdctl runs Debian's etcdctl (package etcd-client); servers with TLS or authentication are not for it.
func (s *Server) etcdctl(args ...string) {
	s.t.Helper()
	cmd := exec.Command("etcdctl", args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "ETCDCTL_API=3"}
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("etcdctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// String returns the endpoint.
func (s *Server) String() string { return fmt.Sprintf("etcd at %s", s.Endpoint) }
