// SPDX-License-Identifier: Apache-2.0

// Command count reads `go test -json` and prints what a person wants of it: a line for each package, the whole output
// of what failed, each skip with its reason, and in the last line the counts. It exits with 1 when something failed,
// when nothing ran, and, as root, when something was skipped.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if !run(os.Stdin, os.Stdout, os.Geteuid() == 0) {
		os.Exit(1)
	}
}

// event is one line of the stream: see `go doc test2json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build output
	Test        string
	Output      string
	FailedBuild string
}

type key struct{ pkg, test string }

type counter struct {
	out                     io.Writer
	passed, failed, skipped int
	brokenPackages          int
	output                  map[key]*strings.Builder
}

// run says whether all is well.
func run(in io.Reader, out io.Writer, root bool) bool {
	c := &counter{out: out, output: map[key]*strings.Builder{}}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		if jsonErr := json.Unmarshal(line, &e); jsonErr == nil {
			c.take(e)
		} else {
			fmt.Fprint(out, string(line)) // the go command itself has something to say
		}
		if err != nil {
			break
		}
	}
	ok := c.failed == 0 && c.brokenPackages == 0 && c.passed > 0
	if root && c.skipped > 0 {
		fmt.Fprintln(out, "as root nothing is to be skipped")
		ok = false
	}
	if c.brokenPackages > 0 {
		fmt.Fprintf(out, "%d packages failed\n", c.brokenPackages)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", c.passed, c.failed, c.skipped)
	return ok
}

func (c *counter) take(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "output", "build-output":
		if e.Action == "build-output" {
			k = key{e.ImportPath, ""}
		}
		if c.output[k] == nil {
			c.output[k] = &strings.Builder{}
		}
		c.output[k].WriteString(e.Output)
		return
	case "pass", "fail", "skip", "build-fail":
	default:
		return
	}
	switch {
	case e.Action == "build-fail":
		c.print(key{e.ImportPath, ""})
	case e.Test == "":
		c.endPackage(e, k)
	case e.Action == "pass":
		c.passed++
	case e.Action == "fail":
		c.failed++
		c.print(k)
	case e.Action == "skip":
		c.skipped++
		c.print(k)
	}
	delete(c.output, k)
}

// endPackage prints the package's result line, or all that it said when it failed.
func (c *counter) endPackage(e event, k key) {
	if e.Action == "fail" {
		c.brokenPackages++
		for other := range c.output { // tests that never ended: a panic, a timeout
			if other.pkg == k.pkg && other.test != "" {
				c.print(other)
				delete(c.output, other)
			}
		}
		c.print(k)
		return
	}
	text := c.output[k]
	if text == nil {
		return
	}
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, "ok ") {
			fmt.Fprint(c.out, line)
		}
	}
}

func (c *counter) print(k key) {
	if text := c.output[k]; text != nil {
		fmt.Fprint(c.out, text)
	}
}
