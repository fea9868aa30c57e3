// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/viaduct-net/viaduct/perf/cluster"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// Balanced is a subject that joins two ends, the generator and the sink of a rig, of which the generator reaches the
// sink by the address of a service, among many others.
type Balanced struct {
	Subject
	services cluster.Services
	network  *Network // nil: the kernel's forwarding
	dnat     *dnat    // nil: viaduct's
	node     *rig.Rig // once started
}

// BalancedNames are the subjects that NewBalanced takes.
func BalancedNames() []string { return []string{"trunk", "nft-map", "nft"} }

// NewBalanced makes a subject with services: viaduct by its trunk; or the kernel's forwarding between two veth pairs,
// and nftables before it: one map from address, protocol and port to a chain for each service, as kube-proxy in its
// mode nftables (nft-map), or one rule for each service, as kube-proxy in its mode iptables (nft).
func NewBalanced(name string, p Programs, services cluster.Services) (*Balanced, error) {
	switch name {
	case "trunk":
		w, err := NewWired(name, p)
		if err != nil {
			return nil, err
		}
		n := w.(*wired).network
		n.furnish = func() map[string][]byte { return serviceManifests(services) }
		return &Balanced{Subject: w, services: services, network: n}, nil
	case "nft-map", "nft":
		d := &dnat{services: services, mapped: name == "nft-map"}
		return &Balanced{Subject: d, services: services, dnat: d}, nil
	}
	return nil, fmt.Errorf("subject %q: want one of %s", name, strings.Join(BalancedNames(), ", "))
}

// Network is viaduct's, nil for the kernel's subjects.
func (b *Balanced) Network() *Network { return b.network }

// Count is how many services there are.
func (b *Balanced) Count() int { return b.services.Count }

// Start is Subject's. When it returns the measured service has its endpoint, or will have.
func (b *Balanced) Start(ctx context.Context, r *rig.Rig, s Setup) error {
	if err := b.Subject.Start(ctx, r, s); err != nil {
		return err
	}
	b.node = r
	if b.network == nil {
		return nil
	}
	if err := b.measured(r.Sunk.Addr4.Addr()); err != nil {
		return errors.Join(err, b.Stop())
	}
	return nil
}

// ServicePort is the port of the measured service and of its endpoint.
const ServicePort = 5201

// measured writes the service that leads to the sink.
func (b *Balanced) measured(sink netip.Addr) error {
	var text bytes.Buffer
	for _, o := range b.services.MeasuredObjects(nodeName, netip.AddrPortFrom(sink, ServicePort)) {
		fmt.Fprintf(&text, "---\n%s\n", o.JSON)
	}
	return b.network.Write("measured.yaml", text.Bytes())
}

// Change moves one endpoint of a service of the first Changeable ones, to where a revision has it. Of viaduct it is in
// force some time after; of the kernel's subjects when it returns.
func (b *Balanced) Change(i, revision int) error {
	if b.network != nil {
		return b.network.Write(cluster.ServiceName(i)+".yaml", b.services.Slice(i, revision).JSON)
	}
	return runNFT(b.node.DUT, func(w io.Writer) { b.dnat.change(w, i, revision) })
}

// Changes says whether Change does anything.
func (b *Balanced) Changes() bool { return b.dnat == nil || b.dnat.mapped }

// serviceManifests are the objects as files: services of which one may be written without the others have one of their
// own for their endpoints.
func serviceManifests(services cluster.Services) map[string][]byte {
	files := map[string]*bytes.Buffer{}
	own := map[string]string{}
	for i := range min(Changeable, services.Count) {
		own[cluster.ServiceName(i)+"-slice"] = cluster.ServiceName(i)
	}
	for o := range services.Objects() {
		file := own[o.Name]
		if file == "" {
			file = strings.ToLower(o.Kind)
		}
		if files[file] == nil {
			files[file] = &bytes.Buffer{}
		}
		fmt.Fprintf(files[file], "---\n%s\n", o.JSON)
	}
	texts := map[string][]byte{}
	for name, b := range files {
		texts[name+".yaml"] = b.Bytes()
	}
	return texts
}

