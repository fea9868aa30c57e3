// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// proxyChain is the chain that kube-proxy's modes iptables and IPVS have in the table nat.
const proxyChain = "KUBE-SERVICES"

// KubeProxy says what of kube-proxy's is on the host, empty where nothing is: "nftables table ip kube-proxy". It finds
// each of its modes: nftables, iptables, with nf_tables behind or legacy, and IPVS.
func (s *Stack) KubeProxy() (string, error) {
	var found []string
	const ipvs = "kube-ipvs0"
	if device, err := s.find(ipvs); err != nil {
		return "", err
	} else if device != nil {
		found = append(found, "device "+ipvs)
	}
	tables, err := proxyTables()
	if err != nil {
		return "", fmt.Errorf("look for kube-proxy: %w", err)
	}
	found = append(found, tables...)
	for i := range legacies {
		is, err := legacies[i].has(proxyChain)
		if err != nil {
			return "", fmt.Errorf("look for kube-proxy: %w", err)
		}
		if is {
			found = append(found, fmt.Sprintf("chain %s of legacy table %s nat", proxyChain, legacies[i].name))
		}
	}
	return strings.Join(found, ", "), nil
}

// proxyTables is what of kube-proxy's is in nf_tables.
func proxyTables() (found []string, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTables()
	if err != nil {
		if unsupported(err) {
			return nil, nil // no nf_tables
		}
		return nil, fmt.Errorf("list tables: %w", err)
	}
	for _, table := range tables {
		name := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}[table.Family]
		switch {
		case name == "":
		case table.Name == "kube-proxy":
			found = append(found, "nftables table "+name+" kube-proxy")
		case table.Name == "nat":
			// The error is that there is none.
			if chain, err := conn.ListChain(table, proxyChain); err == nil && chain != nil {
				found = append(found, "chain "+proxyChain+" of table "+name+" nat")
			}
		}
	}
	return found, nil
}

// legacy is how the tables of iptables-legacy of one family are read: getsockopt on a raw socket, as
// linux/netfilter_ipv4/ip_tables.h and its kin for IPv6 have it.
type legacy struct {
	name   string
	names  string // file with the tables that there are, which loads none
	family int
	level  int
}

var legacies = [2]legacy{
	{"ip", "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.SOL_IP},
	{"ip6", "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6},
}

const (
	legacyInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	legacyEntries = 65 // IPT_SO_GET_ENTRIES, IP6T_SO_GET_ENTRIES

	legacyName    = 32 // XT_TABLE_MAXNAMELEN
	legacyInfoLen = 84 // of struct ipt_getinfo: the last four bytes are the size of the entries
	legacyHead    = 40 // of struct ipt_get_entries: the name, their size, and padding to eight bytes

	legacyTries = 5 // the table may grow between the two calls
)

// has says whether the family's table nat has a chain of the name.
func (l *legacy) has(chain string) (bool, error) {
	tables, err := os.ReadFile(l.names)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !slices.Contains(strings.Fields(string(tables)), "nat") {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list legacy tables: %w", err)
	}
	fd, err := unix.Socket(l.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false, fmt.Errorf("open raw socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var entries []byte
	for range legacyTries {
		if entries, err = l.entries(fd); !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	if err != nil {
		return false, fmt.Errorf("read legacy table %s nat: %w", l.name, err)
	}
	// A chain begins with a target ERROR, of revision 0, behind which stands its name, padded with zeros; a rule that
	// leads there has an offset.
	return bytes.Contains(entries, []byte("\x00"+chain+"\x00")), nil
}

// entries are the rules of the table nat, as the kernel has them. EAGAIN says that they became others meanwhile.
func (l *legacy) entries(fd int) ([]byte, error) {
	info := make([]byte, legacyInfoLen)
	copy(info, "nat")
	if err := getsockopt(fd, l.level, legacyInfo, info); err != nil {
		return nil, err
	}
	size := binary.NativeEndian.Uint32(info[legacyInfoLen-4:])
	list := make([]byte, legacyHead+int(size))
	copy(list, "nat")
	binary.NativeEndian.PutUint32(list[legacyName:], size)
	if err := getsockopt(fd, l.level, legacyEntries, list); err != nil {
		return nil, err
	}
	return list[legacyHead:], nil
}

// getsockopt is the system call for options whose value says what is asked for: b is read, and filled whole.
func getsockopt(fd, level, option int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0) // sound: both outlive the call
	if errno != 0 {
		return errno
	}
	return nil
}
