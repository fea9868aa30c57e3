// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestImports(t *testing.T) {
	root, err := root()
	if err != nil {
		t.Fatal(err)
	}
	files, err := goFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("only %d Go files were found below %s", len(files), root)
	}
	for _, f := range files {
		for _, imported := range f.imports {
			for _, rule := range rules {
				if reason := rule(f, imported); reason != "" {
					t.Errorf("%s imports %s: %s", f.path, imported, reason)
				}
			}
		}
	}
}

// TestRules: each rule refuses what it is there to refuse, and leaves the rest.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		path, imported string
		refused        bool
	}{
		{"control/push/push.go", module + "dataplane/packet", true},
		{"control/push/push.go", module + "dataplane/api", false},
		{"control/push/push.go", module + "control/compile", false},
		{"dataplane/tables/build.go", module + "control/model", true},
		{"dataplane/tables/build_test.go", module + "control/model", true},
		{"dataplane/tables/build.go", module + "control/api", false},
		{"dataplane/cmd/viaduct-dataplane/main.go", module + "control/push", false},
		{"dataplane/tables/build.go", module + "perf/rig", true},
		{"cni/add.go", module + "control/model", true},
		{"cni/add.go", module + "control/api", true},
		{"cni/add.go", module + "control/api/attach", false},
		{"cni/add_test.go", module + "internal/netlab", false},
		{"xdpprog/load.go", module + "dataplane/packet", true},
		{"xdpprog/load_test.go", module + "internal/netlab", false},
		{"control/compile/compile.go", "k8s.io/client-go/rest", true},
		{"control/source/kubernetes/kubernetes.go", "k8s.io/client-go/rest", false},
		{"tools/replay/replay.go", "github.com/google/gopacket/pcapgo", true},
		{"internal/pcap/reader.go", "github.com/google/gopacket/pcapgo", false},
		{"dataplane/packet/packet_test.go", "github.com/google/gopacket", false},
		{"tools/replay/replay.go", module + "internal/pcap", false},
		{"dataplane/worker/run.go", module + "internal/pcap", true},
		{"tools/demo/demo.go", module + "internal/testenv", true},
		{"dataplane/worker/run.go", "testing", true},
		{"dataplane/xsk/internal/veth/veth.go", "testing", false},
		{"internal/policytest/oracle/match.go", module + "control/model", true},
		{"internal/policytest/oracle/oracle_test.go", module + "internal/policytest/cases", false},
		{"internal/policytest/engine/engine.go", module + "control/model", false},
	} {
		f := file{path: c.path}
		reason := ""
		for _, rule := range rules {
			reason += rule(f, c.imported)
		}
		if (reason != "") != c.refused {
			t.Errorf("%s importing %s: %q", c.path, c.imported, reason)
		}
	}
}

// name is how the architecture document speaks of code: `dataplane/pipeline/route.go:Pipeline.route`.
var name = regexp.MustCompile("`([\\w./-]+\\.go):\\s*([\\w.]+?)(?:\\(\\))?`")

func TestArchitectureNames(t *testing.T) {
	root, err := root()
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile(filepath.Join(root, "docs", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := name.FindAllSubmatchIndex(document, -1)
	if len(found) == 0 {
		t.Fatal("docs/ARCHITECTURE.md names no function: its walks say `path/file.go:Func` or `path/file.go:Type.Method`")
	}
	known := map[string]map[string]bool{}
	for _, at := range found {
		path, symbol := string(document[at[2]:at[3]]), string(document[at[4]:at[5]])
		line := 1 + bytes.Count(document[:at[0]], []byte("\n"))
		if known[path] == nil {
			known[path], err = functions(filepath.Join(root, path))
			switch {
			case errors.Is(err, fs.ErrNotExist):
				t.Errorf("docs/ARCHITECTURE.md:%d: there is no file %s", line, path)
				continue
			case err != nil:
				t.Fatal(err)
			}
		}
		if !known[path][symbol] {
			t.Errorf("docs/ARCHITECTURE.md:%d: %s declares no %s%s", line, path, symbol, elsewhere(root, path, symbol))
		}
	}
}

// elsewhere finds the symbol in the other files of the package, for the message.
func elsewhere(root, path, symbol string) string {
	siblings, err := filepath.Glob(filepath.Join(root, filepath.Dir(path), "*.go"))
	if err != nil {
		return ""
	}
	for _, sibling := range siblings {
		if names, err := functions(sibling); err == nil && names[symbol] {
			return "; " + filepath.Base(sibling) + " does"
		}
	}
	return ""
}

func TestFunctions(t *testing.T) {
	names, err := functions("archtest.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"functions", "file", "file.main", "rules", "module"} {
		if !names[want] {
			t.Errorf("%s is not among %v", want, names)
		}
	}
	if names["imports"] || names["main"] {
		t.Errorf("fields or methods count as functions: %v", names)
	}
}

// TestLicenseHeaders: every source says its license; what is generated has its generator's header.
func TestLicenseHeaders(t *testing.T) {
	root, err := root()
	if err != nil {
		t.Fatal(err)
	}
	paths, err := sources(root, ".go", ".c", ".h", ".proto")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		license := "// SPDX-License-Identifier: Apache-2.0\n"
		if strings.HasSuffix(path, ".c") || strings.HasSuffix(path, ".h") {
			license = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause" // in either form of comment
		}
		beginning, _, _ := bytes.Cut(data, []byte("\n"))
		head := string(beginning) + "\n"
		generated := bytes.Contains(data[:min(len(data), 1000)], []byte("\n// Code generated ")) ||
			bytes.HasPrefix(data, []byte("// Code generated "))
		if !generated && !strings.Contains(head, license) {
			t.Errorf("%s does not begin with %q", path, strings.TrimSpace(license))
		}
	}
}

// TestPackageNames: a package is named for what it provides.
func TestPackageNames(t *testing.T) {
	root, err := root()
	if err != nil {
		t.Fatal(err)
	}
	files, err := goFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		switch base := filepath.Base(f.dir()); base {
		case "util", "utils", "common", "helpers", "helper", "manager", "base", "misc", "shared", "lib":
			t.Errorf("%s: a package named %s says nothing of what is in it", f.path, base)
		}
	}
}
