// SPDX-License-Identifier: Apache-2.0

// Package archtest holds the repository to its own words: which component may import which, which names the
// architecture document may speak of, and what every file begins with. All of it is in the tests.
package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// module is the prefix of our own import paths.
const module = "github.com/viaduct-net/viaduct/"

// file is one Go file and what it imports.
type file struct {
	path    string // relative to the repository, with slashes
	imports []string
}

// dir is the component-relative directory of the file: "dataplane/xsk".
func (f file) dir() string { return filepath.ToSlash(filepath.Dir(f.path)) }

func (f file) test() bool { return strings.HasSuffix(f.path, "_test.go") }

// main says whether the file belongs to a program: mains may wire anything.
func (f file) main() bool { return strings.Contains("/"+f.path, "/cmd/") }

// root finds the repository from the working directory of a test.
func root() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, statErr := os.Stat(filepath.Join(dir, "go.mod")); statErr == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", fs.ErrNotExist
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// sources lists the repository's files, hidden ones and what is built left out, with the given suffixes.
func sources(root string, suffixes ...string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			hidden := strings.HasPrefix(entry.Name(), ".") && path != root
			if hidden || relative == "bin" || entry.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		for _, suffix := range suffixes {
			if strings.HasSuffix(path, suffix) {
				paths = append(paths, filepath.ToSlash(relative))
			}
		}
		return nil
	})
	return paths, err
}

// goFiles parses the imports of every Go file.
func goFiles(root string) ([]file, error) {
	paths, err := sources(root, ".go")
	if err != nil {
		return nil, err
	}
	files := make([]file, 0, len(paths))
	for _, path := range paths {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, path), nil, parser.ImportsOnly)
		if err != nil {
			return nil, err
		}
		parsed := file{path: path}
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return nil, err
			}
			parsed.imports = append(parsed.imports, imported)
		}
		files = append(files, parsed)
	}
	return files, nil
}

// within says whether the import path or directory is one of the given, or inside one.
func within(path string, of ...string) bool {
	for _, dir := range of {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// rule says what one import is to obey; it returns why the file may not have it, empty when it may.
type rule func(f file, imported string) string

// rules are the import graph of docs/ARCHITECTURE.md.
var rules = []rule{contracts, pluginAlone, programsAlone, kubernetes, gopacket, support, testingOnly, oracleAlone}

// contracts: control and dataplane know of each other what control/api and dataplane/api say.
func contracts(f file, imported string) string {
	ours, isOurs := strings.CutPrefix(imported, module)
	switch {
	case !isOurs || f.main():
		return ""
	case within(f.dir(), "control") && within(ours, "dataplane") && ours != "dataplane/api":
		return "of the dataplane, control knows dataplane/api only"
	case within(f.dir(), "dataplane") && within(ours, "control") && ours != "control/api":
		return "of control, the dataplane knows control/api only"
	case within(f.dir(), "control", "dataplane", "xdpprog", "cni") && within(ours, "tools", "perf"):
		return "components do not know the tools that are made of them"
	}
	return ""
}

func pluginAlone(f file, imported string) string {
	ours, isOurs := strings.CutPrefix(imported, module)
	if isOurs && within(f.dir(), "cni") && !f.test() && !within(ours, "cni") && ours != "control/api/attach" {
		return "the CNI plugin knows control/api/attach only: what it imports, every pod's start waits for"
	}
	return ""
}

func programsAlone(f file, imported string) string {
	ours, isOurs := strings.CutPrefix(imported, module)
	if isOurs && within(f.dir(), "xdpprog") && !f.test() && !within(ours, "xdpprog") {
		return "xdpprog imports nothing of ours"
	}
	return ""
}

func kubernetes(f file, imported string) string {
	if within(imported, "k8s.io/client-go") && !within(f.dir(), "control/source") {
		return "client-go is for sources alone"
	}
	return ""
}

func gopacket(f file, imported string) string {
	if within(imported, "github.com/google/gopacket") && !within(f.dir(), "internal/pcap") && !f.test() {
		return "gopacket is behind internal/pcap, and in tests"
	}
	return ""
}

// shipped are the packages of internal that programs are made of.
var shipped = map[string][]string{
	"internal/pcap":    {"tools", "perf"},                         // captures
	"internal/netlab":  {"tools", "perf"},                         // namespaces of demos and rigs
	"internal/process": {"control", "dataplane", "tools", "perf"}, // what daemons have in common
}

func support(f file, imported string) string {
	ours, isOurs := strings.CutPrefix(imported, module)
	if isOurs && within(ours, "internal") && !f.test() && !within(f.dir(), "internal") &&
		!within(f.dir(), shipped[ours]...) {
		return "internal is test support; of it programs have what archtest lists as shipped"
	}
	return ""
}

func testingOnly(f file, imported string) string {
	if imported == "testing" && !f.test() && !strings.Contains("/"+f.path, "/internal/") {
		return "testing is for tests and their support"
	}
	return ""
}

func oracleAlone(f file, imported string) string {
	if within(imported, strings.TrimSuffix(module, "/")) && within(f.dir(), "internal/policytest/oracle") && !f.test() {
		return "what says whether others are right imports nothing of theirs"
	}
	return ""
}

// functions lists what a Go file declares at top level: "Func", "Type.Method", "Type", and constants and variables.
func functions(path string) (map[string]bool, error) {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			names[receiver(d)+d.Name.Name] = true
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					names[s.Name.Name] = true
				case *ast.ValueSpec:
					for _, name := range s.Names {
						names[name.Name] = true
					}
				}
			}
		}
	}
	return names, nil
}

// receiver is "Type." for a method, empty for a function.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	t := d.Recv.List[0].Type
	for {
		switch inner := t.(type) {
		case *ast.StarExpr:
			t = inner.X
		case *ast.IndexExpr:
			t = inner.X
		case *ast.Ident:
			return inner.Name + "."
		default:
			return ""
		}
	}
}
