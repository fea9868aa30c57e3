// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"os"
	"path/filepath"
	"testing"
)

// The ways in which a directory goes away and comes back. None of them waits for the rescan.
func TestAway(t *testing.T) {
	const (
		first  = "Route a (a.yaml:2) 10.0.0.0/8"
		second = "Route b (b.yaml:2) 11.0.0.0/8"
	)
	fill := func(t *testing.T, dir string) { write(t, filepath.Join(dir, "b.yaml"), blackhole("b", "11.0.0.0/8")) }
	tests := []struct {
		name string
		root string // below the test's directory, "" is "manifests"
		away func(t *testing.T, base, root string)
		back func(t *testing.T, base, root string)
		want []string
	}{
		{name: "moved away and back",
			away: func(t *testing.T, base, root string) { rename(t, root, root+".gone") },
			back: func(t *testing.T, base, root string) { rename(t, root+".gone", root) },
			want: []string{first}},
		{name: "changed while it was away",
			away: func(t *testing.T, base, root string) { rename(t, root, root+".gone") },
			back: func(t *testing.T, base, root string) {
				fill(t, root+".gone")
				rename(t, root+".gone", root)
			},
			want: []string{first, second}},
		{name: "removed and made again",
			away: func(t *testing.T, base, root string) { remove(t, root) },
			back: func(t *testing.T, base, root string) { fill(t, root) },
			want: []string{second}},
		{name: "empty on return",
			away: func(t *testing.T, base, root string) { rename(t, root, root+".gone") },
			back: func(t *testing.T, base, root string) { mkdir(t, root) }},
		{name: "a file in its place",
			away: func(t *testing.T, base, root string) {
				rename(t, root, root+".gone")
				write(t, root, "not a directory")
			},
			back: func(t *testing.T, base, root string) {
				remove(t, root)
				fill(t, root)
			},
			want: []string{second}},
		{name: "the parent moved", root: "x/y/manifests",
			away: func(t *testing.T, base, root string) { rename(t, base+"/x/y", base+"/x/z") },
			back: func(t *testing.T, base, root string) { rename(t, base+"/x/z", base+"/x/y") },
			want: []string{first}},
		{name: "the parent's parent made again", root: "x/y/manifests",
			away: func(t *testing.T, base, root string) { rename(t, base+"/x", base+"/z") },
			back: func(t *testing.T, base, root string) { fill(t, root) },
			want: []string{second}},
		{name: "a link that leads nowhere", root: "link",
			away: func(t *testing.T, base, root string) {
				remove(t, root)
				link(t, "nowhere", root)
			},
			back: func(t *testing.T, base, root string) { fill(t, base+"/nowhere") },
			want: []string{second}},
		{name: "a link's directory moved", root: "link",
			away: func(t *testing.T, base, root string) { rename(t, base+"/target", base+"/gone") },
			back: func(t *testing.T, base, root string) { rename(t, base+"/gone", base+"/target") },
			want: []string{first}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			base := t.TempDir()
			root := filepath.Join(base, test.root)
			switch test.root {
			case "":
				root = filepath.Join(base, "manifests")
			case "link":
				mkdir(t, base+"/target")
				link(t, "target", root)
			}
			write(t, filepath.Join(root, "a.yaml"), blackhole("a", "10.0.0.0/8"))
			f := follow(t, New(root))
			f.expect(t, first)
			test.away(t, base, root)
			e := f.next(t)
			if e.Trouble == "" || len(e.Set)+len(e.Removed)+len(e.Errors) != 0 {
				t.Fatalf("away: %+v", e)
			}
			test.back(t, base, root)
			f.expect(t, test.want...)

			write(t, filepath.Join(root, "c.yaml"), blackhole("c", "12.0.0.0/8")) // it is watched
			f.expect(t, append(test.want, "Route c (c.yaml:2) 12.0.0.0/8")...)
		})
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestTrouble says which directory is away, and keeps the refusals that stand.
func TestTrouble(t *testing.T) {
	root := filepath.Join(t.TempDir(), "manifests")
	write(t, filepath.Join(root, "a.yaml"), blackhole("a", "10.0.0.0/8"))
	write(t, filepath.Join(root, "b.yaml"), "bad: [\n")
	const good = "Route a (a.yaml:2) 10.0.0.0/8"
	const bad = "error b.yaml:1 (document 1): line 1 of the document: did not find expected node content"
	f := follow(t, New(root))
	f.expect(t, good, bad)
	rename(t, root, root+".gone")
	f.expect(t, good, bad, "trouble "+root+": no such file or directory")
	remove(t, filepath.Join(root+".gone", "b.yaml"))
	rename(t, root+".gone", root)
	f.expect(t, good)
}

// TestReplaced: a directory that is replaced at one stroke is never away.
func TestReplaced(t *testing.T) {
	base := t.TempDir()
	first, second, root := base+"/first", base+"/second", base+"/manifests"
	write(t, first+"/a.yaml", blackhole("a", "10.0.0.0/8"))
	write(t, second+"/a.yaml", blackhole("a", "11.0.0.0/8"))
	link(t, "first", root)
	f := follow(t, New(root))
	f.expect(t, "Route a (a.yaml:2) 10.0.0.0/8")
	link(t, "second", base+"/aside")
	rename(t, base+"/aside", root)
	f.expect(t, "Route a (a.yaml:2) 11.0.0.0/8")
	write(t, second+"/a.yaml", blackhole("a", "12.0.0.0/8"))
	f.expect(t, "Route a (a.yaml:2) 12.0.0.0/8")
	write(t, first+"/a.yaml", "bad: [") // nobody looks there any more
	write(t, root+"/b.yaml", blackhole("b", "13.0.0.0/8"))
	f.expect(t, "Route a (a.yaml:2) 12.0.0.0/8", "Route b (b.yaml:2) 13.0.0.0/8")
}

// TestExchanged: two folders that exchange their names by way of a third, and stay watched.
func TestExchanged(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/x/f.yaml", blackhole("p", "10.0.0.0/8"))
	write(t, dir+"/y/f.yaml", blackhole("q", "11.0.0.0/8"))
	f := follow(t, New(dir))
	f.expect(t, "Route p (x/f.yaml:2) 10.0.0.0/8", "Route q (y/f.yaml:2) 11.0.0.0/8")
	rename(t, dir+"/x", dir+"/z")
	rename(t, dir+"/y", dir+"/x")
	rename(t, dir+"/z", dir+"/y")
	f.expect(t, "Route p (y/f.yaml:2) 10.0.0.0/8", "Route q (x/f.yaml:2) 11.0.0.0/8")
	write(t, dir+"/x/f.yaml", blackhole("q", "12.0.0.0/8"))
	f.expect(t, "Route p (y/f.yaml:2) 10.0.0.0/8", "Route q (x/f.yaml:2) 12.0.0.0/8")
	write(t, dir+"/y/f.yaml", blackhole("p", "13.0.0.0/8"))
	f.expect(t, "Route p (y/f.yaml:2) 13.0.0.0/8", "Route q (x/f.yaml:2) 12.0.0.0/8")
}

// TestConfigMap does what the kubelet does to a mounted ConfigMap: files are links to ..data/<name>, ..data is a link
// to a dated folder, and an update renames a new link over ..data and removes the folder it led to.
func TestConfigMap(t *testing.T) {
	dir := t.TempDir()
	publish := func(version, text string) {
		write(t, filepath.Join(dir, "..data_"+version, "a.yaml"), text)
		link(t, "..data_"+version, filepath.Join(dir, "..data_tmp"))
		rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
	}
	publish("1", blackhole("a", "10.0.0.0/8"))
	link(t, "..data/a.yaml", filepath.Join(dir, "a.yaml"))
	f := follow(t, New(dir))
	f.expect(t, "Route a (a.yaml:2) 10.0.0.0/8")
	for _, version := range []string{"2", "3", "4"} {
		publish(version, blackhole("a", "1"+version+".0.0.0/8"))
		remove(t, filepath.Join(dir, "..data_"+string(version[0]-1)))
		if e := f.next(t); len(e.Removed)+len(e.Errors) != 0 || e.Trouble != "" {
			t.Errorf("an update shows: %+v", e)
		}
		if got := f.lines()[0]; got != "Route a (a.yaml:2) 1"+version+".0.0.0/8" {
			t.Error(got)
		}
	}
}

// TestLinks: what a link leads to is watched too, wherever it is.
func TestLinks(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, elsewhere+"/deep/a.yaml", blackhole("a", "10.0.0.0/8"))
	link(t, elsewhere+"/deep/a.yaml", dir+"/a.yaml")
	link(t, elsewhere+"/deep", dir+"/folder")
	link(t, elsewhere+"/missing.yaml", dir+"/missing.yaml")
	f := follow(t, New(dir))
	const twice = "error folder/a.yaml:2 (document 1): Route a: is defined in a.yaml:2 already"
	f.expect(t, "Route a (a.yaml:2) 10.0.0.0/8", twice)
	write(t, elsewhere+"/deep/a.yaml", blackhole("a", "11.0.0.0/8"))
	f.expect(t, "Route a (a.yaml:2) 11.0.0.0/8", twice)
	write(t, elsewhere+"/missing.yaml", blackhole("b", "12.0.0.0/8"))
	f.expect(t, "Route a (a.yaml:2) 11.0.0.0/8", "Route b (missing.yaml:2) 12.0.0.0/8", twice)
	remove(t, dir+"/a.yaml")
	f.expect(t, "Route a (folder/a.yaml:2) 11.0.0.0/8", "Route b (missing.yaml:2) 12.0.0.0/8")
}
