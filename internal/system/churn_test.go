// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"
)

// Pods come and go by the hundred while others talk, who lose nothing; and of those that went nothing stays.
func TestChurn(t *testing.T) {
	const half, atOnce = 50, 10
	for name, bin := range map[string]string{"plain": programs.plain, "race": programs.race} {
		t.Run(name, func(t *testing.T) {
			p := newPodSiteOf(t, bin)
			a, b := p.pod("a").add(), p.pod("b").add()
			all := p.podTraffic(a, b)
			p.flows(all)
			churn := func(from int) {
				p.must(each(half, atOnce, func(i int) error { return p.comesAndGoes(fmt.Sprint("c", from+i)) }))
			}
			churn(0) // fills what is filled once
			before := p.take()
			p.lossless(all, "pods came and went", func() {
				churn(half)
				churn(2 * half)
			})
			p.leftNothing(before)
			a.del()
			b.del()
		})
	}
}

func (p *podSite) comesAndGoes(name string) error {
	a, err := p.tryPod(name)
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.tryAdd(); err != nil {
		return fmt.Errorf("ADD %s: %w", name, err)
	}
	if err := a.tryDel(); err != nil {
		return fmt.Errorf("DEL %s: %w", name, err)
	}
	return nil
}

// A node is full of pods: all reach the node, and each other.
func TestMany(t *testing.T) {
	many, atOnce := 120, 8
	if text := os.Getenv("VIADUCT_PODS"); text != "" {
		var err error
		if many, err = strconv.Atoi(text); err != nil || many < 2 {
			t.Fatalf("VIADUCT_PODS=%q is no number of pods", text)
		}
	}
	p := newPodSite(t, "10.244.0.0/22", "fd00:244:1::/64")
	before := p.take()
	pods := make([]*attached, many)
	for i := range pods {
		pods[i] = p.pod(fmt.Sprint("p", i))
	}
	p.peerIn(p.node)
	p.must(each(many, atOnce, func(i int) error {
		err := pods[i].tryAdd()
		if err == nil {
			pods[i].peer, err = startPeer(pods[i].Namespace)
		}
		return err
	}))
	taken := map[netip.Addr]bool{}
	for _, a := range pods {
		if taken[a.address[4]] || taken[a.address[6]] {
			t.Errorf("%s has another's address: %v", a.Name(), a.address)
		}
		taken[a.address[4]], taken[a.address[6]] = true, true
	}
	node := map[int]netip.Addr{4: families[4].uplink, 6: families[6].uplink}
	p.must(each(many, atOnce, func(i int) error {
		f := 4 + i%2*2
		if _, err := ask(pods[i].Namespace, "udp", netip.AddrPortFrom(node[f], peerPort)); err != nil {
			return err
		}
		if i%10 != 0 {
			return nil
		}
		_, err := ask(pods[i].Namespace, "tcp", netip.AddrPortFrom(pods[(i+many/2)%many].address[f], peerPort))
		return err
	}))
	p.must(each(many, atOnce, func(i int) error { return pods[i].tryDel() }))
	p.leftNothing(before)
}
