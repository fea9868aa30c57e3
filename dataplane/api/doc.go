// SPDX-License-Identifier: Apache-2.0

// Package api is the contract that the dataplane serves to the CLI: what is in force, and what became of every
// packet. The messages are generated from dataplane.proto.
package api
