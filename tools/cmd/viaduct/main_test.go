// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/internal/captures"
	"github.com/viaduct-net/viaduct/tools/demo"
)

// bin is a directory with the programs as users have them, beside each other.
var bin string

func TestMain(m *testing.M) { os.Exit(built(m)) }

func built(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "viaduct-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(bin) }()
	build := exec.Command("go", "build", "-o", bin+"/", "github.com/viaduct-net/viaduct/tools/cmd/viaduct",
		"github.com/viaduct-net/viaduct/cni/cmd/viaduct-cni")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the programs:", err)
		return 1
	}
	return m.Run()
}

type outcome struct {
	status         int
	stdout, stderr string
}

func viaduct(t *testing.T, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := exec.Command(filepath.Join(bin, "viaduct"), args...)
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return outcome{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

const lab = `apiVersion: viaduct.dev/v1alpha1
kind: NodeConfig
metadata: {name: lab}
spec:
  ports:
  - {name: left, device: eth0, addresses: [10.1.0.1/24]}
  - {name: right, device: eth1, addresses: [10.2.0.1/24]}
---
apiVersion: viaduct.dev/v1alpha1
kind: Route
metadata: {name: default}
spec: {destination: 0.0.0.0/0, nextHops: [{via: 10.2.0.254, port: right}]}
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhatCannotRunSaysWhyInOneLine(t *testing.T) {
	empty := t.TempDir()
	text := write(t, "a.pcap", "hello, world")
	manifests := filepath.Dir(write(t, "lab.yaml", lab))
	for _, tt := range []struct{ args, want string }{
		{"status --run " + empty, "viaduct: no dataplane answers on " + empty + "/dataplane.sock: is viaduct-dataplane " +
			"running? --run names its directory"},
		{"ports --run " + empty + " --watch", "viaduct: no dataplane answers on"},
		{"status -o yaml", `viaduct: --output "yaml" is neither text nor json`},
		{"bogus", `viaduct: unknown command "bogus" for "viaduct"`},
		{"status --bogus", "viaduct: unknown flag: --bogus"},
		{"replay", `viaduct: required flag(s) "in", "manifests", "out", "port" not set`},
		{"replay --manifests " + manifests + " --in /nonexistent --port left --out " + empty + "/o",
			"viaduct: open capture: open /nonexistent: no such file or directory"},
		{"replay --manifests " + manifests + " --in " + text + " --port left --out " + empty + "/o",
			"viaduct: read " + text + ": neither pcap nor pcapng: the file starts with 0x68656c6c"},
		{"replay --manifests " + manifests + " --in " + text + " --port left --mac 1:2 --out " + empty + "/o",
			`viaduct: --mac "1:2" is no MAC such as 02:00:00:00:00:01`},
		{"explain --from shop/web", `viaduct: required flag(s) "to" not set`},
		{"explain --from web --to 10.0.0.1 --port 80",
			`viaduct: --from "web" is neither NAMESPACE/POD, node/NAME nor an address`},
		{"explain --from 10.0.0.2 --to 10.0.0.1 --port 80 --run " + empty, "viaduct: no dataplane answers on "},
		{"demo --program " + text, "viaduct: " + text + " is no program: build it (make build) or leave --program out"},
	} {
		got := viaduct(t, strings.Fields(tt.args)...)
		if got.status != 2 || !strings.HasPrefix(got.stderr, tt.want) || strings.Count(got.stderr, "\n") != 1 {
			t.Errorf("%s: status %d, %q, want %q", tt.args, got.status, got.stderr, tt.want)
		}
	}
}

func TestVersionAndCompletion(t *testing.T) {
	if got := viaduct(t, "version", "-o", "json"); got.status != 0 || !json.Valid([]byte(got.stdout)) ||
		!strings.Contains(got.stdout, `"go":"go1.`) {
		t.Errorf("version: %+v", got)
	}
	if got := viaduct(t, "--version"); got.status != 0 || !strings.HasPrefix(got.stdout, "viaduct version ") {
		t.Errorf("--version: %+v", got)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := viaduct(t, "completion", shell); got.status != 0 || len(got.stdout) < 1000 {
			t.Errorf("completion %s: status %d, %d bytes", shell, got.status, len(got.stdout))
		}
	}
	manifests := filepath.Dir(write(t, "lab.yaml", lab))
	got := viaduct(t, "__complete", "replay", "--manifests", manifests, "--port", "")
	if got.status != 0 || !strings.HasPrefix(got.stdout, "left\nright\n") {
		t.Errorf("ports of manifests: %+v", got)
	}
}

