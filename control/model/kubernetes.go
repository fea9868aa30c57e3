// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	strictjson "sigs.k8s.io/json"
)

// Kubernetes' kinds are read through the types of k8s.io/api, so that an object from an API server and a document
// take one path: JSON, the type, what we use of it.

// FromTyped returns the object that a *corev1.Pod, *corev1.Namespace, *corev1.Node, *corev1.Service,
// *discoveryv1.EndpointSlice, *networkingv1.NetworkPolicy or *networkingv1.ServiceCIDR is. It keeps nothing of what it
// is given.
func FromTyped(typed any) (*Object, *Error) {
	c := &checker{served: true}
	kind, meta, spec := understandTyped(c, typed)
	if meta == nil {
		return nil, NewError(Place{}, Key{}, "", fmt.Sprintf("a %T is no object of a known kind", typed))
	}
	o := objectOf(kind, meta.GetNamespace(), meta.GetName(), meta.GetLabels(), meta.GetGeneration())
	o.Spec, o.Complaints = spec, c.complaints
	if kind == "Namespace" {
		o.labelNamespace()
	}
	c.checkNames(o.Key, o.Labels)
	if c.reason != "" {
		return nil, NewError(o.Place, o.Key, c.field, c.reason)
	}
	return o, nil
}

func understandTyped(c *checker, typed any) (kind string, meta metav1.Object, spec any) {
	switch t := typed.(type) {
	case *corev1.Pod:
		return "Pod", t, podOf(c, t)
	case *corev1.Namespace:
		return "Namespace", t, namespaceOf(c, t)
	case *corev1.Node:
		return "Node", t, nodeOf(c, t)
	case *corev1.Service:
		return "Service", t, serviceOf(c, t)
	case *discoveryv1.EndpointSlice:
		return "EndpointSlice", t, endpointSliceOf(c, t)
	case *networkingv1.ServiceCIDR:
		return "ServiceCIDR", t, serviceCIDROf(c, t)
	case *networkingv1.NetworkPolicy:
		return "NetworkPolicy", t, networkPolicyOf(c, t)
	}
	return "", nil, nil
}

// typed decodes a document of a kind that is understood into the type of k8s.io/api.
func typed[T any](c *checker, text []byte) *T {
	t := new(T)
	unknown, err := strictjson.UnmarshalStrict(text, t)
	if err == nil && len(unknown) > 0 {
		err = unknown[0]
	}
	if err != nil {
		field, reason := wordStrict(err)
		c.check(false, field, "%s", reason)
	}
	return t
}

var strictField = regexp.MustCompile(`^(unknown|duplicate) field "(.*)"$`)

// wordStrict takes the field out of an error of sigs.k8s.io/json.
func wordStrict(err error) (field, reason string) {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return wrong.Field, wrongType(wrong)
	}
	if m := strictField.FindStringSubmatch(err.Error()); m != nil {
		return m[2], m[1] + " field"
	}
	return "", err.Error()
}
