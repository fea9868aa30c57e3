// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

const theirs = `{"cniVersion": "1.0.0", "name": "theirs", "plugins": [{"type": "bridge"}]}`

func node(t *testing.T) *Options {
	t.Helper()
	dir := t.TempDir()
	o := &Options{
		Plugin: filepath.Join(dir, "some-plugin"), BinDir: filepath.Join(dir, "bin"),
		ConfDir: filepath.Join(dir, "net.d"), ConfName: "05-viaduct.conflist", Run: "/run/viaduct", Attach: "trunk",
	}
	must(t, os.Mkdir(o.BinDir, 0o755))
	must(t, os.Mkdir(o.ConfDir, 0o755))
	must(t, os.WriteFile(o.Plugin, bytes.Repeat([]byte("plugin"), 50_000), 0o600))
	return o
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func conf(t *testing.T, o *Options, name, text string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(o.ConfDir, name), []byte(text), 0o644))
}

// files is what is in both directories: name to content.
func files(t *testing.T, o *Options) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, dir := range []string{o.BinDir, o.ConfDir} {
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			must(t, err)
			found[e.Name()] = string(text)
		}
	}
	return found
}

func expect(t *testing.T, o *Options, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(files(t, o))); !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
}

func actions(o *Options, steps []Step) (s []string) {
	for _, step := range steps {
		s = append(s, filepath.Base(step.File)+" "+string(step.Action))
	}
	return s
}

func did(t *testing.T, o *Options, do func() ([]Step, error), want ...string) {
	t.Helper()
	steps, err := do()
	if got := actions(o, steps); err != nil || !slices.Equal(got, want) {
		t.Errorf("did %q, %v, want %q", got, err, want)
	}
}

func TestInstall(t *testing.T) {
	o := node(t)
	did(t, o, o.Install, "viaduct-cni installed", "05-viaduct.conflist installed")
	for path, mode := range map[string]fs.FileMode{
		filepath.Join(o.BinDir, PluginName): 0o755, filepath.Join(o.ConfDir, o.ConfName): 0o644,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, mode)
		}
	}
	list, err := libcni.NetworkConfFromFile(o.confPath())
	must(t, err)
	if list.CNIVersion != "1.1.0" || list.Name != "viaduct" || len(list.Plugins) != 1 ||
		list.Plugins[0].Network.Type != PluginName || !list.Plugins[0].Network.Capabilities["portMappings"] ||
		!bytes.Contains(list.Plugins[0].Bytes, []byte(`"runDir":"/run/viaduct"`)) {
		t.Errorf("configuration: %s", list.Bytes)
	}
	did(t, o, o.Install, "viaduct-cni unchanged", "05-viaduct.conflist unchanged")
	must(t, os.Chmod(filepath.Join(o.BinDir, PluginName), 0o600))
	o.Attach = "direct"
	did(t, o, o.Install, "viaduct-cni installed", "05-viaduct.conflist installed")
	did(t, o, o.Remove, "05-viaduct.conflist removed", "viaduct-cni removed")
	expect(t, o)
	did(t, o, o.Remove, "05-viaduct.conflist absent", "viaduct-cni absent")
}

func TestOtherConfigurations(t *testing.T) {
	o := node(t)
	conf(t, o, "00-a.conflist", theirs)
	conf(t, o, "01-b.conf", theirs)
	conf(t, o, "10-c.conflist", theirs)
	conf(t, o, "00-readme", "no configuration")
	before := files(t, o)
	both := []string{"viaduct-cni installed", "05-viaduct.conflist installed"}
	did(t, o, o.Install, append(both, "00-a.conflist comes first", "01-b.conf comes first")...)
	o.Replace = true
	both = []string{"viaduct-cni unchanged", "05-viaduct.conflist unchanged"}
	did(t, o, o.Install, append(both, "00-a.conflist set aside", "01-b.conf set aside")...)
	expect(t, o, PluginName, o.ConfName, "00-a.conflist.viaduct-saved", "01-b.conf.viaduct-saved", "10-c.conflist",
		"00-readme")
	did(t, o, o.Remove, "00-a.conflist restored", "01-b.conf restored", "05-viaduct.conflist removed",
		"viaduct-cni removed")
	if after := files(t, o); !maps.Equal(before, after) {
		t.Errorf("%v, was %v", after, before)
	}
}

