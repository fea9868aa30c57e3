// SPDX-License-Identifier: Apache-2.0

package system

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// attached is a pod: a namespace that is wired, or is to be, by the plugins of a list.
type attached struct {
	*netlab.Namespace
	site    *podSite
	lab     *netlab.Lab // of this namespace alone, which may go before the others
	list    *libcni.NetworkConfigList
	runtime *libcni.RuntimeConf
	address map[int]netip.Addr // by family, 4 and 6
	device  string             // the node's end
	mac     string
	peer    *peer
}

// pod makes a namespace for a pod of ours alone.
func (p *podSite) pod(name string) *attached {
	p.t.Helper()
	a, err := p.tryPod(name)
	p.must(err)
	p.t.Cleanup(a.close)
	return a
}

func (p *podSite) tryPod(name string) (*attached, error) {
	a := &attached{site: p, lab: netlab.New(), list: p.list}
	var err error
	if a.Namespace, err = a.lab.Namespace(name); err != nil {
		return nil, err
	}
	a.runtime = &libcni.RuntimeConf{
		ContainerID: "container-" + name, IfName: "eth0", NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), a.FD()),
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", name}},
	}
	return a, nil
}

// close ends the pod's namespace. It may be called again.
func (a *attached) close() {
	if a.peer != nil {
		a.peer.close()
	}
	if err := a.lab.Close(); err != nil {
		a.site.t.Error(err)
	}
}

// add wires the pod, and starts what answers in it.
func (a *attached) add() *attached {
	a.site.t.Helper()
	if err := a.tryAdd(); err != nil {
		a.site.t.Fatalf("ADD %s: %v\n%s", a.Name(), err, a.site.tails())
	}
	var err error
	a.peer, err = startPeer(a.Namespace)
	a.site.must(err)
	return a
}

func (a *attached) tryAdd() error {
	made, err := a.site.cni.AddNetworkList(context.Background(), a.list, a.runtime)
	if err != nil {
		return err
	}
	result, err := current.NewResultFromResult(made)
	if err != nil {
		return err
	}
	a.address = map[int]netip.Addr{}
	for _, ip := range result.IPs {
		address, _ := netip.AddrFromSlice(ip.Address.IP)
		a.address[family(address.Unmap())] = address.Unmap()
	}
	for _, i := range result.Interfaces {
		if i.Sandbox == "" {
			a.device = i.Name
		} else {
			a.mac = i.Mac
		}
	}
	return nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

func (a *attached) check() error {
	return a.site.cni.CheckNetworkList(context.Background(), a.list, a.runtime)
}

func (a *attached) tryDel() error {
	return a.site.cni.DelNetworkList(context.Background(), a.list, a.runtime)
}

// del removes the pod's interface, and then the pod.
func (a *attached) del() {
	a.site.t.Helper()
	if err := a.tryDel(); err != nil {
		a.site.t.Errorf("DEL %s: %v", a.Name(), err)
	}
	a.close()
}

// code is that of the error that a plugin printed.
func code(err error) uint {
	var e *types.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// each runs do for 0 to n-1, so many at a time, and joins what it says.
func each(n, atOnce int, do func(i int) error) error {
	next := make(chan int)
	var mu sync.Mutex
	var errs []error
	var done sync.WaitGroup
	for range atOnce {
		done.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	done.Wait()
	return errors.Join(errs...)
}
