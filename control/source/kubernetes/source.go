// SPDX-License-Identifier: Apache-2.0

// Package kubernetes is the source that watches an API server, and writes the status of our objects to it.
//
// Each kind has a client-go reflector: a list, then a watch, and another list where the watch has lost its place (410
// Gone). Reflectors fill one mirror, which holds what is in force and nothing else of an object. There is one taker of
// what changes, so there is no shared informer, with a second copy of everything, between the two.
//
// The service account needs, as ClusterRole:
//
//	get, list, watch  namespaces, pods, nodes, services                        (core)
//	get, list, watch  endpointslices                                           (discovery.k8s.io)
//	get, list, watch  networkpolicies, servicecidrs                            (networking.k8s.io)
//	get, list, watch  clusternetworkpolicies                                   (policy.networking.k8s.io)
//	get, list, watch  nodeconfigs, routes                                      (viaduct.dev)
//	patch             nodeconfigs/status, routes/status                        (viaduct.dev)
package kubernetes

import (
	"context"
	"fmt"
	"sync"

	"github.com/go-logr/logr"
	"go.uber.org/zap"
	"k8s.io/klog/v2"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// Options say which API server, and for which node.
type Options struct {
	// Kubeconfig is the file that names the API server. When it is empty the pod's service account is used or, outside
	// of pods, what kubectl uses: $KUBECONFIG, ~/.kube/config.
	Kubeconfig string
	// Node is whose word statuses are.
	Node   string
	Logger *zap.Logger // nil: none
}

// Source watches an API server. Use New.
type Source struct {
	options Options
	mirror  *mirror
	status  *statusWriter
}

// New returns the source; nothing is read or reached before Run.
func New(options Options) *Source {
	if options.Logger == nil {
		options.Logger = zap.NewNop()
	}
	return &Source{
		options: options,
		mirror:  newMirror(),
		status:  newStatusWriter(options.Node, options.Logger),
	}
}

// String returns the source as --source has it.
func (s *Source) String() string {
	if s.options.Kubeconfig == "" {
		return "kubernetes"
	}
	return "kubernetes:" + s.options.Kubeconfig
}

// Publish implements source.Publisher.
func (s *Source) Publish(report source.Report) { s.status.publish(report) }

// Run implements source.Source. It runs once in a Source's life.
func (s *Source) Run(ctx context.Context, report func(source.Event)) error {
	config, err := restConfig(s.options.Kubeconfig)
	if err != nil {
		return fmt.Errorf("kubernetes: %w", err)
	}
	api, err := dial(config)
	if err != nil {
		return fmt.Errorf("kubernetes: %s: %w", config.Host, err)
	}
	defer api.close()
	var running sync.WaitGroup
	defer running.Wait()
	ctx, stop := context.WithCancel(klog.NewContext(ctx, logr.Discard())) // what is wrong is said as Trouble
	defer stop()
	for _, kind := range model.Kinds() {
		w := newWatcher(api, kind, s.mirror, s.status, s.options.Logger)
		running.Go(func() { w.run(ctx) })
	}
	running.Go(func() { s.status.run(ctx, api) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.mirror.changed:
		}
		if event, news := s.mirror.take(); news {
			report(event)
		}
	}
}
