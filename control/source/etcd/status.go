// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/internal/process"
)

const (
	// between is the least time between two rounds of writing: an epoch may last for milliseconds only.
	between = 500 * time.Millisecond
	// together is the number of keys in one transaction; etcd's --max-txn-ops is 128.
	together = 100
	// longest is how many bytes of a text are written.
	longest = 1024
)

// nodeStatus is the value of PREFIX/status/NODE.
type nodeStatus struct {
	Node    string    `json:"node"`
	Version string    `json:"version"` // of this program
	Epoch   uint64    `json:"epoch"`   // in force; 0 when not known yet
	Refused int       `json:"refused"` // number of objects, each of which has a key below this one
	Updated time.Time `json:"updated"`
}

// objectStatus is the value of PREFIX/status/NODE/KIND/[NAMESPACE/]NAME, for an object that the node refuses.
type objectStatus struct {
	Applied bool   `json:"applied"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
	Epoch   uint64 `json:"epoch"`
}

// statuses are what the node says of itself: what shall be in etcd, and what is.
type statuses struct {
	folder string // PREFIX/status
	ttl    time.Duration
	log    *zap.Logger
	wake   chan struct{}

	mu      sync.Mutex
	node    nodeStatus
	refused map[model.Key]objectStatus
	broken  map[model.Key]brokenStatus

	// What follows is write's, and revoke's after it.
	lease   clientv3.LeaseID  // 0: none
	known   bool              // written is what there is
	written map[string]string // under the lease
	untaken map[string]string // values that etcd does not take
}

// brokenStatus is the status of an object that does not decode.
type brokenStatus struct {
	objectStatus
	node string // that the object is for; empty: for each
}

func newStatuses(o *Options) *statuses {
	version, _, _ := process.Build()
	return &statuses{
		folder:  o.Prefix + "/" + statusFolder,
		ttl:     o.TTL,
		log:     o.Logger,
		wake:    make(chan struct{}, 1),
		node:    nodeStatus{Node: o.Node, Version: version, Updated: time.Now().UTC().Truncate(time.Second)},
		refused: map[model.Key]objectStatus{},
		broken:  map[model.Key]brokenStatus{},
		untaken: map[string]string{},
	}
}

// take takes note of a report.
func (s *statuses) take(r source.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if validNode(r.Node) {
		s.node.Node = r.Node
	}
	s.node.Epoch = r.Epoch
	for _, one := range r.Statuses {
		if one.Applied || one.Gone {
			delete(s.refused, one.Object.Key)
			continue
		}
		s.refused[one.Object.Key] = objectStatus{Field: cut(one.Field), Message: cut(one.Message), Epoch: r.Epoch}
	}
	s.changed()
}

// cut shortens what would be no line to read.
func cut(text string) string {
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "…"
}

// unread takes note of all that does not decode, by its key in etcd.
func (s *statuses) unread(prefix string, refusals map[string]refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	broken := map[model.Key]brokenStatus{}
	for at, r := range refusals {
		key, ok := parseKey(prefix, at)
		if !ok {
			continue // no object's
		}
		b := brokenStatus{objectStatus{Field: cut(r.err.Field), Message: cut(r.err.Reason), Epoch: s.node.Epoch}, r.node}
		if was, stands := s.broken[key]; stands && was.Field == b.Field && was.Message == b.Message {
			b.Epoch = was.Epoch
		}
		broken[key] = b
	}
	if !maps.Equal(broken, s.broken) {
		s.broken = broken
		s.changed()
	}
}

// forget drops the status of an object that is gone.
func (s *statuses) forget(k model.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.refused[k]; ok {
		delete(s.refused, k)
		s.changed()
	}
}

// changed is called under the lock.
func (s *statuses) changed() {
	s.node.Updated = time.Now().UTC().Truncate(time.Second)
	select {
	case s.wake <- struct{}{}:
	default: // a round is pending, and will find this
	}
}

// wanted is what shall be in etcd; nothing as long as the node's name is not known.
func (s *statuses) wanted() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node.Node == "" {
		return nil
	}
	own := s.folder + "/" + s.node.Node
	want := map[string]string{}
	for key, status := range s.refused {
		want[formatKey(own, key)] = text(status)
	}
	for key, b := range s.broken {
		if b.node == "" || b.node == s.node.Node {
			want[formatKey(own, key)] = text(b.objectStatus)
		}
	}
	s.node.Refused = len(want)
	want[own] = text(s.node)
	return want
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // structs of strings, numbers and times
	}
	return string(b)
}

// write keeps the lease alive, and etcd as wanted, until ctx is done. Failures are of no consequence to the source: a
// user may be allowed to read only.
func (s *statuses) write(ctx context.Context, client *clientv3.Client) {
	alive := time.NewTicker(s.ttl / 3)
	defer alive.Stop()
	s.known = false
	pause := between
	for {
		err := s.round(ctx, client)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if pause == between {
				s.log.Warn("the node's status is not written to etcd", zap.String("reason", explain(err)))
			}
			pause = min(2*pause, s.ttl/3)
			sleep(ctx, pause)
			continue
		}
		pause = between
		sleep(ctx, between)
		select {
		case <-ctx.Done():
		case <-alive.C:
		case <-s.wake:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// round renews the lease, or takes one, and writes what differs.
func (s *statuses) round(ctx context.Context, client *clientv3.Client) error {
	want := s.wanted()
	if want == nil {
		return nil
	}
	if err := s.renew(ctx, client); err != nil {
		return err
	}
	maps.DeleteFunc(s.untaken, func(key, value string) bool { return want[key] != value })
	var keys []string
	for key, value := range want {
		if s.written[key] != value && s.untaken[key] != value {
			keys = append(keys, key)
		}
	}
	for key := range s.written {
		if _, ok := want[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for part := range slices.Chunk(keys, together) {
		err := s.commit(ctx, client, part, want)
		if tooLarge(err) {
			err = s.commitEach(ctx, client, part, want)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tooLarge says whether etcd, or gRPC before it, takes so much in no request.
func tooLarge(err error) bool {
	return errors.Is(err, rpctypes.ErrRequestTooLarge) || errors.Is(err, rpctypes.ErrTooManyOps) ||
		err != nil && strings.Contains(err.Error(), "message larger than max")
}

// commitEach makes the keys in etcd as wanted, but for those that it does not take.
func (s *statuses) commitEach(ctx context.Context, client *clientv3.Client, keys []string,
	want map[string]string) error {
	for i, key := range keys {
		err := s.commit(ctx, client, keys[i:i+1], want)
		switch {
		case tooLarge(err):
			s.untaken[key] = want[key]
			s.log.Warn("etcd does not take a status", zap.String("key", cut(key)), zap.String("reason", explain(err)))
		case err != nil:
			return err
		}
	}
	return nil
}

// commit makes the keys in etcd as wanted.
func (s *statuses) commit(ctx context.Context, client *clientv3.Client, keys []string, want map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	var ops []clientv3.Op
	for _, key := range keys {
		if value, ok := want[key]; ok {
			ops = append(ops, clientv3.OpPut(key, value, clientv3.WithLease(s.lease)))
		} else {
			ops = append(ops, clientv3.OpDelete(key))
		}
	}
	if _, err := client.Txn(ctx).Then(ops...).Commit(); err != nil {
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			s.lease, s.known = 0, false
		}
		return err
	}
	for _, key := range keys {
		if value, ok := want[key]; ok {
			s.written[key] = value
		} else {
			delete(s.written, key)
		}
	}
	return nil
}

// renew keeps the lease alive, or takes one when there is none any more: what was written has vanished with it.
func (s *statuses) renew(ctx context.Context, client *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	if s.lease != 0 {
		_, err := client.KeepAliveOnce(ctx, s.lease)
		switch {
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			s.lease, s.known = 0, false
		case err != nil:
			return err
		}
	}
	if s.lease == 0 {
		lease, err := client.Grant(ctx, int64(s.ttl/time.Second))
		if err != nil {
			return err
		}
		s.lease = lease.ID
	}
	if s.known {
		return nil
	}
	return s.find(ctx, client)
}

// find lists the node's keys, so that all are written again, and those that an earlier process has left are removed.
func (s *statuses) find(ctx context.Context, client *clientv3.Client) error {
	s.mu.Lock()
	own := s.folder + "/" + s.node.Node
	s.mu.Unlock()
	r, err := client.Get(ctx, own+"/", clientv3.WithRange(own+"0"), clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	s.written, s.known = map[string]string{}, true
	for _, kv := range r.Kvs {
		s.written[string(kv.Key)] = "" // not what is wanted, whatever that is
	}
	return nil
}

// revoke makes what was written vanish at once. It is tried for a moment only: the lease ends by itself.
func (s *statuses) revoke(client *clientv3.Client) {
	if s.lease == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := client.Revoke(ctx, s.lease); err != nil {
		s.log.Info("the node's status is left to its lease", zap.Error(err))
	}
	s.lease = 0
}
