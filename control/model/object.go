// SPDX-License-Identifier: Apache-2.0

// Package model is desired state as people write it: objects decoded from manifests, strictly, each with the place
// that it came from. It reads no files and knows no dataplane.
package model

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
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

// String returns "Route a" or "Pod default/a", as a line of UTF-8: what was refused for its name has a key too.
func (k Key) String() string {
	if k.Name == "" {
		return line(k.Kind) // of a document that does not say more
	}
	if k.Kind == "" {
		k.Kind = "object"
	}
	if k.Namespace == "" {
		return line(k.Kind + " " + k.Name)
	}
	return line(k.Kind + " " + k.Namespace + "/" + k.Name)
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
	File     string // relative to the source's root, any bytes; empty when the source has no files
	Line     int    // of the document's first line of content, from 1; 0 when there are no lines
	Document int    // within the file, from 1
}

// String returns "routes.yaml:12", or the empty string for no place. It is a line of UTF-8, whatever the file's name.
func (p Place) String() string {
	if p.Line == 0 {
		return line(p.File)
	}
	return fmt.Sprintf("%s:%d", line(p.File), p.Line)
}

// Object is one object of desired state. It is immutable once decoded.
type Object struct {
	Key    Key
	Place  Place
	Labels map[string]string
	// Generation is the API server's count of changes of the spec; 0 where there is none.
	Generation int64
	// UID tells the object from an earlier one of its key, where the source knows: one that was deleted and made again
	// is another, of which everything is to be said anew. Empty where there is none.
	UID string
	// Spec is *NodeConfig, *Route, *Pod, *Namespace, *Node, *Service, *EndpointSlice, *ServiceCIDR, *Policy for
	// NetworkPolicies and ClusterNetworkPolicies, or Raw for a kind that nothing is compiled of.
	Spec any
	// Complaints are what of it does not count, in the order in which it was found.
	Complaints []Complaint
}

// Same says whether two objects are equal but for their place and generation: there is nothing to compile then.
func (o *Object) Same(p *Object) bool {
	return o.Key == p.Key && maps.Equal(o.Labels, p.Labels) && slices.Equal(o.Complaints, p.Complaints) &&
		reflect.DeepEqual(o.Spec, p.Spec)
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
