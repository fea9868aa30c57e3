// SPDX-License-Identifier: Apache-2.0

package process_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/viaduct-net/viaduct/internal/process"
)

// stranger is the environment variable that makes this test's binary a client of the socket that it names.
const stranger = "PROCESS_TEST_SOCKET"

func TestMain(m *testing.M) {
	if path := os.Getenv(stranger); path != "" {
		if err := ask(path); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func ask(path string) error {
	conn, err := process.Dial(path)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

// server runs a server on the socket and returns the peers that it saw.
func server(t *testing.T, path string) <-chan process.Peer {
	t.Helper()
	peers := make(chan process.Peer, 8)
	l, err := process.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(process.Credentials()), grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			p, _ := peer.FromContext(ctx)
			peers <- p.AuthInfo.(process.Peer)
			return next(ctx, req)
		}))
	healthpb.RegisterHealthServer(s, health.NewServer())
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return peers
}

func TestPeers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.sock")
	peers := server(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Fatalf("%v %v", info.Mode(), err)
	}
	if err := ask(path); err != nil {
		t.Fatal(err)
	}
	if p := <-peers; int(p.PID) != os.Getpid() || int(p.UID) != os.Getuid() {
		t.Errorf("peer %+v", p)
	}
	if os.Getuid() != 0 {
		t.Skip("not root")
	}
	// A stranger whom the permissions let through is refused all the same.
	if err := errors.Join(os.Chmod(path, 0o666), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "stranger")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, self, 0o755); err != nil { //nolint:gosec // another user runs it
		t.Fatal(err)
	}
	c := exec.Command(binary)
	c.Dir, c.Env = "/", append(os.Environ(), stranger+"="+path)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("a stranger got through: %v %s", err, out)
	}
	select {
	case p := <-peers:
		t.Fatalf("the server answered %+v", p)
	default:
	}
}

func TestSocketReplacesAndRemoves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	first, err := process.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := process.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
}

func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	release, err := process.Claim(dir, "control")
	if err != nil {
		t.Fatal(err)
	}
	if other, err := process.Claim(dir, "dataplane"); err != nil {
		t.Errorf("another name: %v", err)
	} else {
		other()
	}
	_, err = process.Claim(dir, "control")
	var setUp *process.SetUpError
	if !errors.As(err, &setUp) || !strings.Contains(err.Error(), "process ") {
		t.Errorf("second owner: %v", err)
	}
	release()
	again, err := process.Claim(dir, "control")
	if err != nil {
		t.Fatalf("not free after its owner: %v", err)
	}
	again()
}

func TestLogger(t *testing.T) {
	for _, f := range []process.Flags{{LogLevel: "loud", LogFormat: "text"}, {LogLevel: "info", LogFormat: "xml"}} {
		if _, err := f.Logger(); err == nil {
			t.Errorf("%+v was taken", f)
		}
	}
	if _, err := (&process.Flags{LogLevel: "warn", LogFormat: "json"}).Logger(); err != nil {
		t.Error(err)
	}
}

func TestRan(t *testing.T) {
	fault, setUp := errors.New("fault"), &process.SetUpError{Err: errors.New("flags")}
	var failed *process.RunError
	if err := process.Ran(fault); !errors.As(err, &failed) || !errors.Is(err, fault) {
		t.Errorf("%v", err)
	}
	if process.Ran(nil) != nil || errors.As(process.Ran(setUp), &failed) {
		t.Error("what is no fault of a running daemon is made one")
	}
}
