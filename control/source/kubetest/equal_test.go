// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source/directory"
)

// TestEqualsDirectory: the same manifests give the same tables, from files and from the API server.
func TestEqualsDirectory(t *testing.T) {
	c := admin(t)
	c.define()
	fromFiles, refused, err := directory.Read("testdata/cluster")
	if err != nil || len(refused) > 0 {
		t.Fatal(refused, err)
	}
	for _, o := range read(t, "testdata/cluster/clusternetworkpolicy.crd") {
		c.apply(o)
		c.established(o)
		t.Cleanup(func() { // one that is being deleted is served, and goes under who defines it again
			c.remove(o)
			c.wait(o.GetName()+" to go", func() bool { return !c.exists(o) })
		})
	}
	for _, name := range []string{"nodes.yaml", "pods.yaml", "routes.yaml"} {
		for _, o := range read(t, "testdata/cluster/"+name) {
			c.apply(o)
		}
	}
	f := follow(t, api.address, "node-a")
	f.until("all of it", func() bool { return f.whole && len(missing(fromFiles, f)) == 0 })
	if len(f.errs) > 0 || f.trouble != "" {
		t.Errorf("refused %v, trouble %q", f.errs, f.trouble)
	}
	var fromServer []*model.Object
	for _, o := range fromFiles { // the API server has objects of its own as well
		fromServer = append(fromServer, f.objects[o.Key])
	}
	want, got := snapshot(t, fromFiles), snapshot(t, fromServer)
	if len(want.Routes) == 0 || len(want.Ports) != 3 {
		t.Errorf("the manifests give little: %v", want)
	}
	if len(want.Policies) != 2 || !want.Policies[1].Staged || want.PeerSets[0].Identities == nil {
		t.Errorf("policies %v of %v", want.Policies, want.PeerSets)
	}
	if len(want.Services) != 4 || len(want.Services[1].Frontends) != 4 || len(want.Services[1].Backends) != 3 ||
		len(want.Egress) != 1 {
		t.Errorf("services %v, egress %v", want.Services, want.Egress)
	}
	if !proto.Equal(want, got) {
		t.Errorf("files give\n%v\nand the API server\n%v", want, got)
	}
}

func missing(objects []*model.Object, f *follower) (keys []model.Key) {
	for _, o := range objects {
		if f.objects[o.Key] == nil {
			keys = append(keys, o.Key)
		}
	}
	return keys
}

// snapshot compiles objects, and leaves out the files that they are from.
func snapshot(t *testing.T, objects []*model.Object) *controlapi.Snapshot {
	t.Helper()
	s, refused, err := compile.Once(objects, compile.Node{Name: "node-a"})
	if err != nil || len(refused) > 0 {
		t.Fatal(refused, err)
	}
	s = proto.Clone(s).(*controlapi.Snapshot)
	for i := range s.Origins {
		s.Origins[i], _, _ = strings.Cut(s.Origins[i], " (")
	}
	return s
}
