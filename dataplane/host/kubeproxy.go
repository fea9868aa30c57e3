// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
)

// KubeProxy says what of kube-proxy's is on the host, empty where nothing is: "nftables table ip kube-proxy". It finds
// each of its modes: nftables, iptables (as far as that is nf_tables behind: legacy tables are not read), and IPVS.
func (s *Stack) KubeProxy() (string, error) {
	var found []string
	const ipvs = "kube-ipvs0"
	if device, err := s.find(ipvs); err != nil {
		return "", err
	} else if device != nil {
		found = append(found, "device "+ipvs)
	}
	conn, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("look for kube-proxy: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		if unsupported(err) {
			return strings.Join(found, ", "), nil // no nf_tables
		}
		return "", fmt.Errorf("look for kube-proxy: list tables: %w", err)
	}
	for _, table := range tables {
		name := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}[table.Family]
		switch {
		case name == "":
		case table.Name == "kube-proxy":
			found = append(found, "nftables table "+name+" kube-proxy")
		case table.Name == "nat":
			// The error is that there is none.
			if chain, err := conn.ListChain(table, "KUBE-SERVICES"); err == nil && chain != nil {
				found = append(found, "chain KUBE-SERVICES of table "+name+" nat")
			}
		}
	}
	return strings.Join(found, ", "), nil
}
