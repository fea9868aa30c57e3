// SPDX-License-Identifier: Apache-2.0

// Package install puts the CNI plugin and its network configuration where the container runtime looks for them, and
// takes them away again.
//
// At every moment, and after a crash at any, the runtime finds whole files: the plugin is there before the
// configuration that names it, and a node that had a configuration is never without one.
//
// Files: command.go (the CLI), install.go (what is done, in its order), configuration.go, file.go.
package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// PluginName is the plugin's type in configurations, and so the name of its file.
const PluginName = "viaduct-cni"

// saved is what is put after the name of a configuration that is set aside. Runtimes read .conf, .conflist and .json.
const saved = ".viaduct-saved"

// Options is what to install, and where.
type Options struct {
	Plugin   string // the plugin's file
	BinDir   string // the runtime's directory of plugins; must exist
	ConfDir  string // the runtime's directory of configurations; must exist
	ConfName string // the configuration's name in it, ending in .conflist
	Conf     string // file with the configuration; empty: made from Run and Attach
	Run      string // run directory of the daemons
	Attach   string // "trunk" or "direct"
	Replace  bool   // set aside configurations that would be used instead

	before func(a Action, path string) error // for tests: runs before each change; an error is a crash
}

// Action is what was done with a file.
type Action string

// Actions.
const (
	Installed Action = "installed"
	Unchanged Action = "unchanged"   // was there with the same content
	SetAside  Action = "set aside"   // would have been used instead
	First     Action = "comes first" // is used instead, and was left
	Restored  Action = "restored"
	Removed   Action = "removed"
	Absent    Action = "absent" // nothing to remove
	Left      Action = "left"   // not removed, or not restored, for the reason in Detail
)

// Step is one file, and what was done with it.
type Step struct {
	File   string `json:"file"`
	Action Action `json:"action"`
	Detail string `json:"detail,omitempty"`
}

// Install installs the plugin, then the configuration, then sets aside what would be used instead. The steps are those
// that were done, also when it failed.
func (o *Options) Install() (steps []Step, err error) {
	conf, err := o.configuration()
	if err != nil {
		return nil, err
	}
	plugin, err := os.Open(o.Plugin)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no plugin %s: build %s, or name it by --plugin", o.Plugin, PluginName)
	} else if err != nil {
		return nil, fmt.Errorf("open plugin: %w", err)
	}
	defer func() { _ = plugin.Close() }()
	if info, err := plugin.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return nil, fmt.Errorf("%s is no plugin: it is not a file, or empty", o.Plugin)
	}
	unlock, err := o.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()

	step, err := o.put(filepath.Join(o.BinDir, PluginName), plugin, 0o755)
	if err != nil {
		return nil, fmt.Errorf("install plugin: %w", err)
	}
	steps = append(steps, step)
	if step, err = o.put(o.confPath(), bytes.NewReader(conf), 0o644); err != nil {
		return steps, fmt.Errorf("install configuration: %w", err)
	}
	return o.others(append(steps, step))
}

// Remove puts back what was set aside, then removes the configuration, if it is the plugin's, and the plugin.
func (o *Options) Remove() (steps []Step, err error) {
	if err := o.checkName(); err != nil {
		return nil, err
	}
	unlock, err := o.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if steps, err = o.restore(); err != nil {
		return steps, fmt.Errorf("restore configuration: %w", err)
	}
	step := Step{o.confPath(), Left, "it is not " + PluginName + "'s"}
	if ours(o.confPath()) {
		if step, err = o.remove(o.confPath()); err != nil {
			return steps, fmt.Errorf("remove configuration: %w", err)
		}
	}
	steps = append(steps, step)
	if step, err = o.remove(filepath.Join(o.BinDir, PluginName)); err != nil {
		return steps, fmt.Errorf("remove plugin: %w", err)
	}
	return append(steps, step), nil
}

func (o *Options) confPath() string { return filepath.Join(o.ConfDir, o.ConfName) }

// lock makes installers take turns, by a lock on the directory of configurations.
func (o *Options) lock() (unlock func(), err error) {
	for _, d := range []struct{ path, flag string }{{o.BinDir, "--bin-dir"}, {o.ConfDir, "--conf-dir"}} {
		if info, err := os.Stat(d.path); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("there is no directory %s: make it, or name the container runtime's by %s", d.path,
				d.flag)
		}
	}
	dir, err := os.Open(o.ConfDir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("lock %s: %w", o.ConfDir, err)
	}
	return func() { _ = dir.Close() }, nil
}

// others sets aside the configurations that go before this one, or says that they do.
func (o *Options) others(steps []Step) ([]Step, error) {
	names, err := o.earlier()
	if err != nil {
		return steps, err
	}
	for _, name := range names {
		path := filepath.Join(o.ConfDir, name)
		if !o.Replace {
			steps = append(steps, Step{path, First, "the runtime takes it instead; --replace sets it aside"})
			continue
		}
		if err := o.rename(SetAside, path, path+saved); err != nil {
			return steps, fmt.Errorf("set aside configuration: %w", err)
		}
		steps = append(steps, Step{path, SetAside, "as " + name + saved})
	}
	return steps, nil
}

// restore puts back what was set aside, unless there is another of its name since.
func (o *Options) restore() (steps []Step, err error) {
	entries, err := os.ReadDir(o.ConfDir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), saved)
		if !ok {
			continue
		}
		path := filepath.Join(o.ConfDir, name)
		if _, err := os.Lstat(path); err == nil {
			steps = append(steps, Step{path + saved, Left, name + " is there again"})
			continue
		}
		if err := o.rename(Restored, path+saved, path); err != nil {
			return steps, err
		}
		steps = append(steps, Step{path, Restored, ""})
	}
	return steps, nil
}
