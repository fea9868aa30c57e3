// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// whole is an object of one of our kinds.
type whole[Spec any] struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
	Spec       Spec           `json:"spec"`
	Status     map[string]any `json:"status"`
}

// strict decodes JSON into the struct that to points at. Unlike encoding/json it tells upper from lower case, and
// names the whole path of a field that is not known or has the wrong type.
func strict(text []byte, to any) (field, reason string) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // 64-bit integers stay exact
	var tree map[string]any
	if err := dec.Decode(&tree); err != nil {
		return "", err.Error()
	}
	if tree["spec"] == nil {
		return "spec", "must be said"
	}
	if field, reason := fits("", tree, reflect.TypeOf(to).Elem()); reason != "" {
		return field, reason
	}
	if err := json.Unmarshal(text, to); err != nil {
		return "", strings.TrimPrefix(err.Error(), "json: ")
	}
	return "", ""
}

// fits compares a value with the type that it shall be decoded into. A null fits everything, as "not said".
func fits(path string, value any, t reflect.Type) (field, reason string) {
	if value == nil {
		return "", ""
	}
	switch t.Kind() {
	case reflect.Pointer:
		return fits(path, value, t.Elem())
	case reflect.Interface:
		return "", ""
	case reflect.Struct, reflect.Map:
		object, ok := value.(map[string]any)
		if !ok {
			return path, "an object is meant, not " + describe(value)
		}
		return fitsObject(path, object, t)
	case reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			return path, "a list is meant, not " + describe(value)
		}
		for i, element := range list {
			if field, reason := fits(index(path, i), element, t.Elem()); reason != "" {
				return field, reason
			}
		}
		return "", ""
	default:
		return path, fitsScalar(value, t)
	}
}

func fitsObject(path string, object map[string]any, t reflect.Type) (field, reason string) {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		field := strings.TrimPrefix(path+"."+name, ".")
		member, known := memberType(t, name)
		if !known {
			return field, "unknown field"
		}
		if field, reason := fits(field, object[name], member); reason != "" {
			return field, reason
		}
	}
	return "", ""
}

// memberType is the type of a map's elements, or of the struct's field with the name.
func memberType(t reflect.Type, name string) (reflect.Type, bool) {
	if t.Kind() == reflect.Map {
		return t.Elem(), true
	}
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("json") == name {
			return f.Type, true
		}
	}
	return nil, false
}

// fitsScalar knows the scalars that specs are made of: strings, booleans and int64.
func fitsScalar(value any, t reflect.Type) (reason string) {
	ok, meant := false, t.String()
	switch t.Kind() {
	case reflect.String:
		_, ok = value.(string)
	case reflect.Bool:
		_, ok = value.(bool)
		meant = "true or false"
	case reflect.Int64:
		meant = "an integer"
		if n, isNumber := value.(json.Number); isNumber {
			_, err := n.Int64()
			ok = err == nil
		}
	}
	if ok {
		return ""
	}
	return fmt.Sprintf("%s is meant, not %s", meant, describe(value))
}

func describe(value any) string {
	switch v := value.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case bool: // YAML 1.1 reads y, no, on and the like so
		return fmt.Sprintf("%t (in quotes it is text)", v)
	case string:
		if len(v) > 64 {
			v = v[:64]
		}
		return fmt.Sprintf("%q", v)
	default:
		return fmt.Sprint(v)
	}
}
