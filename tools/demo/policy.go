// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/api"
)

// policyFile says who the pods are, and that pod b accepts UDP alone.
const (
	policyFile = "policy.yaml"
	policyName = "NetworkPolicy demo/udp-alone"
	policyText = `apiVersion: v1
kind: Pod
metadata: {name: a, namespace: demo, labels: {app: a}}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: demo, labels: {app: b}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: udp-alone, namespace: demo}
spec:
  podSelector: {matchLabels: {app: b}}
  ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{protocol: UDP}]}]
`
)

// quietFor is how long nothing may come of what policy denies. An answer of the other pod takes far less.
const quietFor = 300 * time.Millisecond

// talk is a TCP server at the other end that sends back what it gets, and a connection to it.
type talk struct {
	at   netip.AddrPort
	conn net.Conn
}

// applyPolicy denies a pod's TCP to the other one: their connection is cut, another one cannot be opened, UDP goes on,
// and explain names the rule.
func applyPolicy(ctx context.Context, n *network) (string, error) {
	var talks []talk
	for _, family := range []int{4, 6} {
		t, err := n.talk(podAddress(1, family))
		if err != nil {
			return "", err
		}
		talks = append(talks, t)
	}
	start := time.Now()
	if err := n.replaceManifest(policyFile, policyText); err != nil {
		return "", err
	}
	if err := n.awaitVerdict(ctx, talks, "deny"); err != nil {
		return "", err
	}
	took := time.Since(start)
	for _, t := range talks {
		if err := n.quiet(t); err != nil {
			return "", fmt.Errorf("to %s: %w", t.at, err)
		}
		if err := n.oneDatagram(t.at.Addr()); err != nil {
			return "", fmt.Errorf("UDP to %s: %w", t.at.Addr(), err)
		}
	}
	rule, err := n.explained(ctx, talks[0].at.Port())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("in force after %v: open TCP is cut, new TCP fails, UDP goes on; explain: %s",
		took.Round(time.Millisecond), rule), nil
}

// withdrawPolicy takes the policy away, and has the pods connect as before.
func withdrawPolicy(ctx context.Context, n *network) (string, error) {
	start := time.Now()
	if err := os.Remove(filepath.Join(n.manifestDir(), policyFile)); err != nil {
		return "", err
	}
	var talks []talk
	for _, family := range []int{4, 6} {
		talks = append(talks, talk{at: netip.AddrPortFrom(podAddress(1, family), 1)})
	}
	if err := n.awaitVerdict(ctx, talks, "allow"); err != nil {
		return "", err
	}
	took := time.Since(start)
	for _, t := range talks {
		if _, err := n.talk(t.at.Addr()); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("after %v TCP between the pods works again", took.Round(time.Millisecond)), nil
}

// talk begins a server and connects to it.
func (n *network) talk(to netip.Addr) (talk, error) {
	var listener net.Listener
	err := n.to.Do(func() (err error) {
		listener, err = net.Listen("tcp"+network4(to), netip.AddrPortFrom(to, 0).String())
		return err
	})
	if _, err := own(n, listener, err); err != nil {
		return talk{}, err
	}
	go sendBack(n, listener)
	t := talk{at: netip.AddrPortFrom(to, portOf(listener.Addr()))}
	if t.conn, err = n.connect(t.at, answerWithin); err != nil {
		return t, err
	}
	return t, echoed(t.conn, answerWithin)
}

// connect opens a TCP connection.
func (n *network) connect(to netip.AddrPort, within time.Duration) (net.Conn, error) {
	var c net.Conn
	err := n.from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp"+network4(to.Addr()), to.String(), within)
		return err
	})
	if err != nil {
		return nil, err
	}
	return own(n, c, nil)
}

// sendBack sends back what comes by the listener's connections, until that is closed.
func sendBack(n *network, listener net.Listener) {
	for {
		c, err := listener.Accept()
		if _, err := own(n, c, err); err != nil {
			return
		}
		go func() { _, _ = io.Copy(c, c) }() // the client sees what does not come
	}
}

// echoed sends something and waits until it comes back.
func echoed(c net.Conn, within time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	b := []byte("viaduct")
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

// quiet checks that nothing comes of the connection there is, nor of another attempt.
func (n *network) quiet(t talk) error {
	if err := echoed(t.conn, quietFor); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the established connection was not cut: %w", orAnswered(err))
	}
	_, err := n.connect(t.at, quietFor)
	if timeout, is := errors.AsType[net.Error](err); !is || !timeout.Timeout() {
		return fmt.Errorf("a connection did not fail: %w", orAnswered(err))
	}
	return nil
}

// orAnswered stands for the absence of an error where one was due.
func orAnswered(err error) error {
	if err == nil {
		return errors.New("it was answered")
	}
	return err
}

func (n *network) oneDatagram(to netip.Addr) error {
	server, err := n.listen(to, 0)
	if err != nil {
		return err
	}
	go reflectAll(server)
	c, err := n.dial(to, portOf(server.LocalAddr()), nil)
	if err != nil {
		return err
	}
	return exchange(c, payload(100, 1), make([]byte, 1<<16))
}

// awaitVerdict waits until the dataplane has the verdict of all connections from pod a.
func (n *network) awaitVerdict(ctx context.Context, talks []talk, verdict string) error {
	for {
		missing := false
		for _, t := range talks {
			family := 4
			if t.at.Addr().Is6() {
				family = 6
			}
			reply, err := n.client.Explain(ctx, &api.ExplainRequest{Source: podAddress(0, family).String(),
				Destination: t.at.Addr().String(), Protocol: "tcp", Port: uint32(t.at.Port())})
			if err != nil {
				return err
			}
			missing = missing || reply.Verdict != verdict
		}
		if !missing {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the policy's change is not in force: TCP to %s is not %s", talks[0].at, verdict)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// explained has "viaduct explain" say which rule denies TCP from pod a to a port of pod b.
func (n *network) explained(ctx context.Context, port uint16) (rule string, err error) {
	cmd := exec.CommandContext(ctx, n.program, "explain", "--run", n.runDir(), "--from", "demo/a", "--to", "demo/b",
		"--port", strconv.Itoa(int(port)), "-o", "json")
	text, err := cmd.Output()
	if status := cmd.ProcessState.ExitCode(); status != 1 {
		return "", fmt.Errorf("viaduct explain ended with status %d (%w): %s", status, orAnswered(err), text)
	}
	var report struct{ Verdict, Rule string }
	if err := json.Unmarshal(text, &report); err != nil {
		return "", fmt.Errorf("viaduct explain: %w", err)
	}
	if !strings.HasPrefix(report.Rule, policyName+" ") {
		return "", fmt.Errorf("viaduct explain says %q and names %q", report.Verdict, report.Rule)
	}
	return report.Rule, nil
}
