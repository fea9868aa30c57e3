// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the eBPF programs of the measurements: the generator (src/gen.c), the counting sink (src/sink.c),
// a forwarder that decides nothing (src/devmap.c) and the program that testpmd loads at its ports (src/xsks.c). They
// are no part of the dataplane.
package bpf

import _ "embed"

//go:generate -command bpf2go go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel
//go:generate bpf2go -cflags "-O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu" Gen src/gen.c
//go:generate bpf2go -cflags "-O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu" Sink src/sink.c
//go:generate bpf2go -cflags "-O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu" Devmap src/devmap.c
//go:generate bpf2go -cflags "-O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu" Xsks src/xsks.c

// Numbers of src/probe.h.
const (
	SourcePort       = 1024 // of flow 0
	DestinationPort  = 2000 // of flow 0
	DestinationPorts = 64
	FlowBits         = 15 // of a flow's number that are in the source port
	MaxFlows         = DestinationPorts << FlowBits
	StampSize        = 8 // bytes of payload in a timed probe
)

// XsksObject is the ELF object with a map named xsks_map, for programs that load it from a file.
//
//go:embed xsks_bpfel.o
var XsksObject []byte
