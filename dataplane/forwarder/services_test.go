// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/service"
)

func octets(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

func shop(id uint32, name, cluster, pod string) *controlapi.Service {
	return &controlapi.Service{
		Id: id, Name: name, Protocol: controlapi.Protocol_PROTOCOL_TCP, Origin: 1,
		Algorithm: controlapi.Service_ALGORITHM_ROUND_ROBIN, Removal: controlapi.Service_REMOVAL_RESET,
		Frontends: []*controlapi.Frontend{
			{Kind: controlapi.Frontend_KIND_CLUSTER_IP, Address: octets(cluster), Port: 80},
			{Kind: controlapi.Frontend_KIND_NODE_PORT, Port: 30080, LocalOnly: true},
		},
		Backends: []*controlapi.Backend{{Address: octets(pod), Port: 8080, Weight: 1, Cluster: true}},
	}
}

// Services come into force with snapshots and deltas, are listed, and count.
func TestServices(t *testing.T) {
	f := New(Config{Logger: zaptest.NewLogger(t)})
	defer f.Close()
	one := &controlapi.Snapshot{Epoch: 1, Origins: []string{"", "Service default/web (web.yaml:3)"},
		Services: []*controlapi.Service{
			shop(1, "default/web:http", "10.96.0.1", "10.244.1.7"), shop(2, "default/api", "10.96.0.2", "10.244.2.8"),
		}}
	if err := f.Apply(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	var d service.Dice
	var c service.Choice
	at := f.tables.Load()
	at.Services.Choose(&service.Query{Dst: packet.AddrFrom(netip.MustParseAddr("10.96.0.1")), DstPort: 80,
		Proto: packet.ProtoTCP, Now: f.clock()}, &d, &c)
	if c.Outcome != service.Chosen {
		t.Fatalf("%+v", c)
	}
	at.Backends.Opened(c.Number)
	for _, row := range []struct{ name, address, want string }{
		{"", "", "default/api default/web:http"}, {"default/web", "", "default/web:http"},
		{"default/web:http", "", "default/web:http"}, {"default/we", "", ""}, {"", "10.244.2.8", "default/api"},
		{"", "10.96.0.1", "default/web:http"}, {"", "10.96.0.9", ""},
	} {
		got := strings.Join(listed(t, f, &api.ServicesRequest{Name: row.name, Address: row.address}), " ")
		if got != row.want {
			t.Errorf("%+v: %s", row, got)
		}
	}
	if _, err := f.Services(&api.ServicesRequest{Address: "nowhere"}); err == nil {
		t.Error("an address that is none was taken")
	}
	list, _ := f.Services(&api.ServicesRequest{Name: "default/web"})
	web := slices.Collect(list)[0]
	if web.Algorithm != "round-robin" || web.Protocol != "tcp" || web.Opened != 1 || web.Origin != one.Origins[1] ||
		web.Frontends[0].Kind != "cluster-ip" || web.Frontends[1].TrafficPolicy != "local" ||
		web.Backends[0].State != "far" || web.Backends[0].Active != 1 {
		t.Errorf("%v", web)
	}
	if why := f.degraded["services"]; !strings.Contains(why,
		"default/web:http is left out at node port 30080/tcp, which default/api has") {
		t.Errorf("the conflict is not shown: %q", why)
	}

	next := &controlapi.Delta{Base: 1, Set: &controlapi.Snapshot{Epoch: 2}, RemovedServices: []uint32{1}}
	if err := f.ApplyDelta(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, f, &api.ServicesRequest{}); !slices.Equal(got, []string{"default/api"}) {
		t.Errorf("after the delta: %v", got)
	}
	if f.tables.Load().Backends.Standing(c.Number) != service.Reset {
		t.Error("the backend of a service that is gone is in force")
	}
	if f.degraded["services"] != "" {
		t.Error("the conflict is over, and shown")
	}
	counted := map[string]float64{}
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(f))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			name := family.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			counted[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	if counted["viaduct_services"] != 1 || counted["viaduct_service_flows_total opened"] != 1 {
		t.Errorf("%v", counted)
	}
}

func listed(t *testing.T, f *Forwarder, r *api.ServicesRequest) (names []string) {
	t.Helper()
	list, err := f.Services(r)
	if err != nil {
		t.Fatal(err)
	}
	for s := range list {
		names = append(names, s.Name)
	}
	return names
}
