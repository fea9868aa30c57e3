// SPDX-License-Identifier: Apache-2.0

// Package system is tests of the built programs together: viaduct-control and viaduct-dataplane as processes in a
// network namespace between two hosts, with traffic through them, while they are killed, starved of their source and
// given what is wrong; and with pods, which viaduct-cni wires, called as container runtimes do and by one, containerd.
// All of it is in the tests.
//
// Files: site_test.go (the network and the directories), daemon_test.go (the processes), flow_test.go (the traffic and
// what of it is missing), tables_test.go (what is in force), desired_test.go (what should be); of pods: podsite_test.go
// (their node), attached_test.go (a pod), reach_test.go (questions and answers), inventory_test.go (what is left),
// containerd_test.go and image_test.go (the runtime); the rest are the tests.
//
// Environment: VIADUCT_KILLS is how often the daemons are killed, VIADUCT_PODS how many pods fill a node.
package system
