// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
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

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

var update = flag.Bool("update", false, "write what was printed into the scenarios")

// A scenario is a text file of sections, each begun by a line "-- word argument --":
//
//	-- file NAME --    manifests; the text replaces the file's former one
//	-- delete NAME --  the file is gone
//	-- attach PORT --  an attachment, as fields KEY=VALUE,…; it takes the place of the port's former one
//	-- detach PORT --  the port's attachment is gone
//	-- node NAME --    a compiler for the node of that name; without one, for that of the one NodeConfig
//	-- resume --       another compiler for the same node, which takes over the numbers of the last snapshot
//	-- away --         the dataplane takes none of the snapshots that follow
//	-- back --         the dataplane takes the last one and those that follow
//	-- snapshot --     compile, and expect this text: what was refused, and the whole snapshot
//	-- delta --        compile, and expect this text: what was refused, what was set (+) and removed (-), and judged
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
	s := &scenario{files: map[string]string{}, attachments: map[string]*compile.Attachment{}}
	s.use(compile.Node{Sole: true})
	for i, section := range sections {
		switch section.word {
		case "file":
			s.files[section.argument] = section.text
		case "delete":
			delete(s.files, section.argument)
		case "attach":
			s.attachments[section.argument] = attachment(t, section.argument, section.text)
		case "detach":
			delete(s.attachments, section.argument)
		case "node":
			s.use(compile.Node{Name: section.argument})
		case "resume":
			last := s.last
			s.use(s.node)
			s.compiler.Resume(last)
		case "away", "back":
			s.away = section.word == "away"
			s.take()
		case "snapshot", "delta":
			got := s.compile(t, section.word == "delta")
			if diff := cmp.Diff(section.text, got); diff != "" && !*update {
				t.Errorf("section %d, epoch %d (-want +got):\n%s", i+1, s.epoch, diff)
			}
			sections[i].text = got
		default:
			t.Fatalf("section %q is not known", section.word)
		}
	}
	if s.epoch == 0 {
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

// scenario is a run of one.
type scenario struct {
	files       map[string]string
	attachments map[string]*compile.Attachment
	node        compile.Node
	compiler    *compile.Compiler
	held        state // by the compiler
	epoch       uint64
	last        *api.Snapshot // of the compiler
	away        bool          // the dataplane
}

func (s *scenario) use(node compile.Node) {
	s.node, s.compiler, s.held, s.last = node, compile.New(node), newState(), nil
}

// compile says what changed in the files, and prints what came of it.
func (s *scenario) compile(t *testing.T, delta bool) string {
	var b strings.Builder
	objects := s.read(&b)
	var set []*model.Object
	for _, o := range objects {
		set = append(set, o)
		delete(s.held.objects, o.Key)
	}
	s.compiler.Change(set, slices.Collect(maps.Keys(s.held.objects)))
	s.attach()
	s.held.objects = objects
	step, err := s.compiler.Compile(s.epoch + 1)
	if err != nil {
		fmt.Fprintf(&b, "error %s\n", err)
		return b.String()
	}
	for _, e := range s.compiler.Errors() {
		fmt.Fprintf(&b, "refused %s\n", e)
	}
	checkStep(t, s.node, s.held, s.compiler, s.last, step)
	s.last, s.epoch = step.Snapshot, step.Snapshot.Epoch
	s.take()
	if !delta {
		printSnapshot(&b, step.Snapshot)
		return b.String()
	}
	printDelta(&b, step)
	return b.String()
}

// attach says what changed in the attachments.
func (s *scenario) attach() {
	var set []*compile.Attachment
	for port, a := range s.attachments {
		if s.held.attachments[port] != a {
			set = append(set, a)
		}
		delete(s.held.attachments, port)
	}
	s.compiler.Attach(set, slices.Collect(maps.Keys(s.held.attachments)))
	s.held.attachments = maps.Clone(s.attachments)
}

// attachment reads fields: pod=NAMESPACE/NAME mac=MAC addresses=A,B egress=RATE,BURST ingress=… attach=direct
// hostPort=PROTOCOL,NUMBER,CONTAINER'S[,ADDRESS].
func attachment(t *testing.T, port, text string) *compile.Attachment {
	t.Helper()
	a := &compile.Attachment{Port: port, Device: "vd-" + port}
	for _, field := range strings.Fields(text) {
		key, value, _ := strings.Cut(field, "=")
		var err error
		switch key {
		case "pod":
			a.PodNamespace, a.PodName, _ = strings.Cut(value, "/")
		case "mac":
			a.MAC, err = net.ParseMAC(value)
		case "addresses":
			for one := range strings.SplitSeq(value, ",") {
				a.Addresses = append(a.Addresses, netip.MustParseAddr(one))
			}
		case "egress":
			_, err = fmt.Sscanf(value, "%d,%d", &a.Egress.BitsPerSecond, &a.Egress.BurstBits)
		case "ingress":
			_, err = fmt.Sscanf(value, "%d,%d", &a.Ingress.BitsPerSecond, &a.Ingress.BurstBits)
		case "hostPort":
			a.HostPorts = append(a.HostPorts, hostPort(value))
		case "attach":
			a.Direct = value == "direct"
		default:
			err = fmt.Errorf("field %q is not known", key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func hostPort(text string) (h compile.HostPort) {
	parts := strings.Split(text, ",")
	h.Protocol = api.Protocol(api.Protocol_value["PROTOCOL_"+parts[0]])
	_, _ = fmt.Sscan(parts[1], &h.HostPort)
	_, _ = fmt.Sscan(parts[2], &h.ContainerPort)
	if len(parts) > 3 {
		h.HostIP = netip.MustParseAddr(parts[3])
	}
	return h
}

// take has the dataplane take the last snapshot, unless it is away.
func (s *scenario) take() {
	if !s.away {
		s.compiler.Acked(s.epoch)
	}
}

func (s *scenario) read(b *strings.Builder) map[model.Key]*model.Object {
	objects := map[model.Key]*model.Object{}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		good, errs := model.Decode(name, []byte(s.files[name]))
		for _, o := range good {
			objects[o.Key] = o
		}
		for _, e := range errs {
			fmt.Fprintf(b, "refused %s\n", e)
		}
	}
	return objects
}
