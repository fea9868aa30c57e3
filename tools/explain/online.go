// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/explain"
	"github.com/viaduct-net/viaduct/tools/show"
)

// online asks control where pods are, and the dataplane what it would do.
func online(ctx context.Context, client *show.Client, q *question) (judge, error) {
	for _, e := range []*end{&q.from, &q.to} {
		var err error
		switch e.kind {
		case byPod:
			err = e.locatePod(ctx, client)
		case byNode:
			err = e.locateNode(ctx, client)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.flag, err)
		}
	}
	if err := q.namePort(); err != nil {
		return nil, err
	}
	return func(ctx context.Context, src, dst netip.Addr) (*api.ExplainReply, error) {
		return client.Explain(ctx, &api.ExplainRequest{Source: src.String(), Destination: dst.String(),
			Protocol: explain.Protocol(q.proto), Port: uint32(q.port)})
	}, nil
}

func (e *end) locatePod(ctx context.Context, client *show.Client) error {
	pod, err := client.Pod(ctx, e.namespace, e.pod)
	if err != nil {
		return err
	}
	for _, b := range pod.Addresses {
		if a, ok := netip.AddrFromSlice(b); ok {
			e.add(a)
		}
	}
	e.ports = namedPorts(pod.Ports)
	if len(pod.Addresses) == 0 {
		return fmt.Errorf("%s has no address yet", e)
	}
	return nil
}

// locateNode finds a node's addresses among those that have identities, by what they come from.
func (e *end) locateNode(ctx context.Context, client *show.Client) error {
	reply, err := client.Identities(ctx, &api.IdentitiesRequest{})
	if err != nil {
		return err
	}
	origin := "Node " + e.node
	for _, i := range reply.Identities {
		if i.Kind != "node" {
			continue
		}
		for _, p := range i.Prefixes {
			prefix, err := netip.ParsePrefix(p.Prefix)
			if err == nil && (p.Origin == origin || strings.HasPrefix(p.Origin, origin+" (")) {
				e.add(prefix.Addr())
			}
		}
	}
	if e.addresses == ([families]netip.Addr{}) {
		return fmt.Errorf("no Node object %s with addresses is known", e.node)
	}
	return nil
}
