// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

const (
	// answer is how long a request may take.
	answer = 10 * time.Second
	// ping is the least that gRPC allows a client, and twice what etcd's --grpc-keepalive-min-time allows.
	ping        = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// dial makes a client, and logs in where there is a user. It does not wait for a connection otherwise.
func (o *Options) dial(ctx context.Context) (*clientv3.Client, error) {
	config := clientv3.Config{
		Context:              ctx,
		Endpoints:            o.Endpoints,
		DialTimeout:          answer,
		DialKeepAliveTime:    ping,
		DialKeepAliveTimeout: pingTimeout,
		MaxUnaryRetries:      2,            // the second is for an expired token; the rest is for our own back-off
		Logger:               zap.NewNop(), // what matters of it is returned as well
		DialOptions:          []grpc.DialOption{grpc.WithChainUnaryInterceptor(failFast)},
	}
	if o.secure() {
		config.DialOptions = append(config.DialOptions,
			grpc.WithTransportCredentials(&rotating{ca: o.CA, cert: o.Cert, key: o.Key}))
	}
	if o.User != "" {
		password, err := o.password()
		if err != nil {
			return nil, err
		}
		config.Username, config.Password = o.User, password
	}
	return clientv3.New(config)
}

// failFast makes a request fail with what is wrong with the connection. The client's own choice is to wait until the
// request's time is up, and to say only that.
func failFast(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	return invoke(ctx, method, request, reply, conn, append(options, grpc.WaitForReady(false))...)
}

// rotating is TLS with files that are read at each handshake.
type rotating struct {
	ca, cert, key string
}

func (r *rotating) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if r.ca != "" {
		text, err := os.ReadFile(r.ca)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("read authorities: %s has no certificate in PEM", r.ca)
		}
	}
	if r.cert != "" {
		pair, err := tls.LoadX509KeyPair(r.cert, r.key)
		if err != nil {
			return nil, fmt.Errorf("read our certificate %s: %w", r.cert, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (r *rotating) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (
	net.Conn, credentials.AuthInfo, error) {
	config, err := r.config()
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

// ServerHandshake implements credentials.TransportCredentials.
func (r *rotating) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("not a server")
}

// Info implements credentials.TransportCredentials.
func (r *rotating) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (r *rotating) Clone() credentials.TransportCredentials { return r }

// OverrideServerName implements credentials.TransportCredentials.
func (r *rotating) OverrideServerName(string) error { return nil }

// advice is what to do about errors that only people can put right.
var advice = []struct{ part, todo string }{
	{"certificate signed by unknown authority", "is --etcd-ca the authority of etcd's certificate?"},
	{"x509: certificate is", "the endpoint has to be named as in etcd's certificate"},
	{"certificate required", "etcd asks for a certificate: --etcd-cert and --etcd-key"},
	{"remote error: tls: bad certificate", "etcd refuses our certificate: --etcd-cert and --etcd-key"},
	{"remote error: tls: unknown certificate authority", "etcd does not know the authority of --etcd-cert"},
	{"remote error: tls: expired certificate", "--etcd-cert has expired"},
	{"first record does not look like a TLS handshake", "is the endpoint http?"},
	{"EOF", "the connection was ended at once or midway: is the endpoint http, or is it https?"},
	{rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthFailed), "see --etcd-user and --etcd-password-file"},
	{rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty), "etcd asks for a user: --etcd-user and --etcd-password-file"},
	{rpctypes.ErrorDesc(rpctypes.ErrGRPCPermissionDenied), "the user needs a role that reads the prefix"},
	{rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader), "its member is cut off from the others, or most are down"},
}

var (
	statusPrefix = regexp.MustCompile(`rpc error: code = \w+ desc = `)
	// ourEnd differs from attempt to attempt, and the trouble would be another each time.
	ourEnd = regexp.MustCompile(`(read|write) (tcp|udp) [^ >]+->`)
)

// explain words an error in one line: what gRPC wraps around the cause goes, what to do about it comes.
func explain(err error) string {
	text := err.Error()
	if s, ok := status.FromError(err); ok && s.Message() != "" {
		text = s.Message()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		text = fmt.Sprintf("no answer within %s", answer)
	}
	text = ourEnd.ReplaceAllString(statusPrefix.ReplaceAllString(text, ""), "$1 $2 ")
	for _, wrapping := range []string{
		"connection error: desc = ", "transport: Error while dialing: ", "transport: authentication handshake failed: ",
		"last connection error: ",
	} {
		text = strings.ReplaceAll(text, wrapping, "")
	}
	text = strings.Join(strings.Fields(strings.ReplaceAll(text, `"`, "")), " ")
	for _, a := range advice {
		if strings.Contains(text, a.part) {
			return text + " (" + a.todo + ")"
		}
	}
	return text
}
