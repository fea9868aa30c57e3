// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	loadRate    = 4000 // datagrams a second, of each family
	changes     = 12
	changeEvery = 20 * time.Millisecond
)

// changeRoutes sends numbered datagrams at a steady rate while the manifest of their route is replaced again and
// again, from one link to the other. Each change has to be in force before the next; no number may be missing.
func changeRoutes(ctx context.Context, n *network) (string, error) {
	flows := []*flow{{to: floating4}, {to: floating6}}
	for _, f := range flows {
		if err := f.open(n); err != nil {
			return "", err
		}
	}
	loadCtx, quiet := context.WithCancel(ctx)
	defer quiet()
	var senders, receivers sync.WaitGroup
	for _, f := range flows {
		receivers.Go(f.receive)
		senders.Go(func() { f.send(loadCtx) })
	}
	slowest, err := n.replaceRoutes(ctx)
	quiet()
	senders.Wait()
	settle(flows)
	n.closeSockets()
	receivers.Wait()
	if err != nil {
		return "", err
	}
	var sent uint64
	var wide, narrow int
	for _, f := range flows {
		if err := f.verify(n); err != nil {
			return "", fmt.Errorf("to %s: %w", f.to, err)
		}
		sent += f.sent.Load()
		wide, narrow = wide+f.byDevice[f.wide], narrow+f.byDevice[f.narrow]
	}
	return fmt.Sprintf("%d changes (slowest %v), %d datagrams, 0 lost; %d by wide, %d by narrow", changes,
		slowest.Round(time.Millisecond), sent, wide, narrow), nil
}

// replaceRoutes replaces the manifest, waits until that is in force, and so on. It returns the longest wait.
func (n *network) replaceRoutes(ctx context.Context) (time.Duration, error) {
	original, err := os.ReadFile(filepath.Join(n.manifestDir(), "routes.yaml"))
	if err != nil {
		return 0, err
	}
	byNarrow := strings.NewReplacer("10.2.0.2", "10.3.0.2", "fd00:2::2", "fd00:3::2", "wide", "narrow")
	var slowest time.Duration
	for i := range changes {
		text, device := byNarrow.Replace(string(original)), "narrow"
		if i%2 == 1 {
			text, device = string(original), "wide"
		}
		start := time.Now()
		if err := n.replaceManifest("routes.yaml", text); err != nil {
			return 0, err
		}
		if err := n.awaitRoutes(ctx, device); err != nil {
			return 0, fmt.Errorf("change %d: %w", i+1, err)
		}
		slowest = max(slowest, time.Since(start))
		time.Sleep(changeEvery)
	}
	return slowest, nil
}

// replaceManifest puts a file in place by rename, as an editor does, so that nobody reads half of it.
func (n *network) replaceManifest(name, text string) error {
	aside := filepath.Join(n.directory, name+".next")
	if err := os.WriteFile(aside, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(aside, filepath.Join(n.manifestDir(), name))
}

// awaitRoutes waits until both floating routes leave by the port.
func (n *network) awaitRoutes(ctx context.Context, port string) error {
	const within = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		by4, err4 := n.portTo(ctx, floating4)
		by6, err6 := n.portTo(ctx, floating6)
		if err := errors.Join(err4, err6); err != nil && ctx.Err() == nil {
			return err
		}
		if by4 == port && by6 == port {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the route by %s was not in force within %v", port, within)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// flow is numbered datagrams to one floating address.
type flow struct {
	to           netip.Addr
	out          *net.UDPConn
	in           *net.UDPConn
	wide, narrow int // indices of the right host's devices

	sent     atomic.Uint64
	sendErr  error
	received atomic.Uint64
	seen     []bool
	twice    int
	byDevice map[int]int
}

func (f *flow) open(n *network) (err error) {
	f.byDevice = make(map[int]int)
	if f.in, err = n.listen(f.to, 0); err != nil {
		return err
	}
	if f.out, err = n.dial(f.to, portOf(f.in.LocalAddr()), nil); err != nil {
		return err
	}
	for name, index := range map[string]*int{"wide": &f.wide, "narrow": &f.narrow} {
		link, err := n.right.Links().LinkByName(name)
		if err != nil {
			return err
		}
		*index = link.Attrs().Index
	}
	return nil
}

// send keeps to the rate until the context ends, catching up when the machine was late.
func (f *flow) send(ctx context.Context) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	var b [64]byte
	for start := time.Now(); ctx.Err() == nil; <-ticker.C {
		due := uint64(time.Since(start).Seconds() * loadRate)
		// A machine that was away for long must not send a burst that no receiver's socket holds.
		for burst := 0; f.sent.Load() < due && burst < 1000; burst++ {
			binary.BigEndian.PutUint64(b[:], f.sent.Load())
			if _, err := f.out.Write(b[:]); err != nil {
				f.sendErr = err
				return
			}
			f.sent.Add(1)
		}
	}
}

// receive notes every number and the device it came by, until the socket is closed.
func (f *flow) receive() {
	b := make([]byte, 2048)
	read, err := f.reader()
	if err != nil {
		return // verify finds that nothing came
	}
	for {
		size, device, err := read(b)
		if err != nil {
			return
		}
		if size < 8 {
			continue
		}
		f.note(binary.BigEndian.Uint64(b), device)
	}
}

// reader reads datagrams and the index of the device that each came by (IP_PKTINFO, IPV6_RECVPKTINFO).
func (f *flow) reader() (func([]byte) (size, device int, err error), error) {
	if f.to.Is4() {
		c := ipv4.NewPacketConn(f.in)
		return func(b []byte) (int, int, error) {
			size, cm, _, err := c.ReadFrom(b)
			if cm == nil {
				return size, 0, err
			}
			return size, cm.IfIndex, err
		}, c.SetControlMessage(ipv4.FlagInterface, true)
	}
	c := ipv6.NewPacketConn(f.in)
	return func(b []byte) (int, int, error) {
		size, cm, _, err := c.ReadFrom(b)
		if cm == nil {
			return size, 0, err
		}
		return size, cm.IfIndex, err
	}, c.SetControlMessage(ipv6.FlagInterface, true)
}

func (f *flow) note(number uint64, device int) {
	const most = 1 << 24 // a number that was never sent
	if number >= most {
		return
	}
	for uint64(len(f.seen)) <= number {
		f.seen = append(f.seen, false)
	}
	if f.seen[number] {
		f.twice++
		return
	}
	f.seen[number] = true
	f.byDevice[device]++
	f.received.Add(1)
}

// settle waits until everything sent has arrived, or for a second.
func settle(flows []*flow) {
	for range 100 {
		missing := false
		for _, f := range flows {
			missing = missing || f.received.Load() < f.sent.Load()
		}
		if !missing {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// verify says what is wrong with what arrived, once nobody sends or receives any more.
func (f *flow) verify(n *network) error {
	sent, received := f.sent.Load(), f.received.Load()
	switch {
	case f.sendErr != nil:
		return fmt.Errorf("send: %w", f.sendErr)
	case sent == 0:
		return errors.New("nothing was sent")
	case received != sent || f.twice != 0:
		return fmt.Errorf("%d sent, %d arrived, %d of them twice (%s)", sent, received, f.twice, n.drops())
	case f.byDevice[f.wide] == 0 || f.byDevice[f.narrow] == 0:
		return fmt.Errorf("%d came by wide and %d by narrow: the route did not change", f.byDevice[f.wide],
			f.byDevice[f.narrow])
	}
	return nil
}
