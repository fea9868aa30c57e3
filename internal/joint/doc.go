// SPDX-License-Identifier: Apache-2.0

// Package joint tests control and the dataplane's tables in one process, where neither devices nor root are needed.
package joint
