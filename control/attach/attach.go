// SPDX-License-Identifier: Apache-2.0

// Package attach serves control/api/attach to the CNI plugin: it leases addresses for pods' interfaces, has the
// dataplane know their ports before it answers, and takes back what no device belongs to any more.
//
// The order of the files is that of a pod's life: attach.go is the service and what it knows of the node, request.go
// reads what is asked for, add.go attaches, reply.go says what the interface is to be like, check.go looks, remove.go
// takes back, sweep.go does so for those that nobody removed, with what links.go sees. keys.go keeps calls for one
// attachment apart, errors.go gives errors their codes, serve.go is the socket, usage.go says how much is left.
package attach

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/lease"
	"github.com/viaduct-net/viaduct/control/push"
)

// Control is what has attachments in force: a *push.Server.
type Control interface {
	Attach(ctx context.Context, set []*compile.Attachment, removed []string) error
	Detach(ports []string)
	Attachable() error
	InForce(port string) error
}

// Within is how long an answer takes at most. The plugin waits a little longer.
const Within = 15 * time.Second

// Config is how a service works.
type Config struct {
	Store   *lease.Store
	Control Control // may be set until the service is served
	Logger  *zap.Logger
	Links   *Links        // the node's devices; nil: none is looked at
	Within  time.Duration // 0: Within
}

// Service implements attach.AttachmentsService. What it says is attached is in the store, on disk, and in force.
type Service struct {
	cfg      Config
	log      *zap.Logger
	store    *lease.Store
	keys     keys
	settings atomic.Pointer[push.Settings] // nil: not known yet
	metrics  metrics
	scarce   scarce
}

// New returns a service over the store, which stays the caller's to close, after Serve has returned.
func New(cfg Config) *Service {
	if cfg.Within == 0 {
		cfg.Within = Within
	}
	return &Service{cfg: cfg, log: cfg.Logger, store: cfg.Store, keys: newKeys(), metrics: newMetrics()}
}

// Use says who has attachments in force. It is to be called before Serve and Sweep.
func (s *Service) Use(control Control) { s.cfg.Control = control }

// Configure takes the node's settings. Nothing is attached before.
func (s *Service) Configure(settings push.Settings) {
	s.store.Configure(settings.Pools, settings.Excluded)
	s.settings.Store(&settings)
	s.watch()
}

// Known are the attachments in the store, which control is to begin with.
func Known(store *lease.Store) (list []*compile.Attachment) {
	for _, a := range store.All() {
		list = append(list, attachment(a))
	}
	return list
}

// attachment is what the compiler has to know.
func attachment(a lease.Attachment) *compile.Attachment {
	return &compile.Attachment{
		Port: a.Port, Device: a.Device, IfIndex: a.IfIndex, MAC: a.MAC, Direct: a.Direct, Addresses: a.Addresses,
		PodNamespace: a.PodNamespace, PodName: a.PodName, PodUID: a.PodUID,
		Egress:    compile.Rate{BitsPerSecond: a.Bandwidth.EgressRate, BurstBits: a.Bandwidth.EgressBurst},
		Ingress:   compile.Rate{BitsPerSecond: a.Bandwidth.IngressRate, BurstBits: a.Bandwidth.IngressBurst},
		HostPorts: hostPorts(a.HostPorts),
	}
}

func hostPorts(list []lease.HostPort) (ports []compile.HostPort) {
	for _, p := range list {
		ports = append(ports, compile.HostPort{
			HostIP: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: protocols[p.Protocol]})
	}
	return ports
}

// protocols are those of host ports, by their names.
var protocols = map[string]api.Protocol{
	"tcp": api.Protocol_PROTOCOL_TCP, "udp": api.Protocol_PROTOCOL_UDP, "sctp": api.Protocol_PROTOCOL_SCTP,
}

// queues is the number of the dataplane's workers: a device with an XDP hook has a queue for each.
func queues(s *push.Settings) uint32 {
	if s.Workers != 0 {
		return s.Workers
	}
	return uint32(max(runtime.NumCPU()/2, 1))
}
