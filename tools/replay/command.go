// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/internal/pcap"
	"github.com/viaduct-net/viaduct/tools/exit"
)

type flags struct {
	cfg             Config
	in, out, report string
	mac             string
}

// Command returns "viaduct replay". output points at the value of -o.
func Command(output *string) *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "replay --manifests DIR --in FILE --port PORT --out FILE",
		Short: "Run a capture through the production pipeline, offline and without root",
		Long: `Run a capture (pcap or pcapng, Ethernet) through the production pipeline, offline and without root.

--out gets what came out as pcapng, with a comment on each packet that says which packet of the capture it is and
why. --report gets one JSON line for each packet of the capture: index, length, truncated, verdict, reason, rule,
in_port, out_port; and a last line {"summary": …} with the ledger. With -o json and no --report it goes to standard
output. "rule" is what of policy decided, else the object that the route came from. A fragment that waits for the first
of its datagram is reported as such; what became of it is in the ledger.

Neighbours that are asked for answer at once. Time is the capture's. Without --mac, packets for any unicast MAC are
taken to be for the port.

Pods of the node that have addresses in the manifests are there as if the CNI plugin had wired them: those whose
spec.nodeName is the node, and, where that is not said, those with addresses of its pod CIDRs. --port then may be
NAMESPACE/POD or host. Of several, "a/client,a/web,host", each packet comes by the one that has its source: so a capture
with both directions of a connection is replayed. Policies are judged and flows are tracked; TCP connections that began
before the capture are taken up in its first minute, as by a dataplane that has just started.

Exit status: 0 the capture was replayed to its end, 1 the capture is torn or malformed (what came before was replayed)
or the ledger does not balance, 2 it could not start.`,
		Example: `  viaduct replay --manifests lab/ --in some.pcap --port left --out out.pcapng --report -
  viaduct replay --manifests pods/ --in some.pcap --port shop/client,shop/web --out out.pcapng --report -`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return f.run(c.Context(), c.OutOrStdout(), *output)
		},
	}
	s := c.Flags()
	s.StringVar(&f.cfg.Manifests, "manifests", "", "directory of YAML manifests (required)")
	s.StringVar(&f.cfg.Node, "node", "", "name of the NodeConfig (default: the only one there is)")
	s.StringVar(&f.in, "in", "", "capture to read (required)")
	s.StringVar(&f.cfg.Port, "port", "", "port by which the packets come in, or several: a,b (required)")
	s.StringVar(&f.out, "out", "", "pcapng file to write (required)")
	s.StringVar(&f.report, "report", "", "file for one JSON line a packet; - is standard output")
	s.IntVar(&f.cfg.MTU, "mtu", 1500, "MTU in bytes of ports whose manifest gives none")
	s.StringVar(&f.mac, "mac", "", "MAC of the port; packets for others are then dropped")
	s.BoolVar(&f.cfg.Pad, "pad", false, "fill packets that the capture cut short with zeros to their length")
	for _, name := range []string{"manifests", "in", "port", "out"} {
		_ = c.MarkFlagRequired(name)
	}
	_ = c.MarkFlagDirname("manifests")
	_ = c.MarkFlagFilename("in", "pcap", "pcapng", "cap")
	_ = c.RegisterFlagCompletionFunc("port", f.completePort)
	return c
}

// completePort offers the ports of the manifests named so far.
func (f *flags) completePort(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	snapshot, err := compiled(f.cfg.Manifests, f.cfg.Node)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, p := range snapshot.GetPorts() {
		names = append(names, p.GetName())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (f *flags) run(ctx context.Context, stdout io.Writer, output string) (err error) {
	if f.cfg.MTU < 68 || f.cfg.MTU > 65535 {
		return fmt.Errorf("--mtu %d is not between 68 and 65535", f.cfg.MTU)
	}
	if f.mac != "" {
		if f.cfg.MAC, err = net.ParseMAC(f.mac); err != nil || len(f.cfg.MAC) != 6 {
			return fmt.Errorf("--mac %q is no MAC such as 02:00:00:00:00:01", f.mac)
		}
	}
	if f.report == "" && output == "json" {
		f.report = "-"
	}
	in, err := os.Open(f.in)
	if err != nil {
		return fmt.Errorf("open capture: %w", err)
	}
	defer func() { _ = in.Close() }()
	reader, err := pcap.NewReader(in)
	if err != nil {
		return fmt.Errorf("read %s: %w", f.in, err)
	}
	if same(in, f.out) {
		return errors.New("--out is the file of --in")
	}
	return f.replay(ctx, reader, stdout)
}

func same(in *os.File, out string) bool {
	a, err := in.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(out)
	return err == nil && os.SameFile(a, b)
}

// replay opens the files to write, runs, and closes them.
func (f *flags) replay(ctx context.Context, in *pcap.Reader, stdout io.Writer) (err error) {
	closers := []func() error{}
	defer func() {
		for _, c := range closers {
			err = errors.Join(err, c())
		}
	}()
	create := func(path string) (*bufio.Writer, error) {
		file, err := os.Create(path)
		if err != nil {
			return nil, fmt.Errorf("create output: %w", err)
		}
		w := bufio.NewWriterSize(file, 1<<16)
		closers = append(closers, func() error { return errors.Join(w.Flush(), file.Close()) })
		return w, nil
	}
	out, err := create(f.out)
	if err != nil {
		return err
	}
	report := io.Discard
	switch f.report {
	case "":
	case "-":
		w := bufio.NewWriter(stdout)
		report, closers = w, append(closers, w.Flush)
	default:
		if report, err = create(f.report); err != nil {
			return err
		}
	}
	summary, err := run(ctx, f.cfg, in, out, report)
	if summary == nil {
		return err
	}
	if f.report != "-" {
		if err := summary.writeText(stdout); err != nil {
			return err
		}
	}
	switch {
	case err != nil:
		err = exit.Fail(fmt.Errorf("read %s: %w", f.in, err))
	case !summary.Balanced:
		err = exit.Fail(errors.New("the ledger does not balance"))
	}
	return err
}

// run replays into a pcapng file and a report.
func run(ctx context.Context, cfg Config, in *pcap.Reader, out, report io.Writer) (*Summary, error) {
	ng, err := pcap.NewWriter(out, "viaduct replay")
	if err != nil {
		return nil, err
	}
	lines := json.NewEncoder(report)
	lines.SetEscapeHTML(false)
	summary, err := Run(ctx, cfg, in, Sinks{
		Packet: func(l Line) error { return lines.Encode(l) },
		Out:    ng.Write,
		Device: ng.AddInterface,
	})
	if summary != nil {
		err = errors.Join(err, lines.Encode(map[string]*Summary{"summary": summary}))
	}
	return summary, err
}
