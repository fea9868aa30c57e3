// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// followHooks hears of classifiers and qdiscs that are deleted, until stop is called: without its hook, what a pod
// sends would be the host's stack's.
func (f *Forwarder) followHooks() (stop func(), err error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_TC)
	if err != nil {
		return nil, fmt.Errorf("watch hooks: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			messages, _, err := socket.Receive()
			var errno unix.Errno
			if err != nil && !errors.As(err, &errno) { // the socket is closed; the kernel's errors pass
				return
			}
			for _, m := range messages {
				f.heardOfHook(m.Header.Type, m.Data)
			}
		}
	}()
	return func() {
		socket.Close()
		<-done
	}, nil
}

// heardOfHook looks at a message, which begins with a struct tcmsg (linux/rtnetlink.h).
func (f *Forwarder) heardOfHook(kind uint16, data []byte) {
	const ifindexAt, least = 4, 20
	if kind != unix.RTM_DELTFILTER && kind != unix.RTM_DELQDISC || len(data) < least {
		return
	}
	ifindex := int(int32(binary.NativeEndian.Uint32(data[ifindexAt:])))
	if int64(ifindex) == f.hostHook.Load() || f.tables.Load().OnTrunk(ifindex) {
		f.mayBeBare(ifindex)
		f.look()
	}
}
