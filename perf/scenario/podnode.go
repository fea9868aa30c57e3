// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// podNode is a node with a network in it, and the pods that were made for it.
type podNode struct {
	network *peer.Network
	in      *rig.Namespace
	pods    []*peer.Pod
}

func newPodNode(ctx context.Context, network string, programs peer.Programs) (*podNode, error) {
	of, err := peer.NewNetwork(network, programs)
	if err != nil {
		return nil, err
	}
	return startPodNode(ctx, of)
}

func startPodNode(ctx context.Context, network *peer.Network) (*podNode, error) {
	n := &podNode{network: network}
	var err error
	if n.in, err = rig.NewNamespace(); err != nil {
		return nil, err
	}
	if err := n.network.Start(ctx, n.in, nil); err != nil {
		return nil, errors.Join(err, n.in.Close())
	}
	return n, nil
}

func (n *podNode) name() string { return n.network.Name() }

// newPods makes namespaces. They stay until close: the kernel takes apart those that are let go in the background, and
// what is measured meanwhile would wait for it.
func (n *podNode) newPods(count int) ([]*peer.Pod, error) {
	first := len(n.pods)
	for range count {
		in, err := rig.NewNamespace()
		if err != nil {
			return nil, err
		}
		n.pods = append(n.pods, &peer.Pod{ID: fmt.Sprintf("%s-%d", n.name(), len(n.pods)), In: in})
	}
	return n.pods[first:], nil
}

// grow wires more pods, which stay.
func (n *podNode) grow(ctx context.Context, count int) error {
	pods, err := n.newPods(count)
	if err != nil {
		return err
	}
	return wire(ctx, n.network, pods)
}

// wire adds pods one by one.
func wire(ctx context.Context, network *peer.Network, pods []*peer.Pod) error {
	for _, p := range pods {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := network.Add(p); err != nil {
			return err
		}
	}
	return nil
}

// close ends the network and lets the namespaces go, with all devices in them.
func (n *podNode) close() error {
	errs := []error{n.network.Stop()}
	for _, p := range n.pods {
		errs = append(errs, p.In.Close())
	}
	return errors.Join(append(errs, n.in.Close())...)
}

// abreast runs an operation on all pods, so many at a time: how long all took, and half of them at most.
func abreast(width int, pods []*peer.Pod, run func(*peer.Pod) (time.Duration, error)) (all, median time.Duration,
	err error) {
	var (
		queue = make(chan int)
		times = make([]time.Duration, len(pods))
		errs  = make([]error, len(pods))
		wg    sync.WaitGroup
	)
	start := time.Now()
	for range width {
		wg.Go(func() {
			for i := range queue {
				times[i], errs[i] = run(pods[i])
			}
		})
	}
	for i := range pods {
		queue <- i
	}
	close(queue)
	wg.Wait()
	all = time.Since(start)
	slices.Sort(times)
	return all, times[len(times)/2], errors.Join(errs...)
}