func TestRemoveLeavesWhatIsNotOurs(t *testing.T) {
	o := node(t)
	o.Replace = true
	conf(t, o, "00-a.conflist", theirs)
	_, err := o.Install()
	must(t, err)
	conf(t, o, "00-a.conflist", `{"newer": true}`)
	conf(t, o, o.ConfName, theirs)
	did(t, o, o.Remove, "00-a.conflist.viaduct-saved left", "05-viaduct.conflist left", "viaduct-cni removed")
	expect(t, o, "00-a.conflist", "00-a.conflist.viaduct-saved", o.ConfName)
}

func TestWhatIsRefused(t *testing.T) {
	for want, breakIt := range map[string]func(o *Options){
		"there is no plugin /nowhere/viaduct-cni: build": func(o *Options) { o.Plugin = "/nowhere/viaduct-cni" },
		"is no plugin":                          func(o *Options) { o.Plugin = o.BinDir },
		"there is no directory /a: make it":     func(o *Options) { o.BinDir = "/a" },
		"name the container runtime's by --con": func(o *Options) { o.ConfDir = "/a" },
		"is no file name that ends":             func(o *Options) { o.ConfName = "../05.conflist" },
		`--conf-name "05-viaduct.conf"`:         func(o *Options) { o.ConfName = "05-viaduct.conf" },
		"neither trunk nor direct":              func(o *Options) { o.Attach = "both" },
		"is not absolute":                       func(o *Options) { o.Run = "run" },
		"is no network configuration list":      func(o *Options) { o.Conf = o.Plugin },
		"read configuration: open /nowhere":     func(o *Options) { o.Conf = "/nowhere" },
		"names no plugin of type viaduct-cni": func(o *Options) {
			o.Conf = filepath.Join(filepath.Dir(o.Plugin), "conf")
			_ = os.WriteFile(o.Conf, []byte(theirs), 0o600)
		},
	} {
		o := node(t)
		was := *o
		breakIt(o)
		if steps, err := o.Install(); err == nil || !strings.Contains(err.Error(), want) || len(steps) > 0 {
			t.Errorf("did %v, %v, want %q", steps, err, want)
		}
		expect(t, &was)
	}
}

func TestConfigurationOfOnesOwn(t *testing.T) {
	o := node(t)
	o.Conf = filepath.Join(t.TempDir(), "conf")
	const own = `{"cniVersion": "0.3.1", "name": "own", "plugins": [{"type": "viaduct-cni"}, {"type": "tuning"}]}`
	must(t, os.WriteFile(o.Conf, []byte(own), 0o600))
	_, err := o.Install()
	must(t, err)
	if got := files(t, o)[o.ConfName]; got != own {
		t.Errorf("configuration %s", got)
	}
	did(t, o, o.Remove, "05-viaduct.conflist removed", "viaduct-cni removed")
}

var errCrash = errors.New("crash")

// crashAt makes the nth change, and all after it, not happen.
func crashAt(o *Options, n int) {
	o.before = func(Action, string) error {
		if n--; n < 0 {
			return errCrash
		}
		return nil
	}
}

// Wherever it is cut off, the runtime has a configuration whose plugin is there, and doing it again ends as if it had
// not been cut off.
func TestCrashBetweenSteps(t *testing.T) {
	for n := range 8 {
		o := node(t)
		o.Replace = true
		conf(t, o, "00-a.conflist", theirs)
		conf(t, o, "01-b.conflist", theirs)
		before := files(t, o)
		for _, do := range []func() ([]Step, error){o.Install, o.Remove} {
			crashAt(o, n)
			_, err := do()
			if err != nil && !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			usable(t, o)
			o.before = nil
			_, err = do()
			must(t, err)
			usable(t, o)
		}
		if after := files(t, o); !maps.Equal(before, after) {
			t.Errorf("crash at %d: %v, was %v", n, after, before)
		}
	}
}

