// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/perf/bpf"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// The generator's flows go one way. To a connection tracker one is established when it was answered: each is, once,
// by sockets with its ports.
const (
	establishPort  = bpf.DestinationPort // of all flows up to maxEstablished
	maxEstablished = 10_000
)

// established measures as trial does, with flows that were answered before.
func (f *Forward) established(ctx context.Context, r *rig.Rig, s peer.Subject) ([]Sample, error) {
	if err := establish(ctx, r, f.Flows); err != nil {
		return nil, fmt.Errorf("establish %d flows: %w", f.Flows, err)
	}
	return f.trial(ctx, r, s)
}

// establish has each flow answered.
func establish(ctx context.Context, r *rig.Rig, flows int) error {
	server := -1
	err := r.Sink.Do(func() (err error) {
		server, err = datagrams(netip.AddrPortFrom(r.Sunk.Addr4.Addr(), establishPort))
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(server)
	answering, stop := context.WithCancel(ctx)
	answered := make(chan error, 1)
	go func() { answered <- answer(answering, server) }()
	err = r.Generator.Do(func() error {
		for i := range flows {
			if err := establishOne(ctx, r, uint16(bpf.SourcePort+i)); err != nil {
				return err
			}
		}
		return nil
	})
	stop()
	return errors.Join(err, <-answered)
}

// establishOne sends until it is answered; the first packets of all may be lost to a subject that has just started.
func establishOne(ctx context.Context, r *rig.Rig, from uint16) error {
	client, err := datagrams(netip.AddrPortFrom(r.Gen.Addr4.Addr(), from))
	if err != nil {
		return err
	}
	defer unix.Close(client)
	to := &unix.SockaddrInet4{Addr: r.Sunk.Addr4.Addr().As4(), Port: establishPort}
	for deadline := time.Now().Add(passTimeout); ; {
		if err := unix.Sendto(client, []byte{0}, 0, to); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		if _, err := unix.Read(client, make([]byte, 1)); err == nil || !again(err) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return errors.New("no datagram came through")
		}
	}
}

// answer sends datagrams back until ctx is done.
func answer(ctx context.Context, server int) error {
	for ctx.Err() == nil {
		if err := answerOne(server); err != nil && !again(err) && !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return nil
}

// answerOne sends a datagram back.
func answerOne(server int) error {
	b := make([]byte, 64)
	n, from, err := unix.Recvfrom(server, b, 0)
	if err != nil {
		return err
	}
	return unix.Sendto(server, b[:n], 0, from)
}

// datagrams opens a UDP socket of the calling thread's namespace at an address.
func datagrams(at netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	err = errors.Join(setTimeout(fd, patience), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}))
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("listen at %s: %w", at, err)
	}
	return fd, nil
}
