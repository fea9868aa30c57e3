// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"
)

// TestNamesAsTheAPIServer compares with the checks of k8s.io/apimachinery.
func TestNamesAsTheAPIServer(t *testing.T) {
	short := rapid.StringMatching(`[aZ9._/\-é\x00=]{0,6}`)
	long := rapid.Custom(func(t *rapid.T) string {
		length := rapid.SampledFrom([]int{1, 62, 63, 64, 252, 253, 254}).Draw(t, "length")
		ends := []string{"", ".a", "/a", "/" + strings.Repeat("b", 63)}
		return strings.Repeat("a", length) + rapid.SampledFrom(ends).Draw(t, "end")
	})
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(short, long).Draw(t, "text")
		for name, c := range map[string]struct {
			got  bool
			want []string
		}{
			"label key":     {qualifiedName(s), validation.IsQualifiedName(s)},
			"label value":   {s == "" || word(s), validation.IsValidLabelValue(s)},
			"DNS label":     {dnsLabel(s), validation.IsDNS1123Label(s)},
			"DNS subdomain": {dnsSubdomain(s), validation.IsDNS1123Subdomain(s)},
		} {
			if c.got != (len(c.want) == 0) {
				t.Errorf("%s %q: %v, the API server's reasons %q", name, s, c.got, c.want)
			}
		}
	})
}

// TestHeaders: a document's, and a typed object's.
func TestHeaders(t *testing.T) {
	pod := func(metadata string) string { return "apiVersion: v1\nkind: Pod\nmetadata: {" + metadata + "}\n" }
	other := func(apiVersion, kind string) string {
		return "apiVersion: " + apiVersion + "\nkind: " + kind + "\nmetadata: {name: 'system:node'}\n"
	}
	for _, text := range []string{
		pod("name: a, namespace: kube-system, labels: {a.b/C_1.d: '', x: Y-z.0}"),
		other("rbac.authorization.k8s.io/v1", "ClusterRole"), other("v1", "Secret"),
		route("{destination: 10.0.0.0/8, type: blackhole, nodeSelector: {kubernetes.io/hostname: n1}}"),
	} {
		decodeOne(t, text)
	}
	var many strings.Builder
	for i := range 600 {
		fmt.Fprintf(&many, "%s%d: %s, ", strings.Repeat("k", 50), i, strings.Repeat("v", 63))
	}
	checkRefused(t, []refusal{
		{pod("name: .."), "metadata.name", "not a name"},
		{pod("name: a%b"), "metadata.name", "not a name"},
		{pod(`name: "a\uFFFD"`), "metadata.name", "not a name"},
		{pod("name: a, namespace: A"), "metadata.namespace", "not a namespace's name"},
		{pod("name: a, namespace: a/b"), "metadata.namespace", "not a namespace's name"},
		{pod("name: a, labels: {a=b: c}"), "metadata.labels", `"a=b" is not a label's key`},
		{pod(`name: a, labels: {z: "1\u0001b=2", y: "b=c"}`), "metadata.labels", `"b=c" is not a label's value`},
		{pod("name: a, labels: {" + strings.Repeat("k", 64) + ": v}"), "metadata.labels", "not a label's key"},
		{pod("name: a, labels: {k: " + strings.Repeat("v", 64) + "}"), "metadata.labels", "not a label's value"},
		{pod("name: a, labels: {" + many.String() + "}"), "metadata.labels", "bytes of labels, more than 65536"},
		{other("v1", "a b"), "kind", "not a kind"},
		{other("A/v1", "Role"), "apiVersion", "not a group"},
		{other("a/b/c", "Role"), "apiVersion", "not a group"},
		{route("{destination: 10.0.0.0/8, type: blackhole, nodeSelector: {a: b c}}"), "spec.nodeSelector", "value"},
	})
	typed := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"a": "\xff"}}}
	if _, err := FromTyped(typed); err == nil || err.Field != "metadata.labels" {
		t.Errorf("error %v", err)
	}
}

// TestLines: whatever a place, a key or a reason is of, what is said of it is a short line of UTF-8.
func TestLines(t *testing.T) {
	for _, bad := range []string{
		"caf\xe9.yaml", "\xff", "a\nb\x00", strings.Repeat("é", 2000), strings.Repeat("a\xff", 900),
	} {
		place, key := Place{File: bad, Line: 1}, Key{Kind: bad, Namespace: bad, Name: bad}
		o, made := Object{Key: key, Place: place}, NewError(place, key, bad, bad)
		literal := &Error{Place: place, Key: key, Field: bad, Reason: bad}
		for _, text := range []string{
			place.String(), key.String(), o.Origin(), made.Error(), made.Field, made.Reason, literal.Error(),
		} {
			if !utf8.ValidString(text) || strings.ContainsAny(text, "\n\x00") || len(text) > 12*maxLine {
				t.Errorf("of %.20q: %d bytes, %.50q", bad, len(text), text)
			}
		}
	}
	if got := line(strings.Repeat("é", 2000)); got != strings.Repeat("é", 512)+"…" {
		t.Errorf("%d bytes: %q", len(got), got)
	}
	const fine = "routes.yaml:12 – é"
	if line(fine) != fine {
		t.Errorf("%q became %q", fine, line(fine))
	}
}