// usable: there is a configuration, each is whole, and the plugin of ours is there.
func usable(t *testing.T, o *Options) {
	t.Helper()
	paths, err := libcni.ConfFiles(o.ConfDir, []string{".conf", ".conflist", ".json"})
	must(t, err)
	if len(paths) == 0 {
		t.Error("no configuration")
	}
	for _, path := range paths {
		list, err := libcni.NetworkConfFromFile(path)
		must(t, err)
		if !names(list) {
			continue
		}
		if info, err := os.Stat(filepath.Join(o.BinDir, PluginName)); err != nil || info.Mode() != 0o755 {
			t.Errorf("%s names a plugin that is not there: %v", path, err)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	o := node(t)
	o.Replace = true
	conf(t, o, "00-a.conflist", theirs)
	before := files(t, o)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			one := *o
			do := one.Install
			if i%2 == 1 {
				do = one.Remove
			}
			if _, err := do(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	usable(t, o)
	_, err := o.Install()
	must(t, err)
	expect(t, o, PluginName, o.ConfName, "00-a.conflist.viaduct-saved")
	_, err = o.Remove()
	must(t, err)
	if after := files(t, o); !maps.Equal(before, after) {
		t.Errorf("%v, was %v", after, before)
	}
}

// mount puts a tmpfs on the directory.
func mount(t *testing.T, dir string, flags uintptr, data string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	must(t, unix.Mount("tmpfs", dir, "tmpfs", flags, data))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
}

func TestFullAndReadOnly(t *testing.T) {
	for _, tt := range []struct {
		name  string
		dir   func(o *Options) string
		flags uintptr
		data  string
		want  error
		step  string
		files []string
	}{
		{"no space for the plugin", func(o *Options) string { return o.BinDir }, 0, "size=64k", unix.ENOSPC,
			"install plugin: ", nil},
		{"plugins are read-only", func(o *Options) string { return o.BinDir }, unix.MS_RDONLY, "", unix.EROFS,
			"install plugin: ", nil},
		{"configurations are read-only", func(o *Options) string { return o.ConfDir }, unix.MS_RDONLY, "", unix.EROFS,
			"install configuration: ", []string{PluginName}},
		{"no more files for configurations", func(o *Options) string { return o.ConfDir }, 0, "nr_inodes=1",
			unix.ENOSPC, "install configuration: ", []string{PluginName}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := node(t)
			mount(t, tt.dir(o), tt.flags, tt.data)
			_, err := o.Install()
			if !errors.Is(err, tt.want) || !strings.HasPrefix(err.Error(), tt.step) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			expect(t, o, tt.files...)
		})
	}
}

func TestCommand(t *testing.T) {
	o := node(t)
	conf(t, o, "00-a.conflist", theirs)
	run, output := "/run/viaduct", "text"
	execute := func(args ...string) string {
		var out bytes.Buffer
		root := &cobra.Command{Use: "viaduct"}
		root.AddCommand(Command(&run, &output))
		root.SetOut(&out)
		root.SetArgs(append([]string{"install", "--plugin", o.Plugin, "--bin-dir", o.BinDir, "--conf-dir", o.ConfDir},
			args...))
		must(t, root.Execute())
		return out.String()
	}
	if got := execute(); !strings.Contains(got, "/bin/viaduct-cni: installed\n") ||
		!strings.Contains(got, "00-a.conflist: comes first: the runtime takes it instead; --replace sets it aside\n") {
		t.Errorf("text: %s", got)
	}
	output = "json"
	if got := execute("--remove"); !strings.HasPrefix(got, `{"steps":[{"file":`) ||
		!strings.Contains(got, `/bin/viaduct-cni","action":"removed"}`) {
		t.Errorf("json: %s", got)
	}
}

// Host ports are viaduct-cni's own, whatever plugins the runtime has: two that map them would both do so.
func TestHostPorts(t *testing.T) {
	o := node(t)
	must(t, os.WriteFile(filepath.Join(o.BinDir, "portmap"), []byte("x"), 0o755))
	_, err := o.Install()
	must(t, err)
	list, err := libcni.NetworkConfFromBytes([]byte(files(t, o)[o.ConfName]))
	must(t, err)
	if len(list.Plugins) != 1 || !list.Plugins[0].Network.Capabilities["portMappings"] {
		t.Errorf("plugins %v", list.Plugins)
	}
}
