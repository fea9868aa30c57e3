// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/viaduct-net/viaduct/tools/exit"
)

// errInterrupted is a failure: not every step was seen to be right.
var errInterrupted = exit.Fail(errors.New("interrupted"))

// step is one thing shown. It returns a line of figures; its error says what was not as it should be.
type step struct {
	name string
	run  func(ctx context.Context, n *network) (string, error)
}

// stepTimeout bounds a step. Steps take far less.
const stepTimeout = 15 * time.Second

func steps() []step {
	return []step{
		{"ports", showPorts},
		{"echo from viaduct IPv4", echo(gateway4)},
		{"echo from viaduct IPv6", echo(gateway6)},
		{"echo IPv4", echo(wide4)},
		{"echo IPv6", echo(wide6)},
		{"UDP IPv4", datagrams(wide4)},
		{"UDP IPv6", datagrams(wide6)},
		{"TCP IPv4", stream(narrow4, 16<<20, 1000, 1460)},
		{"TCP IPv6", stream(narrow6, 16<<20, 1000, 1440)},
		{"jumbo TCP IPv4", stream(wide4, 64<<20, 50000, 59960)},
		{"jumbo TCP IPv6", stream(wide6, 64<<20, 50000, 59940)},
		{"jumbo UDP IPv4", jumbo(wide4)},
		{"jumbo UDP IPv6", jumbo(wide6)},
		{"fragments IPv4", fragments},
		{"traceroute IPv4", traceroute(wide4)},
		{"traceroute IPv6", traceroute(wide6)},
		{"path MTU IPv4", pathMTU(narrow4)},
		{"path MTU IPv6", pathMTU(narrow6)},
		{"routes under load", changeRoutes},
		{"pods wired", addPods},
		{"pod to pod UDP IPv4", between(podToPod, datagrams(podAddress(1, 4)))},
		{"pod to pod UDP IPv6", between(podToPod, datagrams(podAddress(1, 6)))},
		{"pod to pod TCP IPv4", between(podToPod, stream(podAddress(1, 4), 64<<20, 50000, 65495))},
		{"pod to pod TCP IPv6", between(podToPod, stream(podAddress(1, 6), 64<<20, 50000, 65475))},
		{"node to pod TCP", between(nodeToPod, stream(podAddress(1, 4), 16<<20, 1000, 65495))},
		{"pod to host TCP", between(podToRight, stream(wide4, 16<<20, 1000, 1460))},
		{"pod flow carried", between(podToPod, carriedFlow)},
		{"pod policy applied", between(podToPod, applyPolicy)},
		{"pod policy withdrawn", between(podToPod, withdrawPolicy)},
		{"service by its address", between(podToService, applyService)},
		{"service from the node", between(nodeToService, visitService(service4, service6, httpPort, dnsPort))},
		{"service by a node port", between(leftToService, visitService(node4, node6, httpNodePort, dnsNodePort))},
		{"service backend removed", between(podToService, removeBackend)},
		{"service without backend", between(podToService, removeBackends)},
		{"service removed", between(podToService, withdrawService)},
		{"forged sources", forge},
		{"pods removed", removePods},
		{"checksums", checksums},
		{"ledger", balance},
		{"stop", stop},
	}
}

// Run shows every step with the dataplane program at path, telling of each as it ends. The error says that there was
// nothing to show: the network could not be made, the dataplane not be started, or the context ended. In every case
// all is undone when Run returns.
func Run(ctx context.Context, path string, tell func(Result)) (_ *Report, err error) {
	start := time.Now()
	n, err := build(ctx, path)
	defer func() {
		if closeErr := n.close(); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", closeErr))
		}
	}()
	if err != nil {
		return nil, err
	}
	report := &Report{OK: true, Namespaces: n.inodes, Directory: n.directory}
	for _, s := range steps() {
		r := n.perform(ctx, s)
		if ctx.Err() != nil {
			return nil, errInterrupted
		}
		report.OK = report.OK && r.OK
		report.Steps = append(report.Steps, r)
		tell(r)
	}
	report.Seconds = time.Since(start).Seconds()
	return report, nil
}

// perform runs a step and closes the sockets that it opened, at the latest when its time is up.
func (n *network) perform(ctx context.Context, s step) Result {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	unblock := context.AfterFunc(ctx, n.closeSockets)
	start := time.Now()
	n.from, n.to = n.left, n.right
	detail, err := s.run(ctx, n)
	seconds := time.Since(start).Seconds()
	unblock()
	n.closeSockets()
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (after %v)", err, stepTimeout)
	}
	if err != nil {
		detail = err.Error()
	}
	return Result{Name: s.name, OK: err == nil, Detail: detail, Seconds: seconds}
}
