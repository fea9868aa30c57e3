// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
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

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/internal/process"
)

// The test's binary is the program, or a client of the socket that is named, when the environment says so.
const (
	asProgram = "VIADUCT_CONTROL_TEST_PROGRAM"
	asClient  = "VIADUCT_CONTROL_TEST_SOCKET"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	if path := os.Getenv(asClient); path != "" {
		if _, err := ask(path); err != nil {
			_, _ = os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func ask(path string) (*api.StatusReply, error) {
	conn, err := process.Dial(path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return api.NewControlClient(conn).Status(ctx, &api.StatusRequest{})
}

// program is viaduct-control as a process.
type program struct {
	*exec.Cmd
	out    *bufio.Reader
	errors *strings.Builder
}

func start(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{Cmd: exec.CommandContext(t.Context(), "/proc/self/exe", args...), errors: &strings.Builder{}}
	p.Env = append(os.Environ(), asProgram+"=1", "NODE_NAME=")
	p.Stderr = p.errors
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill() })
	return p
}

func (p *program) ready(t *testing.T) {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("said %q, %v\n%s", line, err, p.errors)
	}
}

// lab returns arguments for a directory of manifests and a run directory, and the run directory.
func lab(t *testing.T) (args []string, manifests, run string) {
	t.Helper()
	dir := t.TempDir()
	manifests, run = filepath.Join(dir, "manifests"), filepath.Join(dir, "run")
	if err := os.Mkdir(manifests, 0o755); err != nil { //nolint:gosec // manifests are no secret
		t.Fatal(err)
	}
	write(t, filepath.Join(manifests, "node.yaml"),
		"apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: lab}\nspec: {ports: []}\n")
	return []string{"--source", "dir:" + manifests, "--run", run, "--state", dir}, manifests, run
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRuns: it starts, is alone, reloads, and stops without leaving its socket.
func TestRuns(t *testing.T) {
	args, _, run := lab(t)
	config := filepath.Join(t.TempDir(), "config.yaml")
	const nodeConfig = "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: any}\nspec: {mtu: 1400}\n"
	write(t, config, nodeConfig)
	args = append(args, "--node", "here", "--config", config)
	p := start(t, args...)
	p.ready(t)
	socket := filepath.Join(run, "control.sock")
	if info, err := os.Stat(socket); err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("socket %v, %v", info, err)
	}
	status, err := ask(socket)
	if err != nil || status.Node != "here" || !status.Source.InStep || len(status.Refused) != 0 {
		t.Errorf("status %v, %v", status, err)
	}
	second := start(t, args...)
	err = second.Wait()
	if text := second.errors.String(); exitCode(err) != process.ExitSetUp || !strings.Contains(text, "runs already") {
		t.Errorf("a second one: %v, %s", err, text)
	}
	for _, text := range []string{"bad: [\n", nodeConfig} {
		write(t, config, text)
		if err := p.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for refused := text != nodeConfig; (len(status.Refused) > 0) != refused; time.Sleep(5 * time.Millisecond) {
			if status, err = ask(socket); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("stopped with %v\n%s", err, p.errors)
	}
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
}

// TestStranger: another user is refused, even where the permissions would let it through.
func TestStranger(t *testing.T) {
	args, _, run := lab(t)
	p := start(t, args...)
	p.ready(t)
	socket := filepath.Join(run, "control.sock")
	open := []error{os.Chmod(socket, 0o666)}
	for dir := run; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		open = append(open, os.Chmod(dir, 0o755)) //nolint:gosec // for the stranger
	}
	self, err := os.ReadFile("/proc/self/exe")
	binary := filepath.Join(run, "stranger")
	open = append(open, err, os.WriteFile(binary, self, 0o755)) //nolint:gosec // another user runs it
	if err := errors.Join(open...); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []uint32{0, 65534} {
		c := exec.CommandContext(t.Context(), binary)
		c.Dir, c.Env = "/", append(os.Environ(), asClient+"="+socket)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if out, err := c.CombinedOutput(); (err == nil) != (uid == 0) || uid != 0 && exitCode(err) != 1 {
			t.Errorf("user %d: %v %s", uid, err, out)
		}
	}
}

// TestCannotStart: what has to be put right is said in one line, with exit status 2.
func TestCannotStart(t *testing.T) {
	args, _, _ := lab(t)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--run", t.TempDir()}, "--source"},
		{[]string{"--source", "carrier-pigeon:home"}, "carrier-pigeon"},
		{[]string{"--source", "dir:/nowhere/at/all"}, "/nowhere/at/all"},
		{append(args, "--config", "/nowhere.yaml"), "/nowhere.yaml"},
		{append(args, "--metrics", "nonsense"), "nonsense"},
		{append(args, "--log-level", "loud"), "loud"},
		{append(args, "--wrong"), "--wrong"},
		{append(args, "argument"), "argument"},
	} {
		p := start(t, c.args...)
		err := p.Wait()
		text := p.errors.String()
		if exitCode(err) != process.ExitSetUp || !strings.Contains(text, c.says) ||
			!strings.HasPrefix(lastLine(text), "viaduct-control: ") {
			t.Errorf("%q: %v, %q", c.args, err, text)
		}
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}
