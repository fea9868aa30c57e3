// SPDX-License-Identifier: Apache-2.0

package cni_test

import (
	"context"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestAddAgain(t *testing.T) {
	r := node(t)
	for name, more := range map[string]string{
		"leased":    "",
		"delegated": `, "ipam": ` + hostLocal(t, `"routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24"}]`),
	} {
		t.Run(name, func(t *testing.T) {
			list, p := r.list("1.1.0", more), r.pod("one")
			if name == "delegated" {
				list = r.list("1.0.0", more)
			}
			first := r.add(list, p)
			before := r.control.Leases()[0]
			if second := r.add(list, p); !reflect.DeepEqual(first, second) {
				t.Errorf("first %+v\nthen %+v", first, second)
			}
			if after := r.control.Leases(); len(after) != 1 || after[0] != before {
				t.Errorf("leases %v", after)
			}
			r.ok(r.del(list, p))
			r.clean(p)
		})
	}
}

func TestAddAgainInOtherWords(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	r.add(list, p)
	p.runtime.CapabilityArgs = map[string]any{"ips": []string{"10.244.1.99"}, "mac": "0a:00:00:00:00:99"}
	result := r.add(list, p)
	if len(result.IPs) != 1 || result.IPs[0].Address.String() != "10.244.1.99/32" ||
		result.Interfaces[1].Mac != "0a:00:00:00:00:99" {
		t.Errorf("%+v", result)
	}
	r.ok(r.check(list, p))
	r.ok(r.del(list, p))
	r.clean(p)
}

func TestAddAgainMendsWhatIsBroken(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	for name, damage := range damages(r, p) {
		t.Run(name, func(t *testing.T) {
			r.add(list, p)
			r.ok(damage())
			r.add(list, p)
			r.ok(r.check(list, p))
			r.ok(r.del(list, p))
			r.clean(p)
		})
	}
}

// The namespace is another one, of the same container.
func TestAddAgainElsewhere(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	r.add(list, p)
	q := r.pod("two")
	q.runtime.ContainerID = "one"
	r.add(list, q)
	r.ok(r.check(list, q))
	if left := r.links(p.Namespace); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	r.ok(r.del(list, q))
	r.clean(p, q)
}

// An ADD that stands is not torn down by one that cannot ask.
func TestAddAgainWithoutControl(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	r.add(list, p)
	r.control.Before(func(context.Context, string) error { return status.Error(codes.Unavailable, "no") })
	r.denied(p, "", 11)
	r.control.Before(nil)
	r.ok(r.check(list, p))
}

// ADD is killed at any moment. Then it is repeated, or deleted.
func TestKilled(t *testing.T) {
	r := node(t)
	lists := []*libcni.NetworkConfigList{r.list("1.0.0", ""), r.list("1.0.0", `, "ipam": `+hostLocal(t, `"routes": []`))}
	took := map[*libcni.NetworkConfigList]time.Duration{}
	p := r.pod("one")
	for i := range 100 {
		list := lists[i%2]
		whole := took[list]
		if whole == 0 {
			start := time.Now()
			r.add(list, p)
			whole, took[list] = time.Since(start), time.Since(start)
			r.ok(r.del(list, p))
		}
		conf := r.configuration(`, "cniVersion": "1.0.0"`)
		if i%2 == 1 {
			conf = string(list.Plugins[0].Bytes)
			conf = `{"cniVersion": "1.0.0", "name": "net",` + conf[1:]
		}
		r.killed(environment(p), conf, time.Duration(rand.Int64N(int64(whole))))
		if i/2%2 == 0 {
			r.add(list, p)
			r.ok(r.check(list, p))
		}
		r.ok(r.del(list, p))
		r.clean(p)
		if t.Failed() {
			t.Fatalf("round %d", i)
		}
	}
}

// killed runs the plugin and kills it after a while, or lets it end before.
func (r *rig) killed(env map[string]string, stdin string, after time.Duration) {
	r.Helper()
	r.ok(r.host.Do(func() error {
		c := r.plugin(env, stdin)
		if err := c.Start(); err != nil {
			return err
		}
		timer := time.AfterFunc(after, func() { _ = c.Process.Kill() })
		_ = c.Wait()
		timer.Stop()
		return nil
	}))
}
