// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/tools/exit"
	"github.com/viaduct-net/viaduct/tools/show"
)

const someBroken = `apiVersion: v1
kind: Namespace
metadata: {name: quiet, annotations: {viaduct.dev/offload: "false"}}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, labels: {app: a}}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.244.1.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: shop, labels: {app: b}}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.244.1.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: c, namespace: quiet}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.244.1.4}]}
---
apiVersion: v1
kind: Pod
metadata: {name: d, namespace: shop}
spec: {nodeName: n2}
status: {podIPs: [{ip: 10.244.2.5}]}
---
apiVersion: viaduct.dev/v1alpha1
kind: NodeConfig
metadata: {name: n1}
spec: {podCIDRs: [10.244.1.0/24]}
---
apiVersion: viaduct.dev/v1alpha1
kind: NodeConfig
metadata: {name: n2}
spec: {podCIDRs: [10.244.2.0/24], offload: false}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: broken, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 80, endPort: 70}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: whole, namespace: shop}
spec: {podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{ports: [{port: 80}]}]}
`

// TestRefusedDocuments: what is refused is said, with where it is, and the other documents are judged.
func TestRefusedDocuments(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(someBroken), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(output, flags string) (out, warnings string, status int) {
		root := &cobra.Command{Use: "viaduct", SilenceUsage: true, SilenceErrors: true}
		root.AddCommand(Command(&show.Flags{Output: output}))
		var o, e bytes.Buffer
		root.SetOut(&o)
		root.SetErr(&e)
		root.SetArgs(append(strings.Fields("explain --node n1 --manifests "+dir), strings.Fields(flags)...))
		err := root.ExecuteContext(t.Context())
		return o.String(), e.String(), exit.Status(err)
	}
	for _, tt := range []struct {
		flags   string
		status  int
		offload string
	}{
		{"--from shop/a --to shop/b --port 80", exit.OK, "the kernel carries it behind its first packets"},
		{"--from shop/a --to shop/b --port 81", exit.Failed, ""},
		{"--from shop/b --to shop/a --port 81", exit.OK, "the kernel carries it behind its first packets"},
		{"--from quiet/c --to shop/a --port 81", exit.OK, "none: offload is off for port quiet/c"},
		{"--from shop/a --to quiet/c --port 81 --protocol udp", exit.OK, "none: offload is off for port quiet/c"},
		{"--from shop/a --to shop/d --port 81", exit.OK, "none: offload is off on node n2"},
		{"--from shop/a --to 192.0.2.1 --protocol icmp", exit.OK, "none: only tcp and udp are carried"},
	} {
		out, warnings, status := ask("text", tt.flags)
		if status != tt.status {
			t.Errorf("%s: status %d, want %d: %s", tt.flags, status, tt.status, out)
		}
		offload := ""
		for line := range strings.Lines(out) {
			if said, is := strings.CutPrefix(line, "offload  "); is {
				offload = strings.TrimSpace(said)
			}
		}
		if offload != tt.offload {
			t.Errorf("%s: offload %q, want %q", tt.flags, offload, tt.offload)
		}
		const want = "all.yaml:39 (document 8): NetworkPolicy shop/broken: spec.ingress[0].ports[0].endPort: "
		if !strings.HasPrefix(warnings, "warning: left out: ") || !strings.Contains(warnings, want) ||
			strings.Count(warnings, "\n") != 1 {
			t.Errorf("%s: warnings %q, want one line with %q", tt.flags, warnings, want)
		}
	}
	out, _, _ := ask("json", "--from shop/a --to shop/b --port 80")
	var r Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Refused) != 1 {
		t.Errorf("refused %q, %v", r.Refused, err)
	}
	if _, warnings, status := ask("text", "--from shop/nobody --to shop/b --port 80"); status != exit.SetUp ||
		!strings.Contains(warnings, "broken") {
		t.Errorf("nobody could say: status %d, warnings %q", status, warnings)
	}
}

// TestPairOffline: where policy lets all TCP between two pods of a node, the kernel may carry it as one.
func TestPairOffline(t *testing.T) {
	dir := t.TempDir()
	text, _, _ := strings.Cut(someBroken, "---\napiVersion: networking.k8s.io/v1")
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for flags, want := range map[string]bool{
		"--from shop/a --to shop/b --port 80": true, "--from shop/a --to shop/b --port 80 --protocol udp": false,
		"--from shop/a --to shop/d --port 80": false, "--from shop/a --to quiet/c --port 80": false,
	} {
		out, err := execute(t, "", "json", append(strings.Fields("explain --node n1 --manifests "+dir),
			strings.Fields(flags)...)...)
		var r Report
		if err == nil {
			err = json.Unmarshal([]byte(out), &r)
		}
		if err != nil || r.Pair != want {
			t.Errorf("%s: pair %t, want %t: %v", flags, r.Pair, want, err)
		}
	}
}
