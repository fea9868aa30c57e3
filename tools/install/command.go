// SPDX-License-Identifier: Apache-2.0

package install

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// Command returns "viaduct install". run and output point at the values of --run and -o.
func Command(run, output *string) *cobra.Command {
	var o Options
	var remove, hold bool
	c := &cobra.Command{
		Use:   "install",
		Short: "Install the CNI plugin and its network configuration on this node, or remove them",
		Long: `Install the CNI plugin and its network configuration on this node, or remove them.

The plugin goes first, so that the container runtime never reads a configuration whose plugin is not there; both are
written aside, synced and renamed. Doing it again changes nothing.

The runtime takes the first configuration of its directory by name. One that goes before this one is said, and set
aside with --replace: renamed to NAME.viaduct-saved. --remove puts back what was set aside, then removes the
configuration, if it is this plugin's, and the plugin.

Both directories are the runtime's, and must be there. Exit status: 0 done, 2 not done.`,
		Example: `  viaduct install --bin-dir /host/opt/cni/bin --conf-dir /host/etc/cni/net.d --replace
  viaduct install --remove`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Run = *run
			do := o.Install
			if remove {
				do = o.Remove
			}
			steps, err := do()
			if writeErr := write(c.OutOrStdout(), *output, steps); err == nil {
				err = writeErr
			}
			if err == nil && hold {
				<-c.Context().Done()
			}
			return err
		},
	}
	s := c.Flags()
	s.StringVar(&o.Plugin, "plugin", beside(), "the plugin's file")
	s.StringVar(&o.BinDir, "bin-dir", "/opt/cni/bin", "the runtime's directory of plugins")
	s.StringVar(&o.ConfDir, "conf-dir", "/etc/cni/net.d", "the runtime's directory of network configurations")
	s.StringVar(&o.ConfName, "conf-name", "05-viaduct.conflist", "name of the configuration in it")
	s.StringVar(&o.Conf, "conf", "", "file with the configuration (default: made from --run and --attach)")
	s.StringVar(&o.Attach, "attach", "trunk", "how pods attach: trunk, or direct (XDP on the pod's own veth)")
	s.BoolVar(&o.Replace, "replace", false, "set aside configurations that would be used instead")
	s.BoolVar(&remove, "remove", false, "remove instead, and put back what was set aside")
	s.BoolVar(&hold, "hold", false, "stay until a signal comes when done, as containers of a DaemonSet have to")
	c.MarkFlagsMutuallyExclusive("conf", "attach")
	_ = c.MarkFlagDirname("bin-dir")
	_ = c.MarkFlagDirname("conf-dir")
	_ = c.RegisterFlagCompletionFunc("attach", cobra.FixedCompletions(attachments, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// beside is the plugin's file beside this program's.
func beside() string {
	self, err := os.Executable()
	if err != nil {
		return PluginName
	}
	return filepath.Join(filepath.Dir(self), PluginName)
}

func write(w io.Writer, output string, steps []Step) error {
	if output == "json" {
		return json.NewEncoder(w).Encode(map[string][]Step{"steps": append([]Step{}, steps...)})
	}
	for _, s := range steps {
		text := s.File + ": " + string(s.Action)
		if s.Detail != "" {
			text += ": " + s.Detail
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	return nil
}
