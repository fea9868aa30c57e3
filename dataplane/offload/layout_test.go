// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"reflect"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// TestLayout compares Go's structs with what the hooks were compiled with, member by member.
func TestLayout(t *testing.T) {
	spec, err := ebpf.LoadCollectionSpec("../../xdpprog/fromport_bpfel.o")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name    string
		of      reflect.Type
		members map[string]string // in C, by Go's
	}{
		{"flow_bucket", reflect.TypeFor[bucket](), nil},
		{"flow_way", reflect.TypeFor[way](), map[string]string{
			"packets": "packets", "bytes": "bytes", "used": "used", "ack": "ack", "from": "from", "to": "to", "mac": "mac",
			"farDstPort": "far_dst_port", "mtu": "mtu", "farDst": "far_dst", "answered": "answered", "fin": "fin",
		}},
		{"flow_record", reflect.TypeFor[record](), map[string]string{
			"nearSrc": "near_src", "nearDst": "near_dst", "farSrc": "far_src", "nearSrcPort": "near_src_port",
			"nearDstPort": "near_dst_port", "farSrcPort": "far_src_port", "proto": "proto", "flags": "flags",
			"generation": "generation", "version": "version", "way": "way",
		}},
		{"egress", reflect.TypeFor[egress](), map[string]string{
			"ifindex": "ifindex", "port": "port", "mac": "mac", "kind": "kind", "tags": "tags", "outer": "outer",
			"inner": "inner",
		}},
		{"flow_control", reflect.TypeFor[control](), map[string]string{
			"seed": "seed", "heart": "heart", "layout": "layout", "bucketMask": "bucket_mask", "records": "records",
			"generation": "generation", "carry": "carry", "onAbsence": "on_absence",
			"hung": "hung", "hostPort": "host_port",
		}},
	} {
		var c *btf.Struct
		if err := spec.Types.TypeByName(row.name, &c); err != nil {
			t.Fatal(row.name, err)
		}
		if uintptr(c.Size) != row.of.Size() {
			t.Errorf("%s has %d bytes, in Go %d", row.name, c.Size, row.of.Size())
		}
		at := make(map[string]uintptr)
		for _, m := range c.Members {
			at[m.Name] = uintptr(m.Offset.Bytes())
		}
		for name, inC := range row.members {
			f, ok := row.of.FieldByName(name)
			if offset, known := at[inC]; !ok || !known || offset != f.Offset {
				t.Errorf("%s.%s is at %d, in Go at %d", row.name, inC, offset, f.Offset)
			}
		}
		for i := range fields(row.of) {
			if name := row.of.Field(i).Name; name != "_" && row.members[name] == "" {
				t.Errorf("%s.%s is not compared", row.name, name)
			}
		}
	}
}

func fields(of reflect.Type) int {
	if of.Kind() != reflect.Struct {
		return 0
	}
	return of.NumField()
}
