// SPDX-License-Identifier: Apache-2.0

package system

import "fmt"

// podTraffic lets numbered datagrams flow between pods, of each family and in each direction.
func (p *podSite) podTraffic(a, b *attached) traffic {
	p.t.Helper()
	var all traffic
	for _, ends := range [][2]*attached{{a, b}, {b, a}} {
		for _, f := range []int{4, 6} {
			name := fmt.Sprintf("%s to %s, IPv%d", ends[0].Name(), ends[1].Name(), f)
			all = append(all, p.startFlow(name, ends[0].Namespace, ends[1].Namespace, ends[1].address[f]))
		}
	}
	return all
}
