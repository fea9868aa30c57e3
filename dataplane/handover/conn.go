// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A message is one or more packets of a SOCK_SEQPACKET socket, each with a header and up to packetFiles files. The
// first file of all, where there is one, is a file in memory with the body in JSON: a packet has no room for it.
const (
	magic       = "viaductH"
	headerSize  = len(magic) + 3*4 // kind, number of files that follow in this packet, and in all
	packetFiles = 250              // SCM_MAX_FD is 253 (net/scm.h)
	maxFiles    = 1 << 14
	maxBody     = 1 << 30
)

// Kind is what a message is.
type Kind uint32

// The kinds of messages, in their order.
const (
	HelloMessage Kind = iota + 1
	OfferMessage
	ReadyMessage
	StateMessage
	CommitMessage
	RefusalMessage
)

var kinds = [...]string{"?", "hello", "offer", "ready", "state", "commit", "refusal"}

func (k Kind) String() string { return kinds[min(int(k), len(kinds)-1)%len(kinds)] }

// RefusedError is what the predecessor refused with.
type RefusedError struct{ Reason string }

// Error is the reason.
func (e *RefusedError) Error() string {
	return "the dataplane that runs does not hand over: " + e.Reason
}

// Conn is one end of a hand-over.
type Conn struct{ c *net.UnixConn }

// Close ends the hand-over; before the commit it leaves things with the predecessor.
func (c *Conn) Close() error { return c.c.Close() }

// Send sends a message within a time. body is encoded in JSON, nil: there is none. The files stay the caller's.
func (c *Conn) Send(kind Kind, within time.Duration, body any, files ...*os.File) error {
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode %s: %w", kind, err)
		}
		file, err := NewFile(b)
		if err != nil {
			return err
		}
		defer file.Close()
		files = append([]*os.File{file}, files...)
	}
	_ = c.c.SetWriteDeadline(time.Now().Add(within))
	for first := true; first || len(files) > 0; first = false {
		part := files[:min(len(files), packetFiles)]
		if err := c.send(kind, part, len(files)); err != nil {
			return fmt.Errorf("send %s: %w", kind, err)
		}
		files = files[len(part):]
	}
	return nil
}

func (c *Conn) send(kind Kind, files []*os.File, rest int) error {
	header := append(make([]byte, 0, headerSize), magic...)
	for _, n := range []uint32{uint32(kind), uint32(len(files)), uint32(rest)} {
		header = binary.BigEndian.AppendUint32(header, n)
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err := c.c.WriteMsgUnix(header, rights, nil)
	return err
}

// Receive waits for a message of the kind, for a time, decodes its body, unless that is nil, and returns its files,
// which are the caller's. A refusal is a *RefusedError; the other end's death is io.EOF, wrapped.
func (c *Conn) Receive(kind Kind, within time.Duration, body any) ([]*os.File, error) {
	_ = c.c.SetReadDeadline(time.Now().Add(within))
	got, files, err := c.receive()
	if err == nil && got == RefusalMessage {
		var r Refusal
		if files, err = decode(files, &r); err == nil {
			err = &RefusedError{r.Reason}
		}
	}
	if err == nil && got != kind {
		err = fmt.Errorf("%s came in its place", got)
	}
	if err == nil && body != nil {
		files, err = decode(files, body)
	}
	if err != nil {
		CloseFiles(files)
		return nil, fmt.Errorf("receive %s: %w", kind, err)
	}
	return files, nil
}

func (c *Conn) receive() (kind Kind, files []*os.File, err error) {
	for first := true; ; first = false {
		part, of, rest, err := c.receivePart()
		files = append(files, part...)
		switch {
		case err != nil:
			return 0, files, err
		case !first && of != kind, rest > maxFiles:
			return 0, files, errors.New("parts do not fit")
		case rest == len(part):
			return of, files, nil
		}
		kind = of
	}
}

func (c *Conn) receivePart() (files []*os.File, kind Kind, rest int, err error) {
	header := make([]byte, headerSize+1)
	rights := make([]byte, unix.CmsgSpace(4*packetFiles))
	n, oobn, flags, _, err := c.c.ReadMsgUnix(header, rights)
	if err != nil {
		return nil, 0, 0, err
	}
	if messages, parseErr := unix.ParseSocketControlMessage(rights[:oobn]); parseErr == nil {
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				files = append(files, os.NewFile(uintptr(fd), "handed over"))
			}
		}
	}
	switch {
	case n == 0:
		return files, 0, 0, io.EOF
	case n != headerSize || string(header[:len(magic)]) != magic:
		return files, 0, 0, errors.New("it is no message of a hand-over")
	}
	number := func(i int) int { return int(binary.BigEndian.Uint32(header[len(magic)+4*i:])) }
	if flags&unix.MSG_CTRUNC != 0 || number(1) != len(files) {
		return files, 0, 0, errors.New("files are missing: is the limit of open files too low?")
	}
	return files, Kind(number(0)), number(2), nil
}

// decode reads the body, which is the first file.
func decode(files []*os.File, body any) ([]*os.File, error) {
	if len(files) == 0 {
		return nil, errors.New("it has no body")
	}
	b, err := ReadFile(files[0])
	_ = files[0].Close()
	if err == nil {
		err = json.Unmarshal(b, body)
	}
	return files[1:], err
}

// NewFile is a file in memory.
func NewFile(content ...[]byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("viaduct-hand-over", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "viaduct-hand-over")
	for _, b := range content {
		if _, err := f.Write(b); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// ReadFile reads a file in memory from its beginning: whoever had it before may have left it anywhere.
func ReadFile(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxBody {
		return nil, fmt.Errorf("a file of %d bytes, %s", info.Size(), info.Mode())
	}
	b := make([]byte, info.Size())
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, info.Size()), b); err != nil {
		return nil, err
	}
	return b, nil
}

// CloseFiles closes all of them.
func CloseFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// Committed waits, for a time, for the successor's Commit, and says whether it was sent. Afterwards it cannot be any
// more. ctx ending is the time being over.
func (c *Conn) Committed(within time.Duration, over <-chan struct{}) bool {
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-over:
			_ = c.c.SetReadDeadline(time.Unix(1, 0))
		case <-done:
		}
	}()
	if _, err := c.Receive(CommitMessage, within, nil); err == nil {
		return true
	}
	_ = c.c.CloseRead()
	_ = c.c.SetReadDeadline(time.Now().Add(time.Second)) // what was sent before is there at once
	kind, files, err := c.receive()
	CloseFiles(files)
	return err == nil && kind == CommitMessage
}
