// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/directory"
	"github.com/viaduct-net/viaduct/control/source/etcd"
	"github.com/viaduct-net/viaduct/control/source/kubernetes"
	"github.com/viaduct-net/viaduct/internal/process"
)

// Options is how control runs. Flags sets the defaults of all that it defines.
type Options struct {
	Run     string // directory of control.sock and the pid file
	State   string // directory of what outlives the process
	Source  string // "dir:PATH", "etcd:URL,…" or "kubernetes[:KUBECONFIG]"
	Node    string // name of the node; empty: see node
	Config  string // file with a NodeConfig that goes before the source's; empty: none
	Etcd    etcd.Options
	Metrics string    // address to serve metrics and probes on; empty: none
	Ready   io.Writer // gets the line "ready" once the source is in step; may be nil
	Logger  *zap.Logger
}

// Flags defines control's own flags: those of process.Flags, and --metrics, are not among them.
func (o *Options) Flags(s *pflag.FlagSet) {
	s.StringVar(&o.Source, "source", "",
		"where desired state comes from: dir:PATH, etcd:URL,… or kubernetes[:KUBECONFIG]")
	s.StringVar(&o.Node, "node", "",
		"name of this machine's Node and NodeConfig (default: $NODE_NAME, else the host's name)")
	s.StringVar(&o.Config, "config", "", "file with a NodeConfig that goes before the source's")
	o.Etcd.Flags(s)
}

// node says which node this is. In a directory that somebody wrote for this machine, the only NodeConfig is its own.
func (o *Options) node() (compile.Node, error) {
	name := cmp.Or(o.Node, os.Getenv("NODE_NAME"))
	if name != "" {
		return compile.Node{Name: name}, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return compile.Node{}, &process.SetUpError{Err: fmt.Errorf("host name: %w; say --node", err)}
	}
	return compile.Node{Name: name, Sole: strings.HasPrefix(o.Source, "dir:")}, nil
}

// open makes the source that Source names.
func (o *Options) open(node string) (source.Source, error) {
	kind, rest, _ := strings.Cut(o.Source, ":")
	switch {
	case kind == "dir" && rest != "":
		if info, err := os.Stat(rest); err != nil {
			return nil, fmt.Errorf("--source %s: no such directory", o.Source)
		} else if !info.IsDir() {
			return nil, fmt.Errorf("--source %s: not a directory", o.Source)
		}
		return directory.New(rest), nil
	case kind == "etcd" && rest != "":
		endpoints, err := etcd.Parse(o.Source)
		if err != nil {
			return nil, err
		}
		options := o.Etcd
		options.Endpoints, options.Node, options.Logger = endpoints, node, o.Logger
		return etcd.New(options)
	case kind == "kubernetes":
		return kubernetes.New(kubernetes.Options{Kubeconfig: rest, Node: node, Logger: o.Logger}), nil
	case o.Source == "":
		return nil, errors.New("say where desired state comes from: --source dir:PATH, etcd:URL,… or kubernetes")
	}
	// What follows the kind may hold a password.
	return nil, fmt.Errorf("--source: %q is no kind of source: use dir:PATH, etcd:URL,… or kubernetes[:KUBECONFIG]", kind)
}
