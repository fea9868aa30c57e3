// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/compile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// free is a port that nobody has.
func free(t *testing.T) (port uint16, held net.Listener) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	return uint16(l.Addr().(*net.TCPAddr).Port), l
}

// ask is what a load balancer hears; 0: nothing.
func ask(port uint16) (code int, body string) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	r, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		return 0, ""
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(r.Body)
	return r.StatusCode, strings.TrimSpace(string(text))
}

func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

func run(t *testing.T, healthy func() bool) *Server {
	t.Helper()
	s := New(healthy, zap.NewNop())
	s.retry = 5 * time.Millisecond
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestAnswers: what is answered follows the backends and the dataplane, and ports open and close with services.
func TestAnswers(t *testing.T) {
	var healthy atomic.Bool
	healthy.Store(true)
	s := run(t, healthy.Load)
	port, held := free(t)
	_ = held.Close()
	is := func(code int, body string) func() bool {
		return func() bool {
			gotCode, got := ask(port)
			return gotCode == code && got == body
		}
	}
	check := compile.HealthCheck{Namespace: "default", Name: "web", Port: port}
	s.Set([]compile.HealthCheck{check})
	until(t, "503", is(503,
		`{"service":{"namespace":"default","name":"web"},"localEndpoints":0,"serviceProxyHealthy":true}`))
	check.Local = 2
	s.Set([]compile.HealthCheck{check})
	until(t, "200", is(200,
		`{"service":{"namespace":"default","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}`))
	healthy.Store(false)
	until(t, "503 of the unhealthy", is(503,
		`{"service":{"namespace":"default","name":"web"},"localEndpoints":2,"serviceProxyHealthy":false}`))
	s.Set(nil)
	until(t, "closed", is(0, ""))
}

// TestTaken: a port that somebody else has is said, and opened once it is free; of two services one has it.
func TestTaken(t *testing.T) {
	s := run(t, func() bool { return true })
	port, held := free(t)
	s.Set([]compile.HealthCheck{
		{Namespace: "a", Name: "a", Port: port, Local: 1}, {Namespace: "b", Name: "b", Port: port}})
	until(t, "both refused", func() bool { return len(s.Refused()) == 2 })
	if text := s.Refused()[0].Error(); !strings.Contains(text, "Service a/a: spec.healthCheckNodePort: ") ||
		!strings.Contains(text, "in use") {
		t.Error(text)
	}
	_ = held.Close()
	until(t, "open", func() bool { code, _ := ask(port); return code == 200 })
	until(t, "one refused", func() bool { return len(s.Refused()) == 1 && s.Refused()[0].Key.Name == "b" })
	s.Set([]compile.HealthCheck{{Namespace: "b", Name: "b", Port: port, Local: 1}})
	until(t, "the other", func() bool {
		_, body := ask(port)
		return strings.Contains(body, `"b"`) && len(s.Refused()) == 0
	})
}
