// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

var update = flag.Bool("update", false, "write what was printed into the scenarios")

// A scenario is a text file of sections, each begun by a line "-- word argument --":
//
//	-- file NAME --   manifests; the text replaces the file's former one
//	-- node NAME --   the node to compile for
//	-- snapshot --    compile, and expect this text; each compilation gets the numbers of the one before
type section struct{ word, argument, text string }

func TestScenarios(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) { runScenario(t, path) })
	}
}

func runScenario(t *testing.T, path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, sections := parse(string(data))
	files := map[string]string{}
	var in compile.Input
	for i, s := range sections {
		switch s.word {
		case "file":
			files[s.argument] = s.text
		case "node":
			in.Node = s.argument
		case "snapshot":
			in.Epoch++
			got, numbers := printout(in, files)
			in.Previous = numbers
			if diff := cmp.Diff(s.text, got); diff != "" && !*update {
				t.Errorf("snapshot %d (-want +got):\n%s", in.Epoch, diff)
			}
			sections[i].text = got
		default:
			t.Fatalf("section %q is not known", s.word)
		}
	}
	if in.Epoch == 0 {
		t.Fatal("the scenario expects nothing")
	}
	if *update {
		if err := os.WriteFile(path, []byte(format(head, sections)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func parse(text string) (head string, sections []section) {
	for line := range strings.Lines(text) {
		if inner, ok := strings.CutPrefix(strings.TrimSpace(line), "-- "); ok && strings.HasSuffix(inner, " --") {
			word, argument, _ := strings.Cut(strings.TrimSuffix(inner, " --"), " ")
			sections = append(sections, section{word: word, argument: argument})
			continue
		}
		if len(sections) == 0 {
			head += line
			continue
		}
		sections[len(sections)-1].text += line
	}
	return head, sections
}

func format(head string, sections []section) string {
	var b strings.Builder
	b.WriteString(head)
	for _, s := range sections {
		fmt.Fprintf(&b, "-- %s --\n%s", strings.TrimSpace(s.word+" "+s.argument), s.text)
	}
	return b.String()
}

// printout compiles the files and prints all that came of it. It compiles twice, for the second to be the same.
func printout(in compile.Input, files map[string]string) (string, compile.Numbers) {
	var b strings.Builder
	var objects []*model.Object
	for _, name := range slices.Sorted(maps.Keys(files)) {
		good, errs := model.Decode(name, []byte(files[name]))
		objects = append(objects, good...)
		for _, e := range errs {
			fmt.Fprintf(&b, "refused %s\n", e)
		}
	}
	in.State = model.NewState(objects...)
	out, err := compile.Compile(in)
	if err != nil {
		fmt.Fprintf(&b, "error %s\n", err)
		return b.String(), in.Previous
	}
	slices.Reverse(objects)
	in.State = model.NewState(objects...)
	again, err := compile.Compile(in)
	if diff := cmp.Diff(protojson.Format(out.Snapshot), protojson.Format(again.Snapshot)); diff != "" || err != nil {
		fmt.Fprintf(&b, "not deterministic: %v\n%s", err, diff)
	}
	for _, e := range out.Errors {
		fmt.Fprintf(&b, "refused %s\n", e)
	}
	printSnapshot(&b, out.Snapshot)
	return b.String(), out.Numbers
}

func printSnapshot(b *strings.Builder, s *api.Snapshot) {
	n := s.Node
	fmt.Fprintf(b, "epoch %d node %s workers %d mtu %d offload %t %s masquerade %t pods %v", s.Epoch, n.Name, n.Workers,
		n.Mtu, n.Offload, n.OnAbsence, n.Masquerade, prefixes(n.PodPrefixes))
	if n.Uplink != nil {
		fmt.Fprintf(b, " uplink %s %s", n.Uplink.Device, n.Uplink.Mode)
	}
	b.WriteByte('\n')
	for _, p := range s.Ports {
		fmt.Fprintf(b, "port %d %s on %s queues %v vlans %d.%d mtu %d addresses %v\n", p.Id, p.Name, p.Device, p.Queues,
			p.OuterVlan, p.InnerVlan, p.Mtu, prefixes(p.Addresses))
	}
	for _, n := range s.Neighbors {
		fmt.Fprintf(b, "neighbor %s port %d is %s\n", address(n.Address), n.Port, net.HardwareAddr(n.Mac))
	}
	for _, g := range s.Groups {
		fmt.Fprintf(b, "group %d %s", g.Id, strings.ToLower(strings.TrimPrefix(g.Kind.String(), "KIND_")))
		for _, h := range g.Hops {
			fmt.Fprintf(b, " [port %d via %s weight %d mtu %d]", h.Port, address(h.Via), h.Weight, h.Mtu)
		}
		b.WriteByte('\n')
	}
	for _, r := range s.Routes {
		fmt.Fprintf(b, "route %s/%d group %d from %s\n", address(r.Prefix), r.Bits, r.Group, s.Origins[r.Origin])
	}
}

func address(b []byte) string {
	if len(b) == 0 {
		return "link"
	}
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

func prefixes(list []*api.Prefix) []string {
	var texts []string
	for _, p := range list {
		texts = append(texts, fmt.Sprintf("%s/%d", address(p.Address), p.Bits))
	}
	return texts
}

func TestNoNodeConfig(t *testing.T) {
	if _, err := compile.Compile(compile.Input{}); !errors.Is(err, compile.ErrNoNode) {
		t.Fatalf("error %v, want %v", err, compile.ErrNoNode)
	}
}

// BenchmarkCompile is 20,000 Route objects over 16 next hops.
func BenchmarkCompile(b *testing.B) {
	manifests := "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: lab}\n" +
		"spec: {ports: [{name: p, device: d, addresses: [10.0.0.1/24]}]}\n"
	objects, errs := model.Decode("node.yaml", []byte(manifests))
	for i := range 20_000 {
		text := fmt.Sprintf("apiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: r%d}\n"+
			"spec: {destination: 20.%d.%d.0/24, nextHops: [{via: 10.0.0.%d}]}\n", i, i>>8, i&255, 2+i%16)
		more, err := model.Decode("routes.yaml", []byte(text))
		objects, errs = append(objects, more...), append(errs, err...)
	}
	if len(errs) > 0 {
		b.Fatal(errs[0])
	}
	in := compile.Input{State: model.NewState(objects...)}
	for b.Loop() {
		out, err := compile.Compile(in)
		if err != nil || len(out.Snapshot.Routes) != 20_000 || len(out.Snapshot.Groups) != 16 {
			b.Fatal(err, len(out.Snapshot.GetRoutes()), out.Errors)
		}
		in.Previous = out.Numbers
	}
}
