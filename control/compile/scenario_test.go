// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"flag"
	"fmt"
	"maps"
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
	s := &scenario{files: map[string]string{}}
	s.use(compile.Node{Sole: true})
	for i, section := range sections {
		switch section.word {
		case "file":
			s.files[section.argument] = section.text
		case "delete":
			delete(s.files, section.argument)
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
	files    map[string]string
	node     compile.Node
	compiler *compile.Compiler
	held     map[model.Key]*model.Object // by the compiler
	epoch    uint64
	last     *api.Snapshot // of the compiler
	away     bool          // the dataplane
}

func (s *scenario) use(node compile.Node) {
	s.node, s.compiler, s.held, s.last = node, compile.New(node), map[model.Key]*model.Object{}, nil
}

// compile says what changed in the files, and prints what came of it.
func (s *scenario) compile(t *testing.T, delta bool) string {
	var b strings.Builder
	objects := s.read(&b)
	var set []*model.Object
	for _, o := range objects {
		set = append(set, o)
		delete(s.held, o.Key)
	}
	s.compiler.Change(set, slices.Collect(maps.Keys(s.held)))
	s.held = objects
	step, err := s.compiler.Compile(s.epoch + 1)
	if err != nil {
		fmt.Fprintf(&b, "error %s\n", err)
		return b.String()
	}
	for _, e := range s.compiler.Errors() {
		fmt.Fprintf(&b, "refused %s\n", e)
	}
	checkStep(t, s.node, objects, s.compiler, s.last, step)
	s.last, s.epoch = step.Snapshot, step.Snapshot.Epoch
	s.take()
	if !delta {
		printSnapshot(&b, step.Snapshot)
		return b.String()
	}
	printDelta(&b, step)
	return b.String()
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
