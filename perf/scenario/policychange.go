// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/process"
	"github.com/viaduct-net/viaduct/perf/cluster"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// policyChange times the way of one policy from its file into the dataplane's tables. Only viaduct's subjects have it.
type policyChange struct {
	*Policy
	subject *peer.Filtered
}

func (c *policyChange) trial(ctx context.Context, _ *rig.Rig, _ peer.Subject) ([]Sample, error) {
	network := c.subject.Network()
	if network == nil {
		return nil, nil
	}
	conn, err := process.Dial(network.Socket())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := api.NewDataplaneClient(conn)
	var took []time.Duration
	for revision := 1; revision <= c.Changes; revision++ {
		d, err := c.one(ctx, client, revision)
		if err != nil {
			return nil, err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	return []Sample{
		{"p50", "ms", milliseconds(took[len(took)/2])}, {"worst", "ms", milliseconds(took[len(took)-1])},
	}, nil
}

// one writes a policy with another port and waits until the tables in force have it.
func (c *policyChange) one(ctx context.Context, client api.DataplaneClient, revision int) (time.Duration, error) {
	policies := c.subject.Policies()
	i := rand.IntN(min(peer.Changeable, policies.Count))
	o := policies.Policy(i, revision)
	before, err := client.Status(ctx, &api.StatusRequest{})
	if err != nil {
		return 0, fmt.Errorf("ask the dataplane: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	start := time.Now()
	if err := c.subject.Network().Write(o.Name+".yaml", o.JSON); err != nil {
		return 0, err
	}
	for epoch := before.Epoch; ; {
		now, err := client.Status(ctx, &api.StatusRequest{})
		if err != nil {
			return 0, fmt.Errorf("wait for %s: %w", o.Name, err)
		}
		took := time.Since(start)
		if now.Epoch != epoch {
			epoch = now.Epoch
			if has, err := inForce(ctx, client, o.Name, policies.RevisionPort(i, revision)); err != nil || has {
				return took, err
			}
		}
		if err := sleep(ctx, 200*time.Microsecond); err != nil {
			return 0, fmt.Errorf("%s, which was written, is not in force: %w", o.Name, err)
		}
	}
}

// inForce says whether the policy in force has a rule with the port.
func inForce(ctx context.Context, client api.DataplaneClient, policy string, port uint16) (bool, error) {
	name := fmt.Sprintf("NetworkPolicy %s/%s", cluster.PolicyNamespace, policy)
	stream, err := client.Policies(ctx, &api.PoliciesRequest{Name: name})
	if err != nil {
		return false, fmt.Errorf("ask for %s: %w", name, err)
	}
	want, found := fmt.Sprint("TCP ", port), false
	for {
		reply, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return false, fmt.Errorf("ask for %s: %w", name, err)
		}
		for _, p := range reply.Policies {
			found = found || slices.ContainsFunc(p.Rules, func(r *api.PolicyRule) bool {
				return slices.ContainsFunc(r.Ports, func(s string) bool { return strings.HasPrefix(s, want) })
			})
		}
	}
}
