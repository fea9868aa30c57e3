// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// Dump asks the kernel for a list, and asks again when it changed under way (NLM_F_DUMP_INTR): where pods come and go,
// devices, and what is listed by device, do so all the time, and that is no reason to refuse what is to be in force.
func Dump[T any](list func() ([]T, error)) ([]T, error) {
	const attempts = 50
	var all []T
	err := error(netlink.ErrDumpInterrupted)
	for i := 0; i < attempts && errors.Is(err, netlink.ErrDumpInterrupted); i++ {
		all, err = list()
	}
	return all, err
}
