// SPDX-License-Identifier: Apache-2.0

// Package demo shows a dataplane at work: two hosts in network namespaces with a real "viaduct up" between them, three
// pods that the CNI plugin wires, real traffic through all of it, and the ledger at the end. Everything on the hosts'
// side is Go: no ping, no traceroute, no ip.
//
// command.go and run.go are the frame, network.go the topology, and each further file some of the steps.
package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/tools/exit"
)

// Report is what happened, as printed by -o json.
type Report struct {
	OK         bool     `json:"ok"`
	Seconds    float64  `json:"seconds"`
	Steps      []Result `json:"steps"`
	Namespaces []uint64 `json:"namespaces"` // inode numbers, as /proc/*/ns/net showed them
	Directory  string   `json:"directory"`  // where manifests and the socket were; removed
}

// Result is what one step found.
type Result struct {
	Name    string  `json:"name"`
	OK      bool    `json:"ok"`
	Detail  string  `json:"detail"` // figures, or what went wrong
	Seconds float64 `json:"seconds"`
}

// Command returns "viaduct demo". output points at the value of -o.
func Command(output *string) *cobra.Command {
	var program string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Two hosts, three pods and a dataplane between them: real traffic, every step checked, nothing left behind",
		Long: `Two hosts and a dataplane between them, in network namespaces: real ICMP, UDP and TCP over IPv4 and IPv6, jumbo
frames, a traceroute, path MTU discovery, routes that change under load; three pods that viaduct-cni (of the same
directory) wires and takes down, a policy between two of them applied and withdrawn, a service that two of them answer
for, reached by the third, by the node and from outside, while its backends go; and the ledger at the end.

Needs root. Leaves nothing behind, also when interrupted; what one that was killed has left the next one removes.
Exit status: 0 every step was right, 1 one was not, 2 it could not start.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := find(program)
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("demo makes network namespaces and AF_XDP sockets: run it as root")
			}
			out := c.OutOrStdout()
			tell := func(Result) {}
			if *output == "text" {
				_, _ = fmt.Fprint(out, picture)
				tell = func(r Result) { writeLine(out, r) }
			}
			report, err := Run(c.Context(), path, tell)
			if err != nil {
				return err
			}
			return conclude(out, report, *output)
		},
	}
	c.Flags().StringVar(&program, "program", "", "viaduct to start (default: this one)")
	_ = c.MarkFlagFilename("program")
	return c
}

// find returns the program to start.
func find(path string) (string, error) {
	if path == "" {
		return os.Executable()
	}
	if info, err := os.Stat(path); err != nil || info.Mode()&0o111 == 0 || info.IsDir() {
		return "", fmt.Errorf("%s is no program: build it (make build) or leave --program out", path)
	}
	return path, nil
}

const picture = `
   left ──────────────── viaduct up ─────────────────── right
   10.1.0.2 fd00:1::2                wide, MTU 60000: 10.2.0.2 fd00:2::2
   MTU 60000             │         narrow, MTU 1500:  10.3.0.2 fd00:3::2
                         ├ pod a   10.4.1.2 fd00:4:0:1::2
                         ├ pod b   10.4.1.3 fd00:4:0:1::3
                         ├ pod c   10.4.1.4 fd00:4:0:1::4
                         └ service demo/web: 10.97.0.10 fd00:97::10, of pods a and b

`

func writeLine(w io.Writer, r Result) {
	mark := "ok  "
	if !r.OK {
		mark = "FAIL"
	}
	_, _ = fmt.Fprintf(w, "%s  %-23s %s\n", mark, r.Name, r.Detail)
}

func conclude(w io.Writer, r *Report, output string) error {
	wrong := 0
	for _, s := range r.Steps {
		if !s.OK {
			wrong++
		}
	}
	var err error
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		_, err = fmt.Fprintf(w, "\n%d steps in %v, %d wrong\n", len(r.Steps),
			time.Duration(r.Seconds*1e9).Round(100*time.Millisecond), wrong)
	}
	if err == nil && wrong > 0 {
		err = exit.Fail(fmt.Errorf("%d of %d steps went wrong", wrong, len(r.Steps)))
	}
	return err
}
