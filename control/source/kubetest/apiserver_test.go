// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"flag"
	"fmt"
	"io"
	"os"
	"testing"

	"k8s.io/klog/v2"
)

// api is the API server of all tests; each has namespaces and names of its own.
var api *server

func TestMain(m *testing.M) { os.Exit(withServer(m)) }

func withServer(m *testing.M) int {
	var level flag.FlagSet
	klog.InitFlags(&level)
	_ = level.Set("logtostderr", "false")
	_ = level.Set("stderrthreshold", "FATAL")
	klog.SetOutput(io.Discard)
	dir, err := os.MkdirTemp("", "kubetest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if api, err = start(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := m.Run()
	if err := api.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}
