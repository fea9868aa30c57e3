// SPDX-License-Identifier: Apache-2.0

package model

import (
	"maps"
	"os"
	"reflect"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"
)

// schema is what the test knows of an OpenAPI schema.
type schema struct {
	Type       string             `json:"type"`
	Properties map[string]*schema `json:"properties"`
	Items      *schema            `json:"items"`
}

// The definitions for Kubernetes have the fields that documents may have: neither more nor fewer, with the same types.
func TestDefinitionsHaveOurFields(t *testing.T) {
	for file, spec := range map[string]any{"nodeconfigs.yaml": nodeConfigSpec{}, "routes.yaml": routeSpec{}} {
		text, err := os.ReadFile("../../deploy/crds/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var definition struct {
			Spec struct {
				Versions []struct {
					Name   string
					Schema struct{ OpenAPIV3Schema *schema }
				}
			}
		}
		if err := yaml.Unmarshal(text, &definition); err != nil {
			t.Fatal(err)
		}
		if len(definition.Spec.Versions) != 1 {
			t.Fatalf("%s: %d versions", file, len(definition.Spec.Versions))
		}
		compareFields(t, file, definition.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"], reflect.TypeOf(spec))
	}
}

func compareFields(t *testing.T, path string, s *schema, of reflect.Type) {
	t.Helper()
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	want := map[reflect.Kind]string{reflect.Struct: "object", reflect.Map: "object", reflect.Slice: "array",
		reflect.String: "string", reflect.Bool: "boolean", reflect.Int64: "integer"}[of.Kind()]
	if s == nil || s.Type != want {
		t.Errorf("%s: the definition has %+v, documents %s", path, s, want)
		return
	}
	switch of.Kind() {
	case reflect.Slice:
		compareFields(t, path+"[]", s.Items, of.Elem())
	case reflect.Struct:
		fields := map[string]reflect.Type{}
		for i := range of.NumField() {
			fields[of.Field(i).Tag.Get("json")] = of.Field(i).Type
		}
		names := func(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }
		ours, theirs := map[string]bool{}, map[string]bool{}
		for name := range fields {
			ours[name] = true
		}
		for name := range s.Properties {
			theirs[name] = true
		}
		if !maps.Equal(ours, theirs) {
			t.Errorf("%s: the definition has %v, documents %v", path, names(theirs), names(ours))
			return
		}
		for name, field := range fields {
			compareFields(t, path+"."+name, s.Properties[name], field)
		}
	}
}
