// SPDX-License-Identifier: Apache-2.0

// Package cni is the plugin viaduct-cni: it makes a container's interface, asks control for what the interface is to
// be like, and undoes everything when a step fails. It speaks versions 0.3.1 to 1.1.0 of the CNI specification
// (https://github.com/containernetworking/cni/blob/main/SPEC.md).
//
// An ADD goes through the files in this order: config.go and args.go (what is asked), sandbox.go (the namespace),
// control.go (the daemon), device.go (the veth pair), ipam.go (addresses of a delegated plugin), pod.go (addresses and
// routes in the container), result.go; add.go holds them together. The container's end stays down until control has
// answered, so that no packet is sent that nobody judges.
//
// The plugin keeps nothing of its own. What it made it knows by the host device's name, which follows from the
// attachment's, and by that device's alias.
//
// Every start of a container waits for this program to start: what it imports is counted. Garbage is never collected:
// a command makes less of it than the collector begins with.
package cni

import (
	"context"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
)

// How long a command may take, and what undoes it afterwards. Runtimes wait for minutes, if they have a limit at all:
// kubelet's is two (--runtime-request-timeout).
const (
	within     = 20 * time.Second
	undoWithin = 5 * time.Second
)

// Run does what the environment and standard input ask, prints the result or the error, and ends the process with 1 if
// it failed.
func Run() {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add: command(add), Del: command(del), Check: command(check), GC: command(gc), Status: command(report),
	}, version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0"), "CNI plugin viaduct-cni")
}

func command(do func(context.Context, *skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		return do(ctx, args)
	}
}

// defaultRunDir is where control's socket is unless the configuration says otherwise.
const defaultRunDir = "/run/viaduct"
