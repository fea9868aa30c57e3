// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// What the API server lets be a name or a label (k8s.io/apimachinery/pkg/util/validation), which sources without one
// are held to as well: names and labels are in every snapshot, in logs, and in paths.

// maxLabels bounds the labels of an object, in bytes of keys and values: identities have a copy of them.
const maxLabels = 64 << 10

// checkNames checks the name, the namespace and the labels.
func (c *checker) checkNames(k Key, labels map[string]string) {
	c.check(pathSegment(k.Name), "metadata.name", "%q is not a name", k.Name)
	c.check(k.Namespace == "" || dnsLabel(k.Namespace), "metadata.namespace", "%q is not a namespace's name", k.Namespace)
	c.checkLabels("metadata.labels", labels)
}

// checkLabels complains about the first label, by key, that is none.
func (c *checker) checkLabels(field string, labels map[string]string) {
	var bad []string
	size := 0
	for k, v := range labels {
		if !qualifiedName(k) || v != "" && !word(v) {
			bad = append(bad, k)
		}
		size += len(k) + len(v)
	}
	if len(bad) > 0 {
		k := slices.Min(bad)
		c.check(qualifiedName(k), field, "%q is not a label's key", k)
		c.check(false, field, "%q is not a label's value", labels[k])
	}
	c.check(size <= maxLabels, field, "%d bytes of labels, more than %d", size, maxLabels)
}

// pathSegment: the names of some kinds are no DNS names ("system:node"), but all stand in a URL.
func pathSegment(s string) bool {
	return s != "" && len(s) <= 253 && s != "." && s != ".." && utf8.ValidString(s) && printable(s) &&
		!strings.ContainsAny(s, "/%")
}

// qualifiedName says whether s is "name" or "dns.subdomain/name".
func qualifiedName(s string) bool {
	prefix, name, found := strings.Cut(s, "/")
	if !found {
		return word(s)
	}
	return dnsSubdomain(prefix) && word(name)
}

// word says whether s is 1 to 63 letters, digits, "-", "_" and ".", of which the first and last are no marks.
func word(s string) bool {
	return len(s) <= 63 && framed(s, func(b byte) bool {
		return lowerOrDigit(b) || 'A' <= b && b <= 'Z'
	}, "-_.")
}

// dnsLabel says whether s is a label of RFC 1123, in lower case.
func dnsLabel(s string) bool { return len(s) <= 63 && framed(s, lowerOrDigit, "-") }

// dnsSubdomain says whether s is such labels, of any length each, with dots between them.
func dnsSubdomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !framed(label, lowerOrDigit, "-") {
			return false
		}
	}
	return true
}

// framed says whether s is not empty, begins and ends with a letter, and has letters and marks between.
func framed(s string, letter func(byte) bool, marks string) bool {
	for i := range len(s) {
		inner := 0 < i && i < len(s)-1
		if !letter(s[i]) && !(inner && strings.IndexByte(marks, s[i]) >= 0) {
			return false
		}
	}
	return s != ""
}

func lowerOrDigit(b byte) bool { return 'a' <= b && b <= 'z' || '0' <= b && b <= '9' }

// foreignKind returns the Key.Kind of a kind that is not known: those of other groups may have the names of ours.
func foreignKind(apiVersion, kind string) (name, field, reason string) {
	group, version, found := strings.Cut(apiVersion, "/")
	if !found {
		group, version = "", apiVersion
	}
	switch {
	case !dnsLabel(strings.ToLower(kind)):
		return "", "kind", fmt.Sprintf("%q is not a kind", kind)
	case found && !dnsSubdomain(group), !dnsLabel(version):
		return "", "apiVersion", fmt.Sprintf("%q is not a group and version", apiVersion)
	case !found:
		return kind + "." + version, "", ""
	}
	field, reason = noPolicy(group, apiVersion, kind)
	return kind + "." + group, field, reason
}

// noPolicy refuses what was meant as a policy, by its group, and is none that is known: kept like other objects of
// which nothing is made, it would look as if it were enforced.
func noPolicy(group, apiVersion, kind string) (field, reason string) {
	of := slices.IndexFunc(kinds, func(k Kind) bool {
		return k.Name == kind && strings.HasPrefix(k.APIVersion, group+"/")
	})
	switch {
	case group != networkingGroup && group != policyGroup:
		return "", ""
	case of >= 0:
		return "apiVersion", fmt.Sprintf("%q is not known of this kind; %s is", apiVersion, kinds[of].APIVersion)
	case group == networkingGroup && slices.Contains(noPolicies, kind):
		return "", ""
	}
	return "kind", fmt.Sprintf("there is no kind %q in %s that anything is made of", kind, group)
}

const (
	networkingGroup = "networking.k8s.io"
	policyGroup     = "policy.networking.k8s.io"
)

// noPolicies are the other kinds of networkingGroup.
var noPolicies = []string{"Ingress", "IngressClass", "IPAddress", "ServiceCIDR"}
