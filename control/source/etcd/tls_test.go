// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/control/source/etcd/etcdtest"
)

func secure(server *etcdtest.Server, pki *etcdtest.PKI) Options {
	return Options{Endpoints: []string{server.Endpoint}, CA: pki.CA, Cert: pki.ClientCert, Key: pki.ClientKey}
}

// TestTLS: a certificate of ours, and a rotated one.
func TestTLS(t *testing.T) {
	t.Parallel()
	pki := etcdtest.NewPKI(t)
	server := etcdtest.StartTLS(t, pki)
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"))
	r := run(t, secure(server, pki))
	r.expect(t, "Route a 10.0.0.0/8")
	pki.Renew(t)
	server.Restart()
	server.Put(route("a"), blackhole("a", "11.0.0.0/8"))
	r.expect(t, "Route a 11.0.0.0/8")
}

// TestTLSTrouble: what is wrong with certificates is said, with the flag to look at, and files that are put right are
// taken.
func TestTLSTrouble(t *testing.T) {
	t.Parallel()
	pki, other := etcdtest.NewPKI(t), etcdtest.NewPKI(t)
	server := etcdtest.StartTLS(t, pki)
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"))
	good := secure(server, pki)
	for name, c := range map[string]struct {
		options Options
		words   []string
	}{
		"wrong authority": {Options{CA: other.CA, Cert: good.Cert, Key: good.Key},
			[]string{"unknown authority", "--etcd-ca"}},
		"no certificate": {Options{CA: good.CA}, []string{"--etcd-cert"}},
		"certificate of others": {Options{CA: good.CA, Cert: other.ClientCert, Key: other.ClientKey},
			[]string{"--etcd-cert"}},
		"missing file": {Options{CA: "/nowhere/ca.pem"}, []string{"/nowhere/ca.pem", "no such file"}},
		"no PEM":       {Options{CA: os.Args[0]}, []string{"no certificate in PEM"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.options.Endpoints = good.Endpoints
			run(t, c.options).expectTrouble(t, append(c.words, server.Endpoint)...)
		})
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	copyFile(t, other.CA, ca)
	o := good
	o.CA = ca
	r := run(t, o)
	r.expectTrouble(t, "--etcd-ca")
	copyFile(t, pki.CA, ca)
	r.expect(t, "Route a 10.0.0.0/8")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestPlainToTLS: http where https is meant, and the other way round.
func TestPlainToTLS(t *testing.T) {
	t.Parallel()
	pki := etcdtest.NewPKI(t)
	plain, secured := etcdtest.Start(t), etcdtest.StartTLS(t, pki)
	swapped := func(s *etcdtest.Server, scheme string) []string {
		_, address, _ := strings.Cut(s.Endpoint, "://")
		return []string{scheme + "://" + address}
	}
	run(t, Options{Endpoints: swapped(plain, "https"), CA: pki.CA}).expectTrouble(t, "is the endpoint http")
	run(t, Options{Endpoints: swapped(secured, "http")}).expectTrouble(t, "is it https")
}

// TestUsers: a wrong password, no user, and a password that is put right in its file.
func TestUsers(t *testing.T) {
	server := etcdtest.Start(t)
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"))
	node := etcdtest.Login{User: "node-a", Password: "secret"}
	server.EnableAuth("/viaduct", node, etcdtest.Login{User: "other", Password: "secret"})
	at := []string{server.Endpoint}

	run(t, Options{Endpoints: at}).expectTrouble(t, "--etcd-user")
	file := filepath.Join(t.TempDir(), "password")
	run(t, Options{Endpoints: at, User: "node-a", PasswordFile: file}).expectTrouble(t, "no such file")
	if err := os.WriteFile(file, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, Options{Endpoints: at, User: "node-a", PasswordFile: file, Node: "a"})
	r.expectTrouble(t, "authentication failed", "--etcd-password-file")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "Route a 10.0.0.0/8")
	server.Restart() // with it our token ends
	server.Put(route("a"), blackhole("a", "11.0.0.0/8"))
	r.expect(t, "Route a 11.0.0.0/8")
	expectStatus(t, server, "/viaduct/status/a")

	t.Setenv(PasswordVariable, "secret")
	run(t, Options{Endpoints: at, User: "node-a"}).expect(t, "Route a 11.0.0.0/8")
	run(t, Options{Endpoints: at, User: "node-a", Prefix: "/elsewhere"}).expectTrouble(t, "permission denied", "role")
}
