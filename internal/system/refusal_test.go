// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// A NodeConfig that names a queue which does not exist is refused by the dataplane and said everywhere; what was in
// force stays. It is taken once it is corrected, and also once the device has the queue.
func TestRefusedByTheDataplane(t *testing.T) {
	s := newSite(t, programs.race)
	want := newDesired()
	s.put(want)
	control, dataplane := s.startControl(), s.startDataplane()
	dataplane.ready()
	s.converges(want)
	s.well()
	all := s.startTraffic()
	s.flows(all)
	x0 := func(queues int) {
		s.must(s.lab.Veth(netlab.End{In: s.node, Device: "x0", Queues: queues},
			netlab.End{In: s.right, Device: "x0", Queues: queues}))
	}
	x0(1)

	refused := func() {
		s.put(want, "node")
		s.says("that the snapshot was refused", func(h health) string {
			for _, n := range []*nack{h.LastNack, h.Control.LastNack} {
				if n == nil || !strings.HasPrefix(n.Object, "NodeConfig lab") || !strings.Contains(n.Field, "x0") ||
					!strings.Contains(n.Reason, "does not exist") {
					return fmt.Sprintf("nack %+v", n)
				}
			}
			if h.Healthy {
				return "healthy"
			}
			return ""
		})
		if text, _ := s.cli("status"); !strings.Contains(text, "refused: epoch") {
			t.Errorf("text says %s", text)
		}
		for address, metric := range map[string]string{
			dataplaneMetrics: "viaduct_nacks_total", controlMetrics: "viaduct_control_nacks_total",
		} {
			if n, err := s.metric(address, metric); err != nil || n == 0 {
				t.Errorf("%s: %v, %v", metric, n, err)
			}
		}
	}
	good := want.ports
	s.lossless(all, "a snapshot was refused", func() {
		s.must(s.inForce(want))
		want.ports = append(good[:2:2], port{"x0", []string{"10.3.0.1/24"}, "0, 1"})
		refused()
		want.ports = good
		s.must(s.inForce(want))
		// What is changed meanwhile waits, and is there with the correction.
		want.routes["other"] = route{"10.66.0.0/16", "blackhole", nil}
		s.put(want, "route-other")
		s.put(want, "node")
		s.converges(want)
		s.well()
	})
	s.lossless(all, "a device was mended for a refused snapshot", func() {
		want.ports = append(good[:2:2], port{"x0", []string{"10.3.0.1/24"}, "0, 1"})
		refused()
		was, err := s.node.Links().LinkByName("x0")
		s.must(err)
		s.must(s.node.Links().LinkDel(was))
		x0(2)
		s.converges(want)
		s.well()
	})
	control.stop()
	dataplane.stop()
	s.nothingLeft()
}

// Of an object whose manifest becomes wrong the last good form stays. Control that starts when the NodeConfig is wrong
// has nothing to send: what is in force stays, and status says why.
func TestLastGoodForm(t *testing.T) {
	s := newSite(t, programs.race)
	want := newDesired()
	want.routes["a"] = route{"10.66.0.0/16", "blackhole", nil}
	s.put(want)
	control, dataplane := s.startControl(), s.startDataplane()
	dataplane.ready()
	s.converges(want)
	all := s.startTraffic()
	s.flows(all)
	s.lossless(all, "manifests were wrong", func() {
		s.write("route-a.yaml", strings.Replace(want.documents()["route-a"], "blackhole", "greyhole", 1))
		want.bad["a"] = "" // said as refused; the file is written already
		s.converges(want)
		delete(want.bad, "a")
		want.routes["a"] = route{"10.66.0.0/16", "prohibit", nil}
		s.put(want, "route-a")
		s.converges(want)

		s.write("node.yaml", "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: lab}\nspec: {ports: 7}\n")
		want.bad["lab"] = ""
		s.converges(want)
		s.write("route-a.yaml", strings.Replace(want.documents()["route-a"], "prohibit", "inhibit", 1))
		want.bad["a"] = ""
		s.converges(want)
		control.kill()
		control = s.startControl() // which takes what is wrong as it was before
		s.converges(want)
		delete(want.bad, "a")
		s.put(want, "route-a")
		s.converges(want)

		control.kill()
		if err := os.Remove(filepath.Join(s.state, "kept.json")); err != nil {
			s.t.Fatal(err)
		}
		control = s.startControl()
		s.says("why there is no snapshot", func(h health) string {
			if h.Healthy || h.Control == nil || h.Control.Failure == "" {
				return "no failure"
			}
			return ""
		})
		s.must(s.inForce(want))
		delete(want.bad, "lab")
		s.put(want, "node")
		s.converges(want)
		s.well()
	})
	control.stop()
	dataplane.stop()
	s.nothingLeft()
}
