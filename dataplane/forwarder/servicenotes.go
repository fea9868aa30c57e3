// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/dataplane/host"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// egressNotes says which egress addresses pods cannot have.
func (f *Forwarder) egressNotes() (notes []host.Note) {
	for a := range f.services.egress {
		if on, is := f.services.host[a]; is && !on.Spare {
			notes = append(notes, host.Note{Subject: "egress " + a.String(), Reason: fmt.Sprintf("the host itself goes out "+
				"with it (%s): what pods send with it is not answered; take another one, or have it on the device %s",
				on.Prefix, spared(a))})
		} else if !is && f.isUnanswered(a) {
			notes = append(notes, host.Note{Subject: "egress " + a.String(), Reason: "nobody answers for it on the " +
				"uplink's link, and there are other nodes: say by the annotation viaduct.dev/egress-node of its namespace " +
				"which node has it"})
		}
	}
	slices.SortFunc(notes, func(a, b host.Note) int { return cmp.Compare(a.Subject, b.Subject) })
	return notes
}

// ephemeralNotes says which ports of the node lead to the dataplane and may as well be those that the host masquerades
// to: answers to what it does come by an uplink of the host's, and are taken.
func (f *Forwarder) ephemeralNotes() []host.Note {
	if len(f.services.hooks.Uplinks()) == 0 {
		return nil
	}
	first, last, err := host.EphemeralPorts()
	if err != nil {
		f.log.Debug("reading the range of ephemeral ports", zap.Error(err))
		return nil
	}
	ports := f.services.nodePortsWithin(first, last)
	if len(ports) == 0 {
		return nil
	}
	const shown = 5
	more := ""
	if len(ports) > shown {
		ports, more = ports[:shown], fmt.Sprintf(" and %d more", len(ports)-shown)
	}
	return []host.Note{{Subject: "ephemeral ports", Reason: fmt.Sprintf("%s%s: host or node ports in "+
		"net.ipv4.ip_local_port_range (%d to %d): what the host masquerades to one of them is not answered; take others",
		strings.Join(ports, ", "), more, first, last)}}
}

// isUnanswered says whether an address is of the link of an uplink that is the dataplane's, which does not announce it.
func (f *Forwarder) isUnanswered(a netip.Addr) bool {
	t, address := f.tables.Load(), packet.AddrFrom(a)
	return !t.Announces(address) && slices.ContainsFunc(t.Ports, func(p tables.Port) bool {
		return p.Uplink && p.OnLink(address) && !p.HasAddr(address)
	})
}

// spared says how an address may be on a device without the host using it by itself.
func spared(a netip.Addr) string {
	if a.Is4() {
		return "behind another of its subnet, or as /32"
	}
	return "with preferred_lft 0, or as /128 on another device"
}

// proxyEvery is how often kube-proxy is looked for.
const proxyEvery = 30 * time.Second

// lookForProxy says whether kube-proxy translates for services here, too.
func (f *Forwarder) lookForProxy() []host.Note {
	s := &f.services
	if time.Since(s.proxyAsked) >= proxyEvery {
		s.proxyAsked = time.Now()
		found, err := f.trunk.stack.KubeProxy()
		switch {
		case err != nil:
			f.log.Info("looking for kube-proxy", zap.Error(err))
		case found == "" && !s.proxySaid:
			f.log.Info("nothing of kube-proxy is on this node: services are the dataplane's alone")
		}
		s.proxy, s.proxySaid = found, found == "" && err == nil
	}
	if s.proxy == "" {
		return nil
	}
	return []host.Note{{Subject: "kube-proxy", Reason: "it translates for services on this node, too: " + s.proxy +
		"; remove it with what it left (kube-proxy --cleanup), or have services be its own"}}
}
