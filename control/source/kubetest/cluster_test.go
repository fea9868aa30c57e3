// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/viaduct-net/viaduct/control/model"
)

const definitions = "../../../deploy/crds"

// cluster is the API server as an administrator sees it.
type cluster struct {
	t      *testing.T
	client dynamic.Interface
}

func admin(t *testing.T) *cluster {
	t.Helper()
	client, err := dynamic.NewForConfig(api.config(api.address, token))
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, client: client}
}

var others = map[string]string{ // resources of kinds that are no desired state
	"CustomResourceDefinition": "customresourcedefinitions",
	"ClusterRole":              "clusterroles",
	"ClusterRoleBinding":       "clusterrolebindings",
}

func (c *cluster) of(o *unstructured.Unstructured) dynamic.ResourceInterface {
	c.t.Helper()
	gv, err := schema.ParseGroupVersion(o.GetAPIVersion())
	if err != nil {
		c.t.Fatal(err)
	}
	kind, known := model.KindOf(o.GetAPIVersion(), o.GetKind())
	if !known {
		kind.Resource = others[o.GetKind()]
	}
	resource := c.client.Resource(gv.WithResource(kind.Resource))
	if kind.Namespaced {
		return resource.Namespace(o.GetNamespace())
	}
	return resource
}

// apply makes the API server have the object, its status included, for the time of the test.
func (c *cluster) apply(o *unstructured.Unstructured) {
	c.t.Helper()
	ctx := context.Background()
	options := metav1.ApplyOptions{FieldManager: "test", Force: true}
	_, before := c.of(o).Get(ctx, o.GetName(), metav1.GetOptions{})
	status, hasStatus := o.Object["status"]
	hasStatus = hasStatus && o.GetKind() != "CustomResourceDefinition" // whose status is the server's to write
	body := o.DeepCopy()
	delete(body.Object, "status")
	if _, err := c.of(o).Apply(ctx, o.GetName(), body, options); err != nil {
		c.t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
	if hasStatus {
		got := c.get(o)
		got.Object["status"] = status
		if _, err := c.of(o).UpdateStatus(ctx, got, metav1.UpdateOptions{}); err != nil {
			c.t.Fatalf("status of %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	// Namespaces stay: no controller runs that would finish their deletion, and nothing can be made in them meanwhile.
	if apierrors.IsNotFound(before) && o.GetKind() != "CustomResourceDefinition" && o.GetKind() != "Namespace" {
		c.t.Cleanup(func() { c.remove(o) })
	}
}

// remove deletes the object, if it is there.
func (c *cluster) remove(o *unstructured.Unstructured) {
	c.t.Helper()
	now := int64(0)
	err := c.of(o).Delete(context.Background(), o.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now})
	if err != nil && !apierrors.IsNotFound(err) {
		c.t.Errorf("delete %s %s: %v", o.GetKind(), o.GetName(), err)
	}
}

func (c *cluster) get(o *unstructured.Unstructured) *unstructured.Unstructured {
	c.t.Helper()
	got, err := c.of(o).Get(context.Background(), o.GetName(), metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return got
}

// define installs our custom resource definitions, and waits until they are served.
func (c *cluster) define() {
	c.t.Helper()
	for _, name := range []string{"nodeconfigs.yaml", "routes.yaml"} {
		for _, o := range read(c.t, filepath.Join(definitions, name)) {
			c.apply(o)
			c.established(o)
		}
	}
}

func (c *cluster) established(definition *unstructured.Unstructured) {
	c.t.Helper()
	c.wait(definition.GetName(), func() bool { return c.served(definition) })
}

// wait looks until it is so.
func (c *cluster) wait(what string, so func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not within 20 seconds", what)
		}
	}
}

func (c *cluster) exists(o *unstructured.Unstructured) bool {
	_, err := c.of(o).Get(context.Background(), o.GetName(), metav1.GetOptions{})
	return err == nil
}

func (c *cluster) served(definition *unstructured.Unstructured) bool {
	group, _, _ := unstructured.NestedString(definition.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(definition.Object, "spec", "names", "plural")
	versions, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions")
	version := versions[0].(map[string]any)["name"].(string)
	_, err := c.client.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: plural}).
		List(context.Background(), metav1.ListOptions{})
	return err == nil
}

// read returns the objects of a file.
func read(t *testing.T, path string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

// parse returns the objects of YAML documents.
func parse(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096); ; {
		o := &unstructured.Unstructured{}
		switch err := d.Decode(o); {
		case errors.Is(err, io.EOF):
			return objects
		case err != nil:
			t.Fatal(err)
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

func parseOne(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	return parse(t, text)[0]
}
