// SPDX-License-Identifier: Apache-2.0

package lease

const crashFile = "LEASE_CRASH"

func crashChild(path string) {}