// nftProgram is what rulesets are loaded by, as kube-proxy does.
const nftProgram = "/usr/sbin/nft"

// dnat is the kernel's forwarding with translation of services' addresses before it.
type dnat struct {
	kernel
	services cluster.Services
	mapped   bool // one map for all; else one rule for each
	sink     netip.Addr
}

func (d *dnat) Missing(rig.Options) string { return executable(nftProgram) }

func (d *dnat) Start(ctx context.Context, r *rig.Rig, s Setup) error {
	if err := d.kernel.Start(ctx, r, s); err != nil {
		return err
	}
	d.sink = r.Sunk.Addr4.Addr()
	if err := r.Generator.AddRoute(cluster.ServiceCIDR, r.Left.Addr4.Addr()); err != nil {
		return err
	}
	if err := runNFT(r.DUT, d.write); err != nil {
		return fmt.Errorf("install %d services: %w", d.services.Count, err)
	}
	return nil
}

// write is the ruleset of all services.
func (d *dnat) write(w io.Writer) {
	fmt.Fprintln(w, "table ip services {")
	if d.mapped {
		for i := range d.services.Count {
			fmt.Fprintf(w, "chain %s { %s; }\n", chain(i), d.choice(i, 0))
		}
		fmt.Fprintln(w, "map services { type ipv4_addr . inet_proto . inet_service : verdict; elements = {")
		for i := range d.services.Count {
			fmt.Fprintf(w, "%s . tcp . %d : goto %s,\n", d.services.Address(i), d.port(i), chain(i))
		}
		fmt.Fprint(w, "}\n}\n")
	}
	fmt.Fprintln(w, "chain prerouting { type nat hook prerouting priority dstnat;")
	if d.mapped {
		fmt.Fprintln(w, "ip daddr . meta l4proto . th dport vmap @services")
	} else {
		for i := range d.services.Count {
			fmt.Fprintf(w, "ip daddr %s tcp dport %d %s\n", d.services.Address(i), d.port(i), d.choice(i, 0))
		}
	}
	fmt.Fprint(w, "}\n}\n")
}

// change is the ruleset's change of one endpoint: of its service's chain, whole, as kube-proxy writes it.
func (d *dnat) change(w io.Writer, i, revision int) {
	fmt.Fprintf(w, "flush chain ip services %s\nadd rule ip services %s %s\n", chain(i), chain(i), d.choice(i, revision))
}

func chain(i int) string { return fmt.Sprintf("service-%d", i) }

func (d *dnat) port(i int) uint16 {
	if i == d.services.Measured() {
		return ServicePort
	}
	return d.services.Port()
}

// choice takes one of the endpoints at random.
func (d *dnat) choice(i, revision int) string {
	if i == d.services.Measured() {
		return fmt.Sprintf("meta l4proto tcp dnat to %s:%d", d.sink, ServicePort)
	}
	var list []string
	for e := range d.services.Endpoints {
		to := d.services.Endpoint(i, e, revision)
		list = append(list, fmt.Sprintf("%d : %s . %d", e, to.Addr(), to.Port()))
	}
	return fmt.Sprintf("meta l4proto tcp dnat ip to numgen random mod %d map { %s }", len(list), strings.Join(list, ", "))
}

// runNFT has nft do what write says, in one transaction.
func runNFT(in *rig.Namespace, write func(w io.Writer)) error {
	var text bytes.Buffer
	w := bufio.NewWriter(&text)
	write(w)
	if err := w.Flush(); err != nil {
		return err
	}
	return in.Do(func() error {
		cmd := exec.Command(nftProgram, "-f", "-")
		cmd.Stdin = &text
		if out, err := cmd.CombinedOutput(); err != nil {
			said := strings.Join(strings.Fields(string(out)), " ")
			return fmt.Errorf("%s: %w: %s", nftProgram, err, said[:min(len(said), 500)])
		}
		return nil
	})
}
