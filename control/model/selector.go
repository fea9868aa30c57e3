// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Selector selects by labels: all of its requirements hold of what it selects, and without any it selects everything.
// Requirements are ordered and distinct, so that selectors that say the same are the same.
type Selector []Requirement

// Requirement is what one label has to be.
type Requirement struct {
	Key      string
	Operator Operator
	Values   []string // ordered; of In and NotIn at least one, else none
}

// Operator is one of the four that a selector of Kubernetes has.
type Operator uint8

// The operators. NotIn holds of what does not have the label as well.
const (
	In Operator = iota
	NotIn
	Exists
	DoesNotExist
)

var operators = map[metav1.LabelSelectorOperator]Operator{
	metav1.LabelSelectorOpIn:           In,
	metav1.LabelSelectorOpNotIn:        NotIn,
	metav1.LabelSelectorOpExists:       Exists,
	metav1.LabelSelectorOpDoesNotExist: DoesNotExist,
}

// Matches says whether the requirement holds of a label.
func (r *Requirement) Matches(value string, has bool) bool {
	switch r.Operator {
	case In:
		return has && r.names(value)
	case NotIn:
		return !has || !r.names(value)
	case Exists:
		return has
	}
	return !has
}

func (r *Requirement) names(value string) bool {
	_, found := slices.BinarySearch(r.Values, value)
	return found
}

func (r Requirement) compare(o Requirement) int {
	return cmp.Or(cmp.Compare(r.Key, o.Key), cmp.Compare(r.Operator, o.Operator), slices.Compare(r.Values, o.Values))
}

// selector reads one that may be absent: it selects everything then, as an empty one does.
func (c *checker) selector(field string, from *metav1.LabelSelector) (s Selector) {
	if from == nil {
		return nil
	}
	c.within(field, func() {
		c.checkLabels("matchLabels", from.MatchLabels)
		for k, v := range from.MatchLabels {
			s = append(s, Requirement{Key: intern(k), Operator: In, Values: []string{intern(v)}})
		}
		for i := range from.MatchExpressions {
			c.within(index("matchExpressions", i), func() { s = append(s, c.requirement(&from.MatchExpressions[i])) })
		}
	})
	slices.SortFunc(s, Requirement.compare)
	return slices.CompactFunc(s, func(a, b Requirement) bool { return a.compare(b) == 0 })
}

func (c *checker) requirement(from *metav1.LabelSelectorRequirement) Requirement {
	operator, known := operators[from.Operator]
	c.check(known, "operator", "%q is not one of In, NotIn, Exists, DoesNotExist", from.Operator)
	c.check(qualifiedName(from.Key), "key", "%q is not a label's key", from.Key)
	r := Requirement{Key: intern(from.Key), Operator: operator}
	if operator == Exists || operator == DoesNotExist {
		c.check(len(from.Values) == 0, "values", "%s has none", from.Operator)
		return r
	}
	c.check(len(from.Values) > 0, "values", "%s needs one at least", from.Operator)
	for i, v := range from.Values {
		c.check(v == "" || word(v), index("values", i), "%q is not a label's value", v)
		r.Values = append(r.Values, intern(v))
	}
	slices.Sort(r.Values)
	r.Values = slices.Compact(r.Values)
	return r
}
