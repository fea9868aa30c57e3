// SPDX-License-Identifier: Apache-2.0

// Package deploy_test holds the manifests to what the API and the programs know.
package deploy_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/viaduct-net/viaduct/control/model"
)

// objects is what kubectl apply -k of the directory sends, by kind and name. Each is decoded strictly.
func objects(t *testing.T, dir string) map[string]any {
	t.Helper()
	c := exec.Command("go", "tool", "-modfile=tools.mod", "kustomize", "build", "deploy/"+dir)
	c.Dir = ".."
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("kustomize build: %v: %s", err, &stderr)
	}
	found := map[string]any{}
	for _, document := range strings.Split(string(out), "\n---\n") {
		var head struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			t.Fatal(err)
		}
		into := map[string]any{
			"Namespace": &corev1.Namespace{}, "ServiceAccount": &corev1.ServiceAccount{},
			"DaemonSet": &appsv1.DaemonSet{}, "ClusterRole": &rbacv1.ClusterRole{},
			"ClusterRoleBinding": &rbacv1.ClusterRoleBinding{}, "CustomResourceDefinition": &map[string]any{},
		}[head.Kind]
		if into == nil {
			t.Fatalf("%s %s is not expected", head.Kind, head.Metadata.Name)
		}
		if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
			t.Errorf("%s %s: %v", head.Kind, head.Metadata.Name, err)
		}
		found[head.Kind+" "+head.Metadata.Name] = into
	}
	return found
}

func daemonSet(t *testing.T, dir, name string) corev1.PodSpec {
	t.Helper()
	d, ok := objects(t, dir)["DaemonSet "+name].(*appsv1.DaemonSet)
	if !ok {
		t.Fatalf("%s has no DaemonSet %s", dir, name)
	}
	return d.Spec.Template.Spec
}

func containers(p corev1.PodSpec) []corev1.Container {
	return slices.Concat(p.InitContainers, p.Containers)
}

// Every program is one that is built, and takes the arguments that it is given.
func TestArguments(t *testing.T) {
	bin := t.TempDir()
	for dir, name := range map[string]string{"cluster": "viaduct", "uninstall": "viaduct-uninstall"} {
		for _, c := range containers(daemonSet(t, dir, name)) {
			if len(c.Command) == 0 {
				continue // pause
			}
			program := filepath.Base(c.Command[0])
			mains, _ := filepath.Glob("../*/cmd/" + program)
			if len(mains) != 1 || c.Command[0] != "/usr/bin/"+program {
				t.Errorf("%s: %s is not in the image", c.Name, c.Command[0])
				continue
			}
			build := exec.Command("go", "build", "-o", bin+"/", mains[0])
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			// Flags before --help are parsed, and nothing runs.
			args := append(slices.Clone(c.Args), "--help")
			if out, err := exec.Command(filepath.Join(bin, program), args...).CombinedOutput(); err != nil {
				t.Errorf("%s %q: %v: %s", program, args, err, out)
			}
		}
	}
}

func TestPrivileges(t *testing.T) {
	want := map[string][]corev1.Capability{
		"dataplane": {"NET_ADMIN", "NET_RAW", "BPF", "SYS_ADMIN", "IPC_LOCK", "SYS_NICE"},
	}
	for dir, name := range map[string]string{"cluster": "viaduct", "uninstall": "viaduct-uninstall"} {
		pod := daemonSet(t, dir, name)
		if pod.HostPID || pod.HostIPC || pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
			t.Errorf("%s: has the host's processes, or a token in every container", name)
		}
		for _, c := range containers(pod) {
			s := c.SecurityContext
			if s == nil || s.Privileged != nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem ||
				!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) ||
				!slices.Equal(s.Capabilities.Add, want[c.Name]) {
				t.Errorf("%s: %+v", c.Name, s)
			}
			token := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "token" })
			if token != (c.Name == "control") {
				t.Errorf("%s: has a token: %v", c.Name, token)
			}
		}
	}
}

// A pod is gone before the next one starts: two controls of one node would give out the same addresses, and a dataplane
// that has handed over would be started again.
func TestNoSurge(t *testing.T) {
	d := objects(t, "cluster")["DaemonSet viaduct"].(*appsv1.DaemonSet)
	r := d.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxSurge.IntValue() != 0 || r.MaxUnavailable.IntValue() != 1 {
		t.Errorf("rolling update %v", r)
	}
	for _, c := range containers(d.Spec.Template.Spec) {
		if slices.Contains(c.Args, "--take-over") || slices.Contains(c.Args, "--cleanup") {
			t.Errorf("%s has %q", c.Name, c.Args)
		}
	}
}

// The role is what control reads, no more and no less, and status of our own kinds.
func TestRole(t *testing.T) {
	role := objects(t, "cluster")["ClusterRole viaduct"].(*rbacv1.ClusterRole)
	got, want := map[string]string{}, map[string]string{
		"viaduct.dev/nodeconfigs/status": "patch", "viaduct.dev/routes/status": "patch",
	}
	for _, rule := range role.Rules {
		for _, resource := range rule.Resources {
			got[rule.APIGroups[0]+"/"+resource] = strings.Join(rule.Verbs, " ")
		}
	}
	for _, k := range model.Kinds() {
		group, _, _ := strings.Cut(k.APIVersion, "/")
		if group == "v1" {
			group = ""
		}
		want[group+"/"+k.Resource] = "get list watch"
	}
	for resource := range want {
		if got[resource] != want[resource] {
			t.Errorf("%s: may %q, needs %q", resource, got[resource], want[resource])
		}
		delete(got, resource)
	}
	if len(got) > 0 {
		t.Errorf("more than it needs: %v", got)
	}
}