func TestReplay(t *testing.T) {
	files, err := captures.Files()
	if err != nil || len(files) == 0 {
		t.Fatalf("%d captures, %v", len(files), err)
	}
	in := write(t, "in.pcap", string(files[0].Data))
	manifests, out := filepath.Dir(write(t, "lab.yaml", lab)), filepath.Join(t.TempDir(), "out.pcapng")
	args := []string{"replay", "--manifests", manifests, "--in", in, "--port", "left", "--out", out}

	got := viaduct(t, append(args, "-o", "json")...)
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	if got.status != 0 || len(lines) < 2 || !strings.HasPrefix(lines[0], `{"index":0,`) ||
		!strings.Contains(lines[len(lines)-1], `"balanced":true`) {
		t.Errorf("json: status %d, %s%s", got.status, got.stderr, got.stdout)
	}
	if b, err := os.ReadFile(out); err != nil || !bytes.HasPrefix(b, []byte("\n\r\r\n")) {
		t.Errorf("output of %d bytes, %v", len(b), err)
	}
	report := filepath.Join(t.TempDir(), "report.jsonl")
	got = viaduct(t, append(args, "--report", report)...)
	if b, err := os.ReadFile(report); got.status != 0 || !strings.Contains(got.stdout, ": balances\n") || err != nil ||
		bytes.Count(b, []byte("\n")) != len(lines) {
		t.Errorf("text: status %d, %s%s, report of %d bytes, %v", got.status, got.stderr, got.stdout, len(b), err)
	}

	torn := write(t, "torn.pcap", string(files[0].Data[:len(files[0].Data)-1]))
	args[4] = torn
	if got = viaduct(t, args...); got.status != 1 || !strings.Contains(got.stderr, "the file ends inside a packet") {
		t.Errorf("torn: %+v", got)
	}
	args[4], args[8] = in, in
	if got = viaduct(t, args...); got.status != 2 || !strings.Contains(got.stderr, "--out is the file of --in") {
		t.Errorf("onto itself: %+v", got)
	}
}

