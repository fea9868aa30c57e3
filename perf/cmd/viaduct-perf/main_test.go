// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestWrongUse(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"nonsense", "nonsense"},
		{"forward extra", "extra"},
		{"forward --size", "size"},
		{"forward --size 20", "size 20"},
		{"forward --size 2000", "MTU of 1500"},
		{"forward --flows 0", "0 flows"},
		{"forward --runs 0", "0 runs"},
		{"forward --routes 40000", "40000 routes"},
		{"forward --routes 0", "one route"},
		{"forward --duration 1ms", "duration"},
		{"forward --rate -1", "rate"},
		{"forward --subjects kernel,ovs", "ovs"},
		{"forward --subjects kernel,kernel", "twice"},
		{"forward --queues 0", "0 queues"},
		{"forward --mtu 100", "MTU 100"},
		{"forward -o yaml", "yaml"},
		{"forward --bogus", "bogus"},
		{"tcp --duration 0s", "duration"},
		{"rr --runs -1", "runs"},
		{"crr --mtu 70000", "MTU 70000"},
		{"idle --subjects kernel", "kernel"},
		{"forward --subjects bridge", "bridge"},
		{"control extra", "extra"},
		{"pods extra", "extra"},
		{"pods --subjects viaduct", "viaduct"},
		{"pods --measures udp,sctp", "sctp"},
		{"pods --measures rr,rr", "rr"},
		{"pods --flows 0", "0 flows"},
		{"pods --of veth --subjects trunk", "veth"},
		{"pods --measures table --tables 1000,10", "smaller number first"},
		{"pods --apart --subjects kernel", "kernel"},
		{"pods --apart --subjects ptp --measures stream", "stream"},
		{"pods --duration 1ms", "duration"},
		{"cni --subjects kernel", "kernel"},
		{"cni --adds 0", "0 adds"},
		{"cni --pods 1000", "1000 pods"},
		{"cni --parallel 51", "51 in parallel"},
		{"cni --memory 10", "memory of 10 pods"},
		{"cni --runs 0", "0 runs"},
		{"policy --subjects kernel", "kernel"},
		{"policy --measures tcp", "tcp"},
		{"policy --policies 10,1", "smaller number first"},
		{"policy --rules 0", "0 rules"},
		{"policy --pods 0", "0 pods"},
		{"policy --flows 20000", "20000 flows"},
		{"flood --subjects nft", "nft"},
		{"flood --from moon", "moon"},
		{"flood --probes 0", "0 probes"},
		{"flood --rate -1", "rate"},
	} {
		code, stdout, stderr := execute(t, strings.Fields(tc.args)...)
		if code != exitUsage || stdout != "" {
			t.Errorf("%s: exit code %d, printed %q", tc.args, code, stdout)
		}
		if !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: want one line with %q, got %q", tc.args, tc.want, stderr)
		}
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	for command, flags := range map[string]string{
		"forward": "size flows ipv6 routes duration runs subjects rate output queues mtu latency dataplane",
		"tcp":     "mtu duration runs subjects ipv6", "rr": "duration", "crr": "duration", "idle": "duration",
		"pods":   "subjects of apart tables measures runs duration flows plugin reference dataplane output",
		"policy": "subjects measures policies rules pods changes flows runs duration dataplane output",
		"flood":  "subjects from rate probes runs duration dataplane output",
		"cni":    "subjects adds pods parallel memory runs plugin reference dataplane output",
	} {
		code, stdout, _ := execute(t, command, "--help")
		for _, flag := range strings.Fields(flags) {
			if code != 0 || !strings.Contains(stdout, "--"+flag+" ") {
				t.Errorf("%s --help (exit code %d) does not name --%s", command, code, flag)
			}
		}
	}
	if _, stdout, _ := execute(t, "tcp", "--help"); !strings.Contains(stdout, "(default 60000)") {
		t.Error("the MTU of tcp is not 60000")
	}
}

func TestForwardPrintsOneDocument(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	code, stdout, stderr := execute(t, "forward", "--subjects", "kernel", "--runs", "2", "--duration", "100ms", "--routes",
		"10", "-o", "json")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var doc struct {
		Machine  map[string]any
		Settings map[string]any
		Results  []struct {
			Name, Subject, Metric, Unit string
			Median, Low, High           *float64
			Runs                        []float64
		}
	}
	d := json.NewDecoder(strings.NewReader(stdout))
	if err := d.Decode(&doc); err != nil || d.More() {
		t.Fatalf("not one JSON document (%v):\n%s", err, stdout)
	}
	if len(doc.Machine) == 0 || doc.Settings["routes"] != "10" || len(doc.Results) == 0 {
		t.Fatalf("document is %+v", doc)
	}
	r := doc.Results[0]
	if r.Name != "forward/udp64" || r.Subject != "kernel" || r.Metric != "throughput" || r.Unit != "pps" ||
		len(r.Runs) != 2 || r.Median == nil || *r.Low > *r.Median || *r.High < *r.Median || *r.Low <= 0 {
		t.Errorf("first result is %+v", r)
	}
	if !strings.Contains(stderr, "round 2/2") {
		t.Errorf("progress is %q", stderr)
	}
}

func TestNothingToMeasure(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	code, stdout, stderr := execute(t, "forward", "--subjects", "viaduct", "--dataplane", "/no/such/file")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, "/no/such/file: not there") {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
}
