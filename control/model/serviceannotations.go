// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ServiceAnnotations are what a Service has no fields for. An annotation that is wrong does not count, and the service
// is in force without it.
type ServiceAnnotations struct {
	Algorithm string // one of Algorithms; empty: the node's
	// SlowStart is the seconds in which a backend that is new comes to its share; 0: at once.
	SlowStart uint32
	Ejection  uint32            // failures in a row after which a backend is tried less; 0: never
	Removed   string            // "drain" or "reset"; empty: the node's
	Direct    bool              // backends on other nodes answer outside clients themselves
	Weights   map[string]uint16 // of backends, by address or by the pod's name, before what is said there
}

// Algorithms are the ways to choose a backend; the first is that of a node that says none.
var Algorithms = []string{
	"random", "round-robin", "weighted-round-robin", "least-connections", "two-choices", "source-hash", "maglev",
	"maglev-bounded",
}

// Removals are what becomes of flows whose backend is gone; the first is that of a node that says none.
var Removals = []string{"drain", "reset"}

// Annotations of services and of what answers for them.
const (
	algorithmAnnotation  = annotationPrefix + "algorithm"
	slowStartAnnotation  = annotationPrefix + "slow-start"
	ejectionAnnotation   = annotationPrefix + "ejection"
	removedAnnotation    = annotationPrefix + "removed-backends"
	forwardingAnnotation = annotationPrefix + "forwarding"
	weightsAnnotation    = annotationPrefix + "weights"
	weightAnnotation     = annotationPrefix + "weight" // of a pod as well
)

const (
	maxSlowStart = 3600 // seconds
	maxEjection  = 1000
)

// Complaint is a field of an object that does not count, for the reason; the rest of it does.
type Complaint struct{ Field, Reason string }

// complain has the field not count.
func (c *checker) complain(field, format string, args ...any) {
	e := NewError(Place{}, Key{}, field, fmt.Sprintf(format, args...))
	c.complaints = append(c.complaints, Complaint{e.Field, e.Reason})
}

// complainUnless has the field not count unless ok.
func (c *checker) complainUnless(ok bool, field, format string, args ...any) {
	if !ok {
		c.complain(field, format, args...)
	}
}

// ours goes through the annotations that are ours, in order, and complains of those for which read says why they are
// wrong; known are those that there are.
func (c *checker) ours(all map[string]string, read func(key, value string) (reason string), known ...string) {
	var keys []string
	for key := range all {
		if strings.HasPrefix(key, annotationPrefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		reason := "there is no annotation of that name of this kind"
		if slices.Contains(known, key) {
			reason = read(key, all[key])
		}
		if reason != "" {
			c.complain("metadata.annotations["+key+"]", "%s", reason)
		}
	}
}

func (c *checker) serviceAnnotations(all map[string]string) (a ServiceAnnotations) {
	c.ours(all, a.read, algorithmAnnotation, slowStartAnnotation, ejectionAnnotation, removedAnnotation,
		forwardingAnnotation, weightsAnnotation)
	return a
}

// read takes one in, or says why it does not.
func (a *ServiceAnnotations) read(key, value string) (reason string) {
	switch key {
	case algorithmAnnotation:
		return take(&a.Algorithm, value, Algorithms)
	case removedAnnotation:
		return take(&a.Removed, value, Removals)
	case forwardingAnnotation:
		way := ""
		reason = take(&way, value, []string{"nat", "direct"})
		a.Direct = way == "direct"
		return reason
	case slowStartAnnotation:
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 || d > maxSlowStart*time.Second || d%time.Second != 0 {
			return fmt.Sprintf(`%q is no time of whole seconds, from 0s to 1h ("30s")`, value)
		}
		a.SlowStart = uint32(d / time.Second)
	case ejectionAnnotation:
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n > maxEjection {
			return fmt.Sprintf("%q is no number of failures, from 0 to %d", value, maxEjection)
		}
		a.Ejection = uint32(n)
	case weightsAnnotation:
		a.Weights, reason = weightsOf(value)
	}
	return reason
}

func take(to *string, value string, choices []string) (reason string) {
	if !slices.Contains(choices, value) {
		return fmt.Sprintf("%q is not one of %s", value, strings.Join(choices, ", "))
	}
	*to = intern(value)
	return ""
}

// weightsOf reads "web-0=3, 10.1.2.3=2".
func weightsOf(text string) (weights map[string]uint16, reason string) {
	weights = map[string]uint16{}
	for one := range strings.SplitSeq(text, ",") {
		name, number, _ := strings.Cut(strings.TrimSpace(one), "=")
		weight, reason := weightOf(number)
		if name == "" || reason != "" {
			return nil, fmt.Sprintf(`%q is no weight of a pod or an address, from 1 to %d ("web-0=3, 10.1.2.3=2")`, one,
				maxWeight)
		}
		if a, err := netip.ParseAddr(name); err == nil {
			name = a.String()
		}
		weights[name] = weight
	}
	return weights, ""
}

func weightOf(text string) (weight uint16, reason string) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Sprintf("%q is no weight, from 1 to %d", text, maxWeight)
	}
	return uint16(n), ""
}

// weight reads the annotation of an EndpointSlice; 0: not said.
func (c *checker) weight(all map[string]string) (weight uint16) {
	c.ours(all, func(_, value string) (reason string) {
		weight, reason = weightOf(value)
		return reason
	}, weightAnnotation)
	return weight
}

// egressOf reads "192.0.2.7,2001:db8::7", one of a family at most.
func egressOf(text string) (addresses []netip.Addr, reason string) {
	for one := range strings.SplitSeq(text, ",") {
		c := &checker{}
		a := c.serviceAddress("", strings.TrimSpace(one))
		if c.reason != "" {
			return nil, c.reason
		}
		if slices.ContainsFunc(addresses, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			return nil, fmt.Sprintf("%q has two addresses of one family", text)
		}
		addresses = append(addresses, a)
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return addresses, ""
}
