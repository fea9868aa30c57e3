// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"net"

	"github.com/containerd/ttrpc"

	"github.com/viaduct-net/viaduct/control/api/attach"
	"github.com/viaduct-net/viaduct/internal/process"
)

// Serve answers on the socket, to root and to the user that this process runs as, until the context ends and what was
// asked is answered.
func (s *Service) Serve(ctx context.Context, socket net.Listener) error {
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(handshaker{}))
	if err != nil {
		return errors.Join(err, socket.Close())
	}
	attach.RegisterAttachmentsService(server, s)
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	err = server.Serve(ctx, socket)
	s.keys.idle()
	if ctx.Err() != nil || errors.Is(err, ttrpc.ErrServerClosed) {
		return nil
	}
	return err
}

// handshaker lets in whom the rest of control lets in.
type handshaker struct{}

// Handshake implements ttrpc.Handshaker.
func (handshaker) Handshake(_ context.Context, conn net.Conn) (net.Conn, any, error) {
	return process.Credentials().ServerHandshake(conn)
}
