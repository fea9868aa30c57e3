// SPDX-License-Identifier: Apache-2.0

// Package kubetest tests the Kubernetes source against a real API server, which runs in the test's process with an
// etcd of its own. It is a Go module apart, so that what an API server is made of is not in the product's go.mod.
//
// No controllers run: nothing makes EndpointSlices of Services, and a deleted namespace stays.
package kubetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
)

// token is an administrator's, tokenOfControl that of a user who may do what a test lets it.
const token, tokenOfControl = "of-a-test", "of-control"

// server is an API server: one in a process, for it has global state.
type server struct {
	address string // host:port
	dir     string
	etcd    *clientv3.Client
	stop    func() error
}

// start returns when the API server answers.
func start(dir string) (*server, error) {
	ctx, cancel := context.WithCancel(context.Background())
	etcd, store, err := startEtcd(filepath.Join(dir, "etcd"))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("etcd: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		return nil, err
	}
	done := make(chan error, 1)
	s := &server{address: listener.Addr().String(), dir: dir, etcd: store}
	s.stop = func() error {
		cancel()
		err := <-done
		store.Close()
		etcd.Close()
		return err
	}
	go func() { done <- runServer(ctx, listener, dir, etcd.Clients[0].Addr().String()) }()
	return s, s.ready(done)
}

func startEtcd(dir string) (*embed.Etcd, *clientv3.Client, error) {
	config := embed.NewConfig()
	config.Dir = dir
	config.LogLevel = "fatal" // it calls its own end an error
	config.UnsafeNoFsync = true
	anywhere := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	config.ListenClientUrls, config.ListenPeerUrls = []url.URL{anywhere}, []url.URL{anywhere}
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return nil, nil, err
	}
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		return nil, nil, err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd.Clients[0].Addr().String()}})
	return etcd, client, err
}

// runServer is kube-apiserver's main.
func runServer(ctx context.Context, listener net.Listener, dir, etcd string) error {
	key, tokens := filepath.Join(dir, "sa.key"), filepath.Join(dir, "tokens.csv")
	if err := errors.Join(writeKey(key),
		os.WriteFile(tokens, []byte(token+",admin,admin,system:masters\n"+tokenOfControl+",viaduct,viaduct\n"), 0o600)); err != nil {
		return err
	}
	s := options.NewServerRunOptions()
	flags := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	for _, set := range s.Flags().FlagSets {
		flags.AddFlagSet(set)
	}
	s.SecureServing.Listener = listener
	s.SecureServing.BindPort = listener.Addr().(*net.TCPAddr).Port
	if err := flags.Parse([]string{
		"--etcd-servers=http://" + etcd,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--cert-dir=" + filepath.Join(dir, "certs"),
		"--token-auth-file=" + tokens,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + key,
		"--service-account-signing-key-file=" + key,
		"--service-cluster-ip-range=10.0.0.0/16",
		"--endpoint-reconciler-type=none",
		"--disable-admission-plugins=ServiceAccount",
		"--authorization-mode=RBAC",
		"--etcd-compaction-interval=0",
		// Without a cache in front of etcd a watch that lost its place is answered with 410 Gone.
		"--watch-cache-sizes=services#0,networkpolicies.networking.k8s.io#0",
	}); err != nil {
		return err
	}
	if err := s.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	complete, err := s.Complete(ctx)
	if err != nil {
		return err
	}
	if errs := complete.Validate(); len(errs) > 0 {
		return errors.Join(errs...)
	}
	return app.Run(ctx, complete)
}

// writeKey makes the key that service accounts' tokens are signed with.
func writeKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

func (s *server) ready(done <-chan error) error {
	client, err := rest.HTTPClientFor(s.config(s.address, token))
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; {
		response, err := client.Get("https://" + s.address + "/readyz")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(response.Status)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the API server is not ready: %w", err)
		}
		select {
		case err := <-done:
			return fmt.Errorf("the API server ended: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// config is how to reach the API server at an address that leads to it. Its certificate was made for loopback.
func (s *server) config(address, token string) *rest.Config {
	return &rest.Config{
		Host:            "https://" + address,
		BearerToken:     token,
		QPS:             -1, // tests do not hold themselves back
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}
}

// kubeconfig writes the file that says the same, and returns its path.
func (s *server) kubeconfig(address, token string) (string, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: "https://" + address, InsecureSkipTLSVerify: true}
	config.AuthInfos["test"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test"}
	config.CurrentContext = "test"
	dir, err := os.MkdirTemp(s.dir, "kubeconfig") // a source may be reading the one before
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "config")
	return path, clientcmd.WriteToFile(*config, path)
}
