// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// health is what is used here of "viaduct status -o json".
type health struct {
	Epoch      uint64
	Healthy    bool
	TablesFrom string `json:"tables_from"`
	LastNack   *nack  `json:"last_nack"`
	Degraded   []struct{ Subject, Reason string }
	StateFile  struct {
		Path    string
		Epoch   uint64
		Trouble string
	} `json:"state_file"`
	Control *struct {
		Epoch    uint64
		Failure  string
		Source   struct{ Name, Trouble string }
		Refused  []struct{ Place, Object, Field, Reason string }
		LastNack *nack `json:"last_nack"`
	}
	ControlError string `json:"control_error"`
}

type nack struct {
	Epoch                 uint64
	Object, Field, Reason string
}

// cli runs a command of the CLI on the site, and returns what it printed and its exit status.
func (s *site) cli(args ...string) (stdout string, status int) {
	s.t.Helper()
	var out, words bytes.Buffer
	c := exec.Command(filepath.Join(s.bin, "viaduct"), append(args, "--run", s.run)...)
	c.Stdout, c.Stderr = &out, &words
	err := c.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	if strings.Contains(words.String(), "DATA RACE") {
		s.t.Error(words.String())
	}
	return out.String() + words.String(), c.ProcessState.ExitCode()
}

// health asks the CLI.
func (s *site) health() (h health, err error) {
	s.t.Helper()
	text, status := s.cli("status", "-o", "json")
	if status == 2 {
		return h, errors.New(text)
	}
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&h); err != nil {
		return h, fmt.Errorf("%w: %s", err, text)
	}
	return h, nil
}

// says waits until "viaduct status -o json" is as wanted: is returns why it is not.
func (s *site) says(what string, is func(h health) string) {
	s.t.Helper()
	s.eventually("status to say "+what, func() error {
		h, err := s.health()
		if err != nil {
			return err
		}
		if not := is(h); not != "" {
			return fmt.Errorf("%s: %+v", not, h)
		}
		return nil
	})
}

// well waits until nothing is wrong with the site.
func (s *site) well() {
	s.t.Helper()
	s.says("that all is well", func(h health) string {
		if !h.Healthy {
			text, _ := s.cli("status")
			return text
		}
		return ""
	})
}

// metric reads the sum of a metric's series at an address inside the node.
func (s *site) metric(address, name string) (float64, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			nsErr := s.node.Do(func() error {
				c, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return c, nsErr
		},
	}}
	reply, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		return 0, err
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		return 0, err
	}
	sum, found := 0.0, false
	for line := range strings.Lines(string(text)) {
		rest, is := strings.CutPrefix(line, name)
		if !is || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &value); err != nil {
			return 0, fmt.Errorf("%s: %w", line, err)
		}
		sum, found = sum+value, true
	}
	if !found {
		return 0, fmt.Errorf("there is no %s at %s", name, address)
	}
	return sum, nil
}
