// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const aRecord = `{"version":1,"network":"viaduct","container":"c0ffee","interface":"eth0","port":"default/web",` +
	`"netns":"/run/netns/a","netnsDevice":4,"netnsInode":4026532801,"podNamespace":"default","podName":"web",` +
	`"podUID":"u","device":"vd0123456789abc","mac":"02:00:00:00:00:01","direct":true,` +
	`"addresses":[{"address":"10.244.1.2","pool":"10.244.1.0/24"}],"asked":["10.244.1.2"],` +
	`"bandwidth":{"egressRate":18446744073709551615},"created":"2024-05-01T12:00:00.123456789Z"}`

// portsRecord is of the version that has host ports.
const portsRecord = `{"version":2,"network":"n","container":"c","interface":"eth0","port":"p",` +
	`"hostPorts":[{"hostPort":80,"containerPort":8080,"protocol":"tcp"},` +
	`{"hostIP":"192.0.2.7","hostPort":53,"containerPort":5353,"protocol":"udp"}],"created":"2024-05-01T12:00:00Z"}`

func TestRecordOfHostPorts(t *testing.T) {
	e, err := decode([]byte(portsRecord))
	if err != nil {
		t.Fatal(err)
	}
	again, err := encode(e)
	if err != nil || string(again) != portsRecord {
		t.Errorf("encoded again: %s, %v", again, err)
	}
	if got := fmt.Sprint(e.HostPorts); got != "[80/tcp 192.0.2.7:53/udp]" {
		t.Errorf("decoded %s", got)
	}
}

// TestRecord holds the form on disk: what was written once is read for ever.
func TestRecord(t *testing.T) {
	e, err := decode([]byte(aRecord))
	if err != nil {
		t.Fatal(err)
	}
	again, err := encode(e)
	if err != nil || string(again) != aRecord {
		t.Errorf("encoded again: %s, %v", again, err)
	}
	if e.Bandwidth.EgressRate != 1<<64-1 || !e.Created.Equal(epoch) || e.pools[0] != prefixes("10.244.1.0/24")[0] {
		t.Errorf("decoded %+v", e)
	}
}

func TestBadRecords(t *testing.T) {
	base := `"version":1,"network":"n","container":"c","interface":"i","port":"p"`
	for _, text := range []string{
		``, `null`, `[]`, `{}`, `{"version":1}`, `{"version":0}`, `{"version":2,"port":"p"}`,
		`{"version":3,"port":"p"}`, `{` + base,
		`{` + base + `,"other":1}`, `{` + base + `} {}`, `{` + base + `,"mac":"1"}`, `{` + base + `,"created":"now"}`,
		`{` + base + `,"addresses":[{}]}`, `{` + base + `,"addresses":[{"address":"10.0.0.1"}]}`,
		`{` + base + `,"delegated":true,"addresses":[{"address":"10.0.0.1","pool":"10.0.0.0/8"}]}`,
		`{` + base + `,"delegated":true,"addresses":[{"address":"10.0.0.1"},{"address":"10.0.0.1"}]}`,
		`{` + base + `,"asked":["10.0.0.256"]}`,
		`{` + base + `,"hostPorts":[{"hostPort":80,"containerPort":80,"protocol":"tcp"}]}`,
		`{"version":2,"network":"n","container":"c","interface":"i","port":"p"}`,
		`{"version":2,"network":"n","container":"c","interface":"i","port":"p",` +
			`"hostPorts":[{"hostPort":80,"containerPort":80,"protocol":"icmp"}]}`,
	} {
		if e, err := decode([]byte(text)); err == nil {
			t.Errorf("%s: %+v", text, e)
		}
	}
	if _, err := decode([]byte(`{` + base + `}`)); err != nil {
		t.Errorf("the base itself: %v", err)
	}
}

// FuzzDecode has what is accepted be the same once it is written and read again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(aRecord))
	f.Add([]byte(portsRecord))
	f.Add([]byte(`{"version":1,"network":"n","container":"c","interface":"i","port":"p","delegated":true,` +
		`"addresses":[{"address":"fe80::1%x"}],"asked":["::ffff:1.2.3.4"],"created":"2024-05-01T12:00:00+02:00"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decode(data)
		if err != nil {
			return
		}
		written, err := encode(e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decode(written)
		if err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		if diff := cmp.Diff(e, again, sameAddr, cmp.AllowUnexported(entry{})); diff != "" {
			t.Error(diff)
		}
	})
}
