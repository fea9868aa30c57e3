// SPDX-License-Identifier: Apache-2.0

package host

type ledger struct{}
