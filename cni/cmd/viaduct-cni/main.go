// SPDX-License-Identifier: Apache-2.0

// Command viaduct-cni is the CNI plugin: a container runtime calls it to join a container to the node's dataplane.
package main

import "github.com/viaduct-net/viaduct/cni"

func main() { cni.Run() }
