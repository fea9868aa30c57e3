// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/dataplane/host"
)

// followHost hears of addresses of the host's, where node ports are, and of its default routes, by whose devices
// services are reached, until done is closed.
func (f *Forwarder) followHost(done <-chan struct{}) error {
	failed := func(err error) { f.log.Debug("watching the host", zap.Error(err)) }
	addresses := make(chan netlink.AddrUpdate, 64)
	if err := netlink.AddrSubscribeWithOptions(addresses, done,
		netlink.AddrSubscribeOptions{ErrorCallback: failed}); err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	routes := make(chan netlink.RouteUpdate, 256)
	if err := netlink.RouteSubscribeWithOptions(routes, done,
		netlink.RouteSubscribeOptions{ErrorCallback: failed}); err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	go func() { // both end with done, or when the kernel drops messages: then the next inspection sees what was missed
		for range addresses {
			f.look()
		}
	}()
	go func() {
		for u := range routes {
			if host.IsDefault(&u.Route) {
				f.look()
			}
		}
	}()
	return nil
}
