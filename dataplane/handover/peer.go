// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/process"
)

// SocketName is the name of the socket in the run directory.
const SocketName = "handover.sock"

// Listener is where a dataplane waits for its successor.
type Listener struct {
	l    *net.UnixListener
	path string
}

// Listen listens in the run directory, which the caller has claimed, for root and its own user alone: a successor gets
// what all pods send.
func Listen(run string) (*Listener, error) {
	path := filepath.Join(run, SocketName)
	aside := filepath.Join(run, "."+SocketName) // until its permissions are right
	for _, left := range []string{path, aside} {
		if err := os.Remove(left); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("wait for a successor: %w", err)
		}
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: aside, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("wait for a successor: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(aside, 0o600), os.Rename(aside, path)); err != nil {
		return nil, fmt.Errorf("wait for a successor: %w", errors.Join(err, l.Close()))
	}
	return &Listener{l, path}, nil
}

// Accept waits for a successor. One that runs as another user than root or this process's is sent away.
func (l *Listener) Accept() (*Conn, process.Peer, error) {
	for {
		c, err := l.l.AcceptUnix()
		if err != nil {
			return nil, process.Peer{}, err
		}
		peer, err := process.CheckPeer(c)
		if err == nil {
			return &Conn{c}, peer, nil
		}
		_ = c.Close()
	}
}

// Close stops waiting. The socket is the successor's to replace.
func (l *Listener) Close() error { return l.l.Close() }

// Remove is Close where there is no successor to replace the socket.
func (l *Listener) Remove() error { return errors.Join(l.Close(), os.Remove(l.path)) }

// Dial asks the dataplane of a run directory. The error is fs.ErrNotExist, wrapped, where none runs.
func Dial(run string) (*Conn, error) {
	path := filepath.Join(run, SocketName)
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("ask the dataplane that runs: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the dataplane that runs: %w", err)
	}
	if _, err := process.CheckPeer(c); err != nil {
		return nil, fmt.Errorf("ask the dataplane that runs: %w", errors.Join(err, c.Close()))
	}
	return &Conn{c}, nil
}
