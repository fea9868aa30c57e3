// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// page is the number of keys that are read at once.
const page = 1000

// errCompacted says that etcd no longer has the revisions that would be needed to go on.
var errCompacted = rpctypes.ErrCompacted

// position is how far we have come in the history of a cluster. The zero value is nowhere.
type position struct {
	cluster uint64
	term    uint64   // Raft's; within one history it never falls
	next    [2]int64 // the revision that each span is to be watched from
}

// catchUp brings what is held to a position that can be watched from.
func (s *Source) catchUp(ctx context.Context, client *clientv3.Client) error {
	same, err := s.sameHistory(ctx, client)
	if err != nil || same {
		return err
	}
	var items []item
	var at position
	for _, span := range s.spans {
		if items, err = s.readSpan(ctx, client, span, &at, items); err != nil {
			return err
		}
	}
	s.held.replace(items)
	s.at = at
	s.log.Info("etcd was read", zap.Int("keys", len(items)), zap.Int64("revision", at.next[0]-1))
	return nil
}

// readSpan appends the keys of a span. The first page of the first span decides on the revision at which all are read.
func (s *Source) readSpan(ctx context.Context, client *clientv3.Client, span span, at *position, items []item) (
	[]item, error) {
	for from := span.from; ; {
		r, err := get(ctx, client, span, from, at.next[0]-1)
		if err != nil {
			return nil, err
		}
		if *at == (position{}) {
			next := r.Header.Revision + 1
			*at = position{cluster: r.Header.ClusterId, next: [2]int64{next, next}}
		}
		if at.cluster != r.Header.ClusterId {
			return nil, errors.New("the endpoints are not of one cluster")
		}
		at.term = max(at.term, r.Header.RaftTerm)
		for _, kv := range r.Kvs {
			items = append(items, s.item(kv))
		}
		if !r.More {
			return items, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// get reads a page of the span at the revision, or at the latest one when that is not above 0.
func get(ctx context.Context, client *clientv3.Client, s span, from string, revision int64) (
	*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	return client.Get(ctx, from, clientv3.WithRange(s.to), clientv3.WithLimit(page), clientv3.WithRev(max(revision, 0)))
}

func (s *Source) item(kv *mvccpb.KeyValue) item {
	i := item{key: string(kv.Key), mark: mark{kv.ModRevision, kv.Version}}
	i.object, i.err = decode(s.options.Prefix, i.key, kv.Value)
	switch {
	case i.object != nil:
		i.object.UID = strconv.FormatInt(kv.CreateRevision, 10)
	case i.err != nil:
		i.node = whose(s.options.Prefix, i.key, kv.Value)
	}
	return i
}

// sameHistory says whether etcd is where we left it or further, rather than another or one that was set back. It must
// be the same cluster, in no earlier term, and at the revisions that we have come to it must have as many keys as we
// hold, and the one that was written last with the same write.
func (s *Source) sameHistory(ctx context.Context, client *clientv3.Client) (bool, error) {
	if s.at == (position{}) {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	newest, written := s.held.newest()
	var questions []clientv3.Op
	var counts []int64
	for i, span := range s.spans {
		there := clientv3.WithRev(s.at.next[i] - 1)
		questions = append(questions, clientv3.OpGet(span.from, clientv3.WithRange(span.to), clientv3.WithCountOnly(), there))
		counts = append(counts, s.held.count(span))
		if span.has(newest) {
			questions = append(questions, clientv3.OpGet(newest, there))
			counts = append(counts, 1)
		}
	}
	r, err := client.Txn(ctx).Then(questions...).Commit()
	switch {
	case errors.Is(err, rpctypes.ErrFutureRev):
		s.log.Warn("etcd was set back: all is read again")
		return false, nil
	case err != nil:
		return false, err
	}
	if s.at.cluster != r.Header.ClusterId || r.Header.RaftTerm < s.at.term || !match(r.Responses, counts, written) {
		s.log.Warn("etcd has another history than before: all is read again")
		return false, nil
	}
	return true, nil
}

// match compares counts of keys, and the mark of the key that comes along.
func match(answers []*pb.ResponseOp, counts []int64, written mark) bool {
	for i, a := range answers {
		r := a.GetResponseRange()
		if r.GetCount() != counts[i] {
			return false
		}
		for _, kv := range r.GetKvs() {
			if (mark{kv.ModRevision, kv.Version}) != written {
				return false
			}
		}
	}
	return true
}
