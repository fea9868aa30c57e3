// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// MaxObject is the size of the largest object that is read, in bytes of JSON; Kubernetes stores no larger ones.
const MaxObject = 3 << 20

// header is what every object has.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name       string            `json:"name"`
		Namespace  string            `json:"namespace"`
		Labels     map[string]string `json:"labels"`
		Generation int64             `json:"generation"`
	} `json:"metadata"`
}

// Decode reads a file of YAML documents, or of JSON, which is YAML. It returns the objects that are good, and one
// error for each document that is not; empty documents are neither. A file that cannot be split into documents
// gives the error alone for its rest.
func Decode(file string, data []byte) ([]*Object, []*Error) {
	docs := split(file, data)
	good, bad := make([][]*Object, len(docs)), make([][]*Error, len(docs))
	inParallel(len(docs), func(i int) { good[i], bad[i] = docs[i].decode() })
	return slices.Concat(good...), slices.Concat(bad...)
}

// inParallel calls f with 0 to n-1, on all CPUs where that is worth a goroutine.
func inParallel(n int, f func(i int)) {
	const worth = 8
	var next atomic.Int64
	var group sync.WaitGroup
	work := func() {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			f(int(i))
		}
	}
	for range min(runtime.GOMAXPROCS(0), n/worth) - 1 {
		group.Go(work)
	}
	work()
	group.Wait()
}

// document is the text of one object and where it stands.
type document struct {
	place Place
	text  []byte
}

// split cuts at lines that begin with the document separator "---" (YAML 1.2, 9.1.2), so that a document that does
// not parse costs only itself.
func split(file string, data []byte) []document {
	var docs []document
	d := document{place: Place{File: file, Document: 1}}
	first := 1 // the line on which the document's text begins
	flush := func() {
		if line, ok := contentLine(d.text); ok {
			d.place.Line = first + line
			docs = append(docs, d)
			d.place.Document++
		}
		d.text = nil
	}
	for number := 1; len(data) > 0; number++ {
		line := data
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line = data[:i+1]
		}
		data = data[len(line):]
		if rest, ok := separator(line); ok {
			flush()
			d.text, first = append([]byte(nil), rest...), number
			continue
		}
		d.text = append(d.text, line...)
	}
	flush()
	return docs
}

// separator says whether the line begins a document, and returns what stands behind the mark.
func separator(line []byte) (rest []byte, ok bool) {
	rest, ok = bytes.CutPrefix(line, []byte("---"))
	if !ok || len(rest) > 0 && !bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[0])) {
		return nil, false
	}
	if len(rest) == 0 {
		rest = []byte("\n")
	}
	return rest, true
}

// contentLine is the number of lines before the first that is neither empty, comment nor directive.
func contentLine(text []byte) (int, bool) {
	for i, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' && !bytes.Equal(line, []byte("...")) {
			return i, true
		}
	}
	return 0, false
}

func (d *document) decode() ([]*Object, []*Error) {
	err := checkAliases(d.text)
	var text []byte
	if err == nil {
		text, err = yaml.YAMLToJSONStrict(d.text) // strict: a key may not be repeated
	}
	if err != nil {
		return nil, []*Error{NewError(d.place, Key{}, "", oneLine(err))}
	}
	if items, ok := listed(text); ok {
		return d.decodeList(items)
	}
	o, refused := FromJSON(d.place, text)
	switch {
	case refused != nil:
		return nil, []*Error{refused}
	case o != nil:
		return []*Object{o}, nil
	}
	return nil, nil
}

// listed returns the items of a list of objects, as kubectl prints several: a v1 List, or a list of one kind.
func listed(text []byte) (items []json.RawMessage, ok bool) {
	var list struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	err := strictjson.UnmarshalCaseSensitivePreserveInts(text, &list)
	return list.Items, err == nil && strings.HasSuffix(list.Kind, "List") && list.Items != nil
}

// decodeList decodes the items of a list, each by itself.
func (d *document) decodeList(items []json.RawMessage) (objects []*Object, errs []*Error) {
	for i, item := range items {
		o, refused := FromJSON(d.place, item)
		if refused != nil {
			if refused.Key.Name == "" {
				refused.Field = line(strings.TrimSuffix(index("items", i)+"."+refused.Field, "."))
			}
			errs = append(errs, refused)
		} else if o != nil {
			objects = append(objects, o)
		}
	}
	return objects, errs
}

// FromJSON reads one object as JSON: a value of etcd, or a document. An empty document, null, is neither an object nor
// an error. Place is where it was read; the zero value when that has no name.
func FromJSON(place Place, text []byte) (*Object, *Error) { return fromJSON(&checker{}, place, text) }

// FromServer reads one object as an API server answers it. It is FromJSON, but for rules of policies that have what
// came into the API later: they fail closed, where a document that was written so is refused.
func FromServer(text []byte) (*Object, *Error) {
	return fromJSON(&checker{served: true}, Place{}, text)
}

