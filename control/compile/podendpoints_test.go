// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"testing"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// TestUnready: a pod that is not ready answers where the service says so.
func TestUnready(t *testing.T) {
	for publish, want := range map[string]bool{"false": false, "true": true} {
		objects, refused := model.Decode("", []byte(withheldNode+`
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: web}}
status: {podIP: 10.244.2.2, conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, publishNotReadyAddresses: `+publish+`, ports: [{port: 80}]}`))
		if len(refused) > 0 {
			t.Fatal(refused)
		}
		s, _, err := compile.Once(objects, compile.Node{Name: "here"})
		if err != nil {
			t.Fatal(err)
		}
		chosen := false
		for _, b := range s.Services[0].Backends {
			chosen = chosen || b.Cluster
		}
		if chosen != want {
			t.Errorf("publishNotReadyAddresses %s: the pod is chosen: %t", publish, chosen)
		}
	}
}
