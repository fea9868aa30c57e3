// SPDX-License-Identifier: Apache-2.0

package cyclonus

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/viaduct-net/viaduct/internal/policytest/engine"
)

// The pods of cyclonus' own runs: three in each of three namespaces, with all protocols at two ports.
var (
	namespaces = []string{"x", "y", "z"}
	podNames   = []string{"a", "b", "c"}
	ports      = []int{80, 81}
	protocols  = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
)

// addressFormats are of a pod's address: by the last digits, blocks around one pod's hold some of the others.
var addressFormats = map[string]string{"IPv4": "10.244.1.%d", "IPv6": "fd00:244::%x"}

// What there is at least: were the cases left out, nothing would be compared.
const fewestCases, fewestCells = 230, 240_000

func TestCases(t *testing.T) {
	for family, format := range addressFormats {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			tally := newTally()
			podIP := newState(t, format).pod("z", "c").IP
			cases := generator.NewTestCaseGenerator(true, podIP, namespaces, nil, nil).GenerateAllTestCases()
			for i, c := range cases {
				s := newState(t, format)
				for j, step := range c.Steps {
					for _, action := range step.Actions {
						s.act(action)
					}
					s.compare(tally, fmt.Sprintf("case %d (%s), step %d", i+1, c.Description, j+1), step.Probe)
				}
				tally.updates += s.engine.Updates
			}
			tally.report(t)
			t.Logf("%d cases: %s", len(cases), tally)
			if len(cases) < fewestCases || tally.cells < fewestCells {
				t.Errorf("%d cases with %d cells", len(cases), tally.cells)
			}
			if itself := differences[0].name; len(tally.met) != 1 || tally.met[itself] == 0 {
				t.Errorf("the cases differ in %v, and are known to in %q", tally.met, itself)
			}
		})
	}
}

// state is the cluster that a case's steps change.
type state struct {
	t         *testing.T
	format    string
	addresses int // given out
	resources *probe.Resources
	policies  []*networkingv1.NetworkPolicy
	engine    *engine.Engine // the node where all the pods are; each step is a change to it
}

func newState(t *testing.T, format string) *state {
	s := &state{t: t, format: format, resources: &probe.Resources{Namespaces: map[string]map[string]string{}}}
	for _, namespace := range namespaces {
		s.resources.Namespaces[namespace] = labeled(namespace, map[string]string{"ns": namespace})
		for _, name := range podNames {
			pod := probe.NewDefaultPod(namespace, name, ports, protocols, false, "")
			pod.IP = s.address()
			s.resources.Pods = append(s.resources.Pods, pod)
		}
	}
	var err error
	s.engine, err = engine.New(s.cluster(), node)
	s.must(err)
	return s
}

// address is the next pod's: some are in the /28 of others, some in the /24 alone.
func (s *state) address() string {
	s.addresses++
	return fmt.Sprintf(s.format, s.addresses*5)
}

// labeled adds the label that the API server gives every namespace.
func labeled(name string, labels map[string]string) map[string]string {
	labels = maps.Clone(labels)
	labels[corev1.LabelMetadataName] = name
	return labels
}

func (s *state) pod(namespace, name string) *probe.Pod {
	pod, err := s.resources.GetPod(namespace, name)
	s.must(err)
	return pod
}

func (s *state) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// act does what a step asks for.
func (s *state) act(a *generator.Action) {
	var err error
	r := s.resources
	switch {
	case a.CreatePolicy != nil:
		s.policies = append(s.policies, a.CreatePolicy.Policy)
	case a.UpdatePolicy != nil:
		s.policies[s.policy(a.UpdatePolicy.Policy.Namespace, a.UpdatePolicy.Policy.Name)] = a.UpdatePolicy.Policy
	case a.DeletePolicy != nil:
		i := s.policy(a.DeletePolicy.Namespace, a.DeletePolicy.Name)
		s.policies = slices.Delete(s.policies, i, i+1)
	case a.CreateNamespace != nil:
		name := a.CreateNamespace.Namespace
		s.resources, err = r.CreateNamespace(name, labeled(name, a.CreateNamespace.Labels))
	case a.SetNamespaceLabels != nil:
		name := a.SetNamespaceLabels.Namespace
		s.resources, err = r.UpdateNamespaceLabels(name, labeled(name, a.SetNamespaceLabels.Labels))
	case a.DeleteNamespace != nil:
		s.resources, err = r.DeleteNamespace(a.DeleteNamespace.Namespace)
	case a.CreatePod != nil:
		if s.resources, err = r.CreatePod(a.CreatePod.Namespace, a.CreatePod.Pod, a.CreatePod.Labels); err == nil {
			s.pod(a.CreatePod.Namespace, a.CreatePod.Pod).IP = s.address()
		}
	case a.SetPodLabels != nil:
		s.resources, err = r.SetPodLabels(a.SetPodLabels.Namespace, a.SetPodLabels.Pod, a.SetPodLabels.Labels)
	case a.DeletePod != nil:
		s.resources, err = r.DeletePod(a.DeletePod.Namespace, a.DeletePod.Pod)
	default:
		s.t.Fatalf("an action that is not known: %+v", a)
	}
	s.must(err)
}

func (s *state) policy(namespace, name string) int {
	s.t.Helper()
	i := slices.IndexFunc(s.policies, func(p *networkingv1.NetworkPolicy) bool {
		return p.Namespace == namespace && p.Name == name
	})
	if i < 0 {
		s.t.Fatalf("there is no NetworkPolicy %s/%s", namespace, name)
	}
	return i
}
