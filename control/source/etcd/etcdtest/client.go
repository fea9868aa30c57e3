// SPDX-License-Identifier: Apache-2.0

package etcdtest

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Client connects to the server; as Root after EnableAuth. It is closed when the test ends.
func (s *Server) Client() *clientv3.Client {
	s.t.Helper()
	client := s.dial(s.user)
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

func (s *Server) dial(login *Login) *clientv3.Client {
	s.t.Helper()
	config := clientv3.Config{Endpoints: []string{s.Endpoint}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}
	if s.pki != nil {
		config.TLS = s.pki.Client(s.t)
	}
	if login != nil {
		config.Username, config.Password = login.User, login.Password
	}
	client, err := clientv3.New(config)
	if err != nil {
		s.t.Fatalf("connect to etcd: %v", err)
	}
	return client
}

// Put writes keys and values by turns, in one transaction.
func (s *Server) Put(keysAndValues ...string) {
	s.t.Helper()
	var ops []clientv3.Op
	for i := 0; i < len(keysAndValues); i += 2 {
		ops = append(ops, clientv3.OpPut(keysAndValues[i], keysAndValues[i+1]))
	}
	s.commit(ops)
}

// Delete deletes keys, in one transaction.
func (s *Server) Delete(keys ...string) {
	s.t.Helper()
	var ops []clientv3.Op
	for _, key := range keys {
		ops = append(ops, clientv3.OpDelete(key))
	}
	s.commit(ops)
}

func (s *Server) commit(ops []clientv3.Op) {
	s.t.Helper()
	client := s.dial(s.user)
	defer client.Close()
	if _, err := client.Txn(timed(s.t)).Then(ops...).Commit(); err != nil {
		s.t.Fatalf("write to etcd: %v", err)
	}
}

// Get returns the keys with the prefix, and their values.
func (s *Server) Get(prefix string) map[string]string {
	s.t.Helper()
	client := s.dial(s.user)
	defer client.Close()
	r, err := client.Get(timed(s.t), prefix, clientv3.WithPrefix())
	if err != nil {
		s.t.Fatalf("read from etcd: %v", err)
	}
	found := map[string]string{}
	for _, kv := range r.Kvs {
		found[string(kv.Key)] = string(kv.Value)
	}
	return found
}

// Compact throws all history away, and returns the revision that is left.
func (s *Server) Compact() int64 {
	s.t.Helper()
	client := s.dial(s.user)
	defer client.Close()
	r, err := client.Get(timed(s.t), "any")
	if err == nil {
		_, err = client.Compact(timed(s.t), r.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err != nil {
		s.t.Fatalf("compact etcd: %v", err)
	}
	return r.Header.Revision
}

// EnableAuth makes Root, and the users with a role that reads below the prefix and writes below its status; then it
// turns authentication on.
func (s *Server) EnableAuth(prefix string, users ...Login) {
	s.t.Helper()
	s.enableAuth(users, prefix+"/", prefix+"/status/")
}

// EnableReadOnly is EnableAuth for users that write nothing.
func (s *Server) EnableReadOnly(prefix string, users ...Login) {
	s.t.Helper()
	s.enableAuth(users, prefix+"/", "")
}

func (s *Server) enableAuth(users []Login, readable, writable string) {
	s.t.Helper()
	client := s.dial(nil)
	defer client.Close()
	ctx := timed(s.t)
	must := func(_ any, err error) {
		if err != nil {
			s.t.Fatalf("set up users: %v", err)
		}
	}
	grant := func(below string, kind clientv3.PermissionType) {
		must(client.RoleGrantPermission(ctx, "node", below, clientv3.GetPrefixRangeEnd(below), kind))
	}
	must(client.RoleAdd(ctx, "node"))
	grant(readable, clientv3.PermissionType(clientv3.PermRead))
	if writable != "" {
		grant(writable, clientv3.PermissionType(clientv3.PermReadWrite))
	}
	must(client.UserAdd(ctx, Root.User, Root.Password))
	must(client.RoleAdd(ctx, "root"))
	must(client.UserGrantRole(ctx, Root.User, "root"))
	for _, user := range users {
		must(client.UserAdd(ctx, user.User, user.Password))
		must(client.UserGrantRole(ctx, user.User, "node"))
	}
	must(client.AuthEnable(ctx))
	s.user = &Root
}

// timed returns a context for one request.
func timed(t TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}