// The exit status of explain is the verdict.
func TestExplain(t *testing.T) {
	manifests := filepath.Dir(write(t, "web.yaml", `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: dns, namespace: shop}
spec: {podSelector: {}, ingress: [{ports: [{protocol: UDP, port: 53}]}]}
`))
	for args, want := range map[string]outcome{
		"udp --port 53": {status: 0, stdout: "verdict  allow\nrule     NetworkPolicy shop/dns spec.ingress[0]\n"},
		"tcp --port 53": {status: 1, stdout: "verdict  deny, ingress_denied\nrule     NetworkPolicy shop/dns isolates"},
	} {
		got := viaduct(t, strings.Fields("explain --manifests "+manifests+" --from 192.0.2.1 --to shop/web --protocol "+
			args)...)
		if got.status != want.status || !strings.HasPrefix(got.stdout, want.stdout) ||
			(got.stderr == "") != (got.status == 0) {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

// demonstrate starts the demo with a directory for temporary files of its own.
func demonstrate(t *testing.T, args ...string) (c *exec.Cmd, stdout io.ReadCloser, temporary string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	temporary = t.TempDir()
	c = exec.Command(filepath.Join(bin, "viaduct"), append([]string{"demo"}, args...)...)
	c.Env = append(os.Environ(), "TMPDIR="+temporary)
	c.Stderr = os.Stderr
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c, stdout, temporary
}

func TestDemo(t *testing.T) {
	c, stdout, temporary := demonstrate(t, "-o", "json")
	text, err := io.ReadAll(stdout)
	if err != nil {
		t.Fatal(err)
	}
	waited := c.Wait()
	var report demo.Report
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, s := range report.Steps {
		if !s.OK {
			t.Errorf("%s: %s", s.Name, s.Detail)
		}
	}
	if waited != nil || !report.OK || len(report.Steps) < 20 || len(report.Namespaces) != 3 {
		t.Errorf("ended with %v: %s", waited, text)
	}
	if report.Seconds > 30 {
		t.Errorf("took %v s", report.Seconds)
	}
	nothingLeft(t, temporary, report.Namespaces)
}

// readTo reads until a line with the text has come.
func readTo(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var seen []byte
	b := make([]byte, 1)
	for !bytes.Contains(seen, []byte(text)) {
		if _, err := r.Read(b); err != nil {
			t.Fatalf("%v before %q in %s", err, text, seen)
		}
		seen = append(seen, b...)
	}
}

func TestDemoInterrupted(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		c, stdout, temporary := demonstrate(t)
		readTo(t, stdout, "echo IPv4")
		namespaces := namespacesOf(t, temporary)
		if err := c.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, stdout)
		_ = c.Wait() // the status says it
		if status := c.ProcessState.ExitCode(); status != 1 {
			t.Errorf("%v: status %d, want 1", signal, status)
		}
		nothingLeft(t, temporary, namespaces)
	}
}

// A demo that is killed cannot tidy its files up, but leaves neither a process nor a namespace.
func TestDemoKilled(t *testing.T) {
	c, stdout, temporary := demonstrate(t)
	readTo(t, stdout, "echo IPv4")
	namespaces := namespacesOf(t, temporary)
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // it was killed
	nobodyIn(t, namespaces)
}

func TestDemoWithABrokenDataplane(t *testing.T) {
	broken := write(t, "viaduct", "#!/bin/sh\necho no such feature >&2\nexit 2\n")
	if err := os.Chmod(broken, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	got := viaduct(t, "demo", "--program", broken, "-o", "json")
	if want := "viaduct: the dataplane did not start: no such feature\n"; got.status != 2 || got.stderr != want {
		t.Errorf("got %+v, want %q", got, want)
	}
}

// namespacesOf finds the namespace of the dataplane that a demo runs.
func namespacesOf(t *testing.T, temporary string) []uint64 {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range commands {
		b, _ := os.ReadFile(path) // it may have ended
		if !bytes.Contains(b, []byte(temporary)) || !bytes.Contains(b, []byte("\x00up\x00")) {
			continue
		}
		link, err := os.Readlink(filepath.Join(filepath.Dir(path), "ns/net"))
		var inode uint64
		if _, scanErr := fmt.Sscanf(link, "net:[%d]", &inode); err != nil || scanErr != nil {
			t.Fatalf("%s: %v, %v", link, err, scanErr)
		}
		return []uint64{inode}
	}
	t.Fatal("no dataplane runs")
	return nil
}

func nothingLeft(t *testing.T, temporary string, namespaces []uint64) {
	t.Helper()
	entries, err := os.ReadDir(temporary)
	if err != nil || len(entries) > 0 {
		t.Errorf("files are left: %v, %v", entries, err)
	}
	nobodyIn(t, namespaces)
}

// nobodyIn waits a moment until no thread of any process is in one of the namespaces: then the kernel takes them, and
// the veths in them, away.
func nobodyIn(t *testing.T, namespaces []uint64) {
	t.Helper()
	var who string
	for range 100 {
		if who = anyoneIn(namespaces); who == "" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%s is still in a namespace of the demo", who)
}

func anyoneIn(namespaces []uint64) string {
	threads, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net")
	for _, path := range threads {
		link, _ := os.Readlink(path)
		for _, inode := range namespaces {
			if link == fmt.Sprintf("net:[%d]", inode) {
				return path
			}
		}
	}
	return ""
}
