// SPDX-License-Identifier: Apache-2.0

// Package api is the contract that control serves: the snapshot of a node's tables, and how it is pushed. The
// messages are generated from snapshot.proto.
package api
