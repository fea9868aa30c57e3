// SPDX-License-Identifier: Apache-2.0

// Package system is tests of the built programs together: viaduct-control and viaduct-dataplane as processes in a
// network namespace between two hosts, with traffic through them, while they are killed, starved of their source and
// given what is wrong. All of it is in the tests.
//
// Files: site_test.go (the network and the directories), daemon_test.go (the processes), flow_test.go (the traffic and
// what of it is missing), tables_test.go (what is in force), desired_test.go (what should be); the rest are the tests.
package system
