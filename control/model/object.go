// SPDX-License-Identifier: Apache-2.0

// Package model is desired state as people write it: objects decoded from manifests, strictly, each with the place
// that it came from. It reads no files and knows no dataplane.
package model

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"strings"
)

// APIVersion is the group and version of the kinds that are Viaduct's own.
const APIVersion = "viaduct.dev/v1alpha1"

// Key names an object: unique among those of one source.
type Key struct {
	Kind      string // "Route"; of two groups' kinds with one name only one is known
	Namespace string // empty for kinds without namespaces
	Name      string
}

// String returns "Route a" or "Pod default/a".
func (k Key) String() string {
	if k.Name == "" {
		return k.Kind // of a document that does not say more
	}
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// Compare orders keys by kind, namespace and name.
func (k Key) Compare(o Key) int {
	return cmp.Or(
		strings.Compare(k.Kind, o.Kind),
		strings.Compare(k.Namespace, o.Namespace),
		strings.Compare(k.Name, o.Name))
}

// Place is where an object was read.
type Place struct {
	File     string // relative to the source's root; empty when the source has no files
	Line     int    // of the document's first line of content, from 1; 0 when there are no lines
	Document int    // within the file, from 1
}

// String returns "routes.yaml:12", or the empty string for no place.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Object is one object of desired state. It is immutable once decoded.
type Object struct {
	Key    Key
	Place  Place
	Labels map[string]string
	// Generation is the API server's count of changes of the spec; 0 where there is none.
	Generation int64
	// Spec is *NodeConfig, *Route, *Pod, *Namespace, *Node, or Raw for a kind that nothing is compiled of.
	Spec any
}

// Same says whether two objects are equal but for their place and generation: there is nothing to compile then.
func (o *Object) Same(p *Object) bool {
	return o.Key == p.Key && maps.Equal(o.Labels, p.Labels) && reflect.DeepEqual(o.Spec, p.Spec)
}

// Raw is an object as JSON, kept for those who can read its kind.
type Raw []byte

// Origin says where the object came from, for reports: "Route a (routes.yaml:12)".
func (o *Object) Origin() string {
	if place := o.Place.String(); place != "" {
		return fmt.Sprintf("%s (%s)", o.Key, place)
	}
	return o.Key.String()
}

// Error is a document, an object or a field that was refused.
type Error struct {
	Place  Place
	Key    Key    // zero when the document did not say what it is
	Field  string // "spec.nextHops[0].via"; empty when the whole is meant
	Reason string // lower case, one line
}

// Error returns "routes.yaml:12 (document 2): Route a: spec.destination: not a prefix".
func (e *Error) Error() string {
	var b strings.Builder
	if place := e.Place.String(); place != "" {
		b.WriteString(place)
		if e.Place.Document > 0 {
			fmt.Fprintf(&b, " (document %d)", e.Place.Document)
		}
		b.WriteString(": ")
	}
	if e.Key != (Key{}) {
		fmt.Fprintf(&b, "%s: ", e.Key)
	}
	if e.Field != "" {
		fmt.Fprintf(&b, "%s: ", e.Field)
	}
	b.WriteString(e.Reason)
	return b.String()
}
