// SPDX-License-Identifier: Apache-2.0

package xsk

import "golang.org/x/sys/unix"

// idleFlushes is the number of Flush calls without a system call after which one asks whether the device still exists.
const idleFlushes = 255

// Flush tells the kernel of queued work where it asked to be told: sendto for the tx ring, recvfrom for the fill ring.
// In copy mode the packets are transmitted inside sendto, on the caller's time.
//
// It returns ErrGone when the device vanished. Of a device that is only down it counts the fact and returns nil: what
// is on the tx ring stays there and goes out when the device is up again.
func (s *Socket) Flush() error {
	if s.gone {
		return ErrGone
	}
	if s.tx.pending() && s.tx.needWakeup() {
		s.idle = 0
		return s.transmit()
	}
	s.idle++
	if s.fill.needWakeup() && s.fill.pending() || s.idle == idleFlushes {
		s.idle = 0
		return s.wake()
	}
	return nil
}

// transmit calls sendto until the tx ring is empty or the kernel makes no more progress.
func (s *Socket) transmit() error {
	for {
		before := s.tx.progress()
		errno := kick(s.fd)
		switch errno {
		case 0, unix.EINTR:
		case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM: // completion ring, send buffer or device is full; batch is over
			s.own.TxAgain++
		case unix.EBUSY: // one packet was dropped, and completed; the others wait (xsk_generic_xmit)
			s.own.TxDropped++
		default:
			return s.judge(errno)
		}
		if !s.copy || !s.tx.pending() || s.tx.progress() == before {
			return nil
		}
	}
}

// wake calls recvfrom.
func (s *Socket) wake() error {
	switch errno := wake(s.fd); errno {
	case 0, unix.EINTR, unix.EAGAIN, unix.EBUSY:
		return nil
	default:
		return s.judge(errno)
	}
}

// judge tells a vanished device from one that is down. When a device is unregistered, or moves to another namespace,
// xsk_notifier sets the socket's error and unbinds it, and every call says ENXIO from then on. ENETDOWN means that
// IFF_UP is clear (xsk_check_common), from which a device can come back. With zero copy the driver may say ENXIO too,
// for instance while no XDP program is attached, so there the socket's error decides.
func (s *Socket) judge(errno unix.Errno) error {
	switch errno {
	case unix.ENETDOWN:
		s.own.Down++
		return nil
	case unix.ENXIO, unix.ENODEV:
		if s.copy || s.vanished() {
			s.gone = true
			return ErrGone
		}
		s.own.Down++
		return nil
	}
	s.own.TxError++
	return nil
}

func (s *Socket) vanished() bool {
	pending, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return err == nil && unix.Errno(pending) == unix.ENETDOWN
}
