// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"testing"

	"github.com/viaduct-net/viaduct/internal/policytest/cases"
	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

func TestCases(t *testing.T) {
	all, err := cases.All()
	if err != nil || len(all) == 0 {
		t.Fatalf("%d cases: %v", len(all), err)
	}
	for _, c := range all {
		if len(c.Expect) < 2 {
			t.Errorf("%s: nothing is expected", c.Name)
		}
		for _, e := range c.Expect {
			v := oracle.Judge(c.Cluster, e.From, e.To, e.Protocol, e.Port)
			if v.Allowed != e.Allowed {
				t.Errorf("%s: %s: it is %t: %s", c.Name, e.Line, v.Allowed, v.Why)
			}
			if v.Why == "" || v.Allowed != (v.Egress.Allowed && v.Ingress.Allowed) {
				t.Errorf("%s: %s: %+v", c.Name, e.Line, v)
			}
		}
	}
}
