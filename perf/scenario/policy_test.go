// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
)

func policyOf(t *testing.T, subjects ...string) *Policy {
	t.Helper()
	c := comparison(t, subjects...)
	return &Policy{
		Subjects: subjects, Programs: c.Programs, Counts: []int{2, 300}, Rules: 2, Pods: 30, Measures: PolicyMeasures(),
		Changes: 3, Flows: 50, Duration: 200 * time.Millisecond, Runs: 1, Progress: t.Output(),
	}
}

// TestPolicy takes all measures of the kernel's filters, whose rules let pass what is measured and nothing else.
func TestPolicy(t *testing.T) {
	p := policyOf(t, "nft-set", "nft", "iptables")
	var doc report.Document
	if err := p.Run(context.Background(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, subject := range p.Subjects {
		for _, metric := range []string{"udp throughput", "rr latency p99", "crr transactions"} {
			for _, name := range []string{"policy/2", "policy/300"} {
				if median(&doc, name, subject, metric) <= 0 {
					t.Errorf("no %s of %s in %s", metric, subject, name)
				}
			}
			if median(&doc, "policy/300", subject, metric+"/policy/2") <= 0 {
				t.Errorf("no scaling of %s of %s", metric, subject)
			}
		}
	}
	if median(&doc, "policy/300", "nft-set", "crr transactions/nft") <= 0 {
		t.Error("no ratio of nft-set to nft")
	}
}

// TestPolicyMustBeInForce: a subject that lets everything pass is no subject.
func TestPolicyMustBeInForce(t *testing.T) {
	r := &Comparison{wired: true, Rig: rig.Options{Queues: 1, MTU: 1500}}
	comparison(t)
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_, err := r.once(ctx, "kernel", func(ctx context.Context, r *rig.Rig, _ peer.Subject) ([]Sample, error) {
		return nil, refuses(ctx, r)
	})
	if err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("error is %v", err)
	}
}

func TestPolicyRefusesWhatCannotBeMeasured(t *testing.T) {
	good := Policy{Subjects: []string{"nft"}, Counts: []int{1}, Rules: 1, Pods: 1, Measures: []string{"rr"}, Changes: 1,
		Flows: 1, Duration: time.Second, Runs: 1}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Policy){
		func(p *Policy) { p.Subjects = []string{"kernel"} }, func(p *Policy) { p.Counts = []int{10, 2} },
		func(p *Policy) { p.Counts = nil }, func(p *Policy) { p.Rules = 0 }, func(p *Policy) { p.Pods = 0 },
		func(p *Policy) { p.Measures = []string{"tcp"} }, func(p *Policy) { p.Flows = maxEstablished + 1 },
		func(p *Policy) { p.Changes = 0 }, func(p *Policy) { p.Duration = 0 },
	} {
		p := good
		change(&p)
		if p.Validate() == nil {
			t.Errorf("%+v was taken", p)
		}
	}
}
