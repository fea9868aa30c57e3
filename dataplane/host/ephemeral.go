// SPDX-License-Identifier: Apache-2.0

package host

import "fmt"

// EphemeralPorts is the range, both ends included, from which the host chooses source ports of its own.
func EphemeralPorts() (first, last uint16, err error) {
	text, err := readSysctl("net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(text, &first, &last)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read the range of ephemeral ports: %w", err)
	}
	return first, last, nil
}
