// SPDX-License-Identifier: Apache-2.0

package show

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/tools/exit"
)

func services(f *Flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "services [NAME]",
		Short: "Show the services in force: where they take traffic, who answers, and how one of those is chosen",
		Long: `Show the services in force: where they take traffic, who answers, and how one of those is chosen. NAME is a
service, "shop/web", or one of its ports, "shop/web:http"; of one that is named each backend is shown as well.

Exit status: 1 when no service has the name.`,
		Example: "  viaduct services\n  viaduct services shop/web\n  viaduct services --address 10.96.0.10 --backends",
		Args:    cobra.MaximumNArgs(1),
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return serviceNames(c.Context(), f.Run), cobra.ShellCompDirectiveNoFileComp
		},
	}
	var ask api.ServicesRequest
	c.Flags().StringVar(&ask.Address, "address", "", "only those that have this address as a frontend's or a backend's")
	backends := c.Flags().Bool("backends", false, "show each backend of all")
	return command(f, c, func(_ *cobra.Command, args []string) view[*api.ServicesReply] {
		ask.Name = optional(args)
		return view[*api.ServicesReply]{
			ask: func(ctx context.Context, c *Client) (*api.ServicesReply, error) {
				return c.Services(ctx, &ask)
			},
			text: func(w io.Writer, r *api.ServicesReply) error {
				return servicesText(w, r, *backends || ask.Name != "")
			},
			judge: func(r *api.ServicesReply) error {
				if ask.Name != "" && len(r.Services) == 0 {
					return exit.Fail(fmt.Errorf("no service is named %q", ask.Name))
				}
				return nil
			},
		}
	})
}

// Services asks for the services in force and gathers the stream into one reply.
func (c *Client) Services(ctx context.Context, ask *api.ServicesRequest) (*api.ServicesReply, error) {
	all := &api.ServicesReply{}
	stream, err := c.rpc.Services(ctx, ask)
	return all, gather(stream, err, func(part *api.ServicesReply) {
		all.Services = append(all.Services, part.Services...)
	})
}

// serviceNames are those in force, each once; none where no dataplane answers.
func serviceNames(ctx context.Context, run string) (names []string) {
	client, err := Connect(run)
	if err != nil {
		return nil
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	reply, err := client.Services(ctx, &api.ServicesRequest{})
	if err != nil {
		return nil
	}
	for _, s := range reply.Services {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func servicesText(w io.Writer, r *api.ServicesReply, detail bool) error {
	t := newTable("NAME", "PROTOCOL", "ALGORITHM", "FRONTENDS", ">BACKENDS", ">FLOWS")
	for _, s := range r.Services {
		ready, all, active := 0, 0, uint64(0)
		for _, b := range s.Backends {
			if b.Weight > 0 { // it is not gone
				all++
			}
			if b.State != "draining" && b.State != "ejected" {
				ready++
			}
			active += b.Active
		}
		algorithm := s.Algorithm
		if s.AffinitySeconds > 0 {
			algorithm += ", affinity " + (time.Duration(s.AffinitySeconds) * time.Second).String()
		}
		head := []any{s.Name, s.Protocol, algorithm}
		tail := []any{fmt.Sprintf("%d/%d", ready, all), active}
		for i, text := range frontendTexts(s.Frontends) {
			if i > 0 { // a further frontend of the same service
				head, tail = []any{" ", " ", " "}, []any{" ", " "}
			}
			t.add(append(append(head[:3:3], text), tail...)...)
		}
	}
	err := t.write(w)
	if detail {
		err = errors.Join(err, section(w, serviceTable(r)), section(w, backendTable(r)))
	}
	return err
}

// frontendTexts has a line for each frontend, and an empty one where there is none.
func frontendTexts(list []*api.Frontend) []string {
	if len(list) == 0 {
		return []string{""}
	}
	var texts []string
	for _, f := range list {
		address := f.Address
		if address == "" {
			address = "*" // every address of the node that has such ports
		}
		text := f.Kind + " " + endText(address, f.Port)
		if f.TrafficPolicy == "local" {
			text += " local"
		}
		if len(f.Sources) > 0 {
			text += " from " + strings.Join(f.Sources, ",")
		}
		texts = append(texts, text)
	}
	return texts
}

func serviceTable(r *api.ServicesReply) *table {
	t := newTable("SERVICE", "FAMILY", ">OPENED", ">REFUSED", "ORIGIN")
	for _, s := range r.Services {
		t.add(s.Name, familyText(s.Ipv6), s.Opened, s.Refused, s.Origin)
	}
	return t
}

func familyText(ipv6 bool) string {
	if ipv6 {
		return "ipv6"
	}
	return "ipv4"
}

func backendTable(r *api.ServicesReply) *table {
	t := newTable("SERVICE", "BACKEND", "STATE", ">WEIGHT", ">ACTIVE", ">OPENED", ">FAILED", ">EJECTIONS",
		">HANDSHAKE")
	for _, s := range r.Services {
		name := s.Name
		for _, b := range s.Backends {
			handshake := ""
			if b.HandshakeNanoseconds > 0 {
				handshake = time.Duration(b.HandshakeNanoseconds).Round(time.Microsecond).String()
			}
			t.add(name, endText(b.Address, b.Port), b.State, b.Weight, b.Active, b.Opened, b.Failed, b.Ejections, handshake)
			name = " " // a further backend of the same service
		}
	}
	return t
}
