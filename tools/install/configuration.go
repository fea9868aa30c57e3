// SPDX-License-Identifier: Apache-2.0

package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
)

var attachments = []string{"trunk", "direct"}

// configuration is the text to install: the file's, or one that is made.
func (o *Options) configuration() ([]byte, error) {
	if err := o.checkName(); err != nil {
		return nil, err
	}
	text, err := o.made()
	if o.Conf != "" {
		text, err = os.ReadFile(o.Conf)
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	list, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		return nil, fmt.Errorf("--conf %s is no network configuration list: %w", o.Conf, err)
	}
	if !names(list) {
		return nil, fmt.Errorf("--conf %s names no plugin of type %s", o.Conf, PluginName)
	}
	return text, nil
}

func (o *Options) checkName() error {
	if filepath.Base(o.ConfName) != o.ConfName || filepath.Ext(o.ConfName) != ".conflist" {
		return fmt.Errorf("--conf-name %q is no file name that ends in .conflist", o.ConfName)
	}
	return nil
}

// made is a configuration list. Runtimes before CNI 1.1 know no cniVersions and take cniVersion; the others take the
// newest of both.
func (o *Options) made() ([]byte, error) {
	if !slices.Contains(attachments, o.Attach) {
		return nil, fmt.Errorf("--attach %q is neither trunk nor direct", o.Attach)
	}
	if !filepath.IsAbs(o.Run) {
		return nil, fmt.Errorf("--run %q is not absolute: the runtime starts the plugin in a directory of its own", o.Run)
	}
	type plugin struct {
		Type         string          `json:"type"`
		RunDir       string          `json:"runDir,omitempty"`
		Attach       string          `json:"attach,omitempty"`
		Capabilities map[string]bool `json:"capabilities"`
	}
	plugins := []plugin{{PluginName, o.Run, o.Attach,
		map[string]bool{"portMappings": true, "bandwidth": true, "ips": true, "mac": true}}}
	text, err := json.MarshalIndent(struct {
		Version  string   `json:"cniVersion"`
		Versions []string `json:"cniVersions"`
		Name     string   `json:"name"`
		Plugins  []plugin `json:"plugins"`
	}{"1.0.0", []string{"1.0.0", "1.1.0"}, "viaduct", plugins}, "", "  ")
	return append(text, '\n'), err
}

// ours says whether the configuration is the plugin's, or not there.
func ours(path string) bool {
	text, err := os.ReadFile(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	list, err := libcni.NetworkConfFromBytes(text)
	return err == nil && names(list)
}

func names(list *libcni.NetworkConfigList) bool {
	return slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type == PluginName })
}

// earlier lists the configurations that go before this one: runtimes take the first by name that they can read
// (libcni.ConfFiles, sorted).
func (o *Options) earlier() ([]string, error) {
	paths, err := libcni.ConfFiles(o.ConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("list configurations: %w", err)
	}
	var earlier []string
	for _, path := range paths {
		if name := filepath.Base(path); name < o.ConfName {
			earlier = append(earlier, name)
		}
	}
	slices.Sort(earlier)
	return earlier, nil
}