func fromJSON(c *checker, place Place, text []byte) (*Object, *Error) {
	fail := func(k Key, field, reason string) (*Object, *Error) {
		return nil, NewError(place, k, field, reason)
	}
	if text = bytes.TrimSpace(text); len(text) == 0 || string(text) == "null" {
		return nil, nil
	}
	if len(text) > MaxObject {
		return fail(Key{}, "", fmt.Sprintf("object of %d bytes, more than %d", len(text), MaxObject))
	}
	var h header
	if err := strictjson.UnmarshalCaseSensitivePreserveInts(text, &h); err != nil {
		return fail(Key{}, "", notAnObject(err))
	}
	o := objectOf(h.Kind, h.Metadata.Namespace, h.Metadata.Name, h.Metadata.Labels, h.Metadata.Generation)
	o.Place = place
	if field, reason := o.identify(&h); reason != "" {
		return fail(o.Key, field, reason)
	}
	if field, reason := o.understand(c, h.APIVersion, text); reason != "" {
		return fail(o.Key, field, reason)
	}
	return o, nil
}

// objectOf returns an object without a spec. Its strings are those of other objects where they are equal: of tens of
// thousands of pods most labels are the same.
func objectOf(kind, namespace, name string, labels map[string]string, generation int64) *Object {
	o := &Object{Key: Key{Kind: intern(kind), Namespace: intern(namespace), Name: strings.Clone(name)}}
	o.Generation = generation
	if len(labels) > 0 {
		o.Labels = make(map[string]string, len(labels))
		for k, v := range labels {
			o.Labels[intern(k)] = intern(v)
		}
	}
	return o
}

func intern(s string) string { return unique.Make(s).Value() }

// notAnObject words the error of a header that does not decode; YAML takes y, no and 1.0 for other than text.
func notAnObject(err error) string {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		return fmt.Sprintf("%s: %s", wrong.Field, wrongType(wrong))
	}
	return "not a Kubernetes object"
}

func wrongType(wrong *json.UnmarshalTypeError) string {
	value := wrong.Value
	switch value {
	case "array":
		value = "a list"
	case "object":
		value = "an object"
	}
	reason := fmt.Sprintf("%s is meant, not %s", shape(wrong.Type), value)
	if wrong.Type.Kind() == reflect.String {
		reason += " (in quotes it is text)"
	}
	return reason
}

// shape is what a type of Go is written as in a document.
func shape(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return shape(t.Elem())
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "an integer"
	default:
		return t.String()
	}
}

// identify checks the header.
func (o *Object) identify(h *header) (field, reason string) {
	kind, known := KindOf(h.APIVersion, h.Kind)
	switch {
	case h.APIVersion == "":
		return "apiVersion", "must be said"
	case h.Kind == "":
		return "kind", "must be said"
	case !known && h.APIVersion == APIVersion:
		return "kind", fmt.Sprintf("there is no kind %q in %s", h.Kind, APIVersion)
	case strings.HasPrefix(h.APIVersion, "viaduct.dev/") && !known:
		return "apiVersion", fmt.Sprintf("%q is not known; %s is", h.APIVersion, APIVersion)
	case h.Metadata.Name == "":
		return "metadata.name", "must be said"
	case !known:
		if o.Key.Kind, field, reason = foreignKind(h.APIVersion, h.Kind); reason != "" {
			return field, reason
		}
	case !kind.Namespaced:
		o.Key.Namespace = ""
	case o.Key.Namespace == "":
		o.Key.Namespace = "default"
	}
	c := &checker{}
	c.checkNames(o.Key, h.Metadata.Labels)
	return c.field, c.reason
}

// understand decodes the spec of a kind of ours, and keeps any other object as it is.
func (o *Object) understand(c *checker, apiVersion string, text []byte) (field, reason string) {
	switch [2]string{apiVersion, o.Key.Kind} {
	case [2]string{APIVersion, "NodeConfig"}:
		var s whole[nodeConfigSpec]
		if field, reason := strict(text, &s); reason != "" {
			return field, reason
		}
		c.within("spec", func() { o.Spec = s.Spec.build(c) })
	case [2]string{APIVersion, "Route"}:
		var s whole[routeSpec]
		if field, reason := strict(text, &s); reason != "" {
			return field, reason
		}
		c.within("spec", func() { o.Spec = s.Spec.build(c) })
	case [2]string{"v1", "Pod"}:
		o.Spec = podOf(c, typed[corev1.Pod](c, text))
	case [2]string{"v1", "Namespace"}:
		o.Spec = namespaceOf(c, typed[corev1.Namespace](c, text))
		o.labelNamespace()
	case [2]string{"v1", "Node"}:
		o.Spec = nodeOf(c, typed[corev1.Node](c, text))
	case [2]string{"v1", "Service"}:
		o.Spec = serviceOf(c, typed[corev1.Service](c, text))
	case [2]string{"discovery.k8s.io/v1", "EndpointSlice"}:
		o.Spec = endpointSliceOf(c, typed[discoveryv1.EndpointSlice](c, text))
	case [2]string{"networking.k8s.io/v1", "ServiceCIDR"}:
		o.Spec = serviceCIDROf(c, typed[networkingv1.ServiceCIDR](c, text))
	case [2]string{"networking.k8s.io/v1", "NetworkPolicy"}:
		o.Spec = networkPolicyOf(c, typed[networkingv1.NetworkPolicy](c, text))
	case [2]string{"policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"}:
		o.Spec = clusterPolicy(c, text)
	default:
		o.Spec = Raw(text)
	}
	o.Complaints = c.complaints
	return c.field, c.reason
}
