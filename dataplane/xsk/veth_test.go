// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"bytes"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/xsk/internal/veth"
)

// openOn binds a socket to queue 0 of the near end and puts it in the map.
func openOn(t testing.TB, w *veth.Wire, c SocketConfig) *Socket {
	t.Helper()
	c.Device = w.Near.Attrs().Name
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(nil) })
	must(t, w.XSKs.Put(uint32(0), uint32(s.FD())))
	return s
}

// poll receives what is there, waiting at most two seconds, and gives its frames to the caller.
func poll(t testing.TB, q Queue, descs []Desc) []Desc {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		if got := q.Receive(descs); got > 0 {
			return descs[:got]
		}
		time.Sleep(100 * time.Microsecond)
	}
	t.Fatal("no packet")
	return nil
}

// contents joins the bytes of descriptors.
func contents(u *UMEM, descs []Desc) []byte {
	var b bytes.Buffer
	for _, d := range descs {
		start := int(d.Addr) & (u.ChunkSize() - 1)
		b.Write(u.Frame(d.Addr)[start : start+int(d.Len)])
	}
	return b.Bytes()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
