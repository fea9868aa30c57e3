// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
)

// MaxMessage is the size of the largest gRPC message that either end takes, in bytes: a snapshot of some ten million
// routes.
const MaxMessage = 1 << 30

// maxPath is the longest path of a unix socket, in bytes: sun_path of unix(7) less its last zero.
const maxPath = 107

// Listen listens on a unix socket for root and its group. One that a killed process left is replaced: who calls has
// claimed the directory.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if len(path)+1 > maxPath {
		return nil, &SetUpError{fmt.Errorf("%s has %d bytes, and a unix socket's path %d at most: choose a shorter --run",
			path, len(path), maxPath-1)}
	}
	_ = os.Remove(path)
	// Made under a name of its own, so that nobody finds it before its permissions are right.
	aside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	_ = os.Remove(aside)
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", aside)
	if err != nil {
		return nil, &SetUpError{fmt.Errorf("listen on %s: %w", path, err)}
	}
	l := &socket{listener.(*net.UnixListener), path}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(aside, 0o660), os.Rename(aside, path)); err != nil {
		return nil, &SetUpError{errors.Join(err, l.Close())}
	}
	return l, nil
}

// socket removes its file when it is closed.
type socket struct {
	*net.UnixListener
	path string
}

func (s *socket) Close() error {
	_ = os.Remove(s.path)
	return s.UnixListener.Close()
}

// Dial returns a client of the gRPC server on the unix socket, with Credentials. It connects when it is first used;
// while it cannot, calls fail with codes.Unavailable, and it tries again within two seconds.
func Dial(path string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+filepath.Base(path),
		grpc.WithTransportCredentials(Credentials()),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second,
			},
			MinConnectTimeout: 2 * time.Second, // else an attempt has the delay's time, too little on a busy machine
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}))
}

// Peer is the process at the other end of a unix socket at the time it connected or listened, as the kernel has it
// (SO_PEERCRED, unix(7)). It is the AuthInfo of connections with Credentials.
type Peer struct {
	PID      int32 // 0 when it is outside our pid namespace
	UID, GID uint32
}

// AuthType implements credentials.AuthInfo.
func (Peer) AuthType() string { return "unix" }

// Credentials are gRPC's for unix sockets between the parts of Viaduct: each end takes the other only when it runs as
// root or as the same user. What the permissions of the socket allow is not enough: the one end is given the tables
// of the whole node, and the other gives them.
func Credentials() credentials.TransportCredentials { return unixCredentials{} }

type unixCredentials struct{}

func (unixCredentials) ClientHandshake(
	_ context.Context, _ string, c net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	return check(c)
}

func (unixCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return check(c)
}

func (unixCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

func (c unixCredentials) Clone() credentials.TransportCredentials { return c }

func (unixCredentials) OverrideServerName(string) error { return nil }

func check(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	peer, err := CheckPeer(c)
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, peer, nil
}

// CheckPeer returns the process at the other end of a unix socket, or an error unless it runs as root or as the same
// user.
func CheckPeer(c net.Conn) (Peer, error) {
	peer, err := peerOf(c)
	if err == nil && peer.UID != 0 && int(peer.UID) != os.Geteuid() {
		err = fmt.Errorf("the process at the other end runs as user %d, not as root or as user %d", peer.UID, os.Geteuid())
	}
	return peer, err
}

func peerOf(c net.Conn) (Peer, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return Peer{}, fmt.Errorf("a %T is no unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return Peer{}, fmt.Errorf("credentials of the other end: %w", err)
	}
	return Peer{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}, nil
}
