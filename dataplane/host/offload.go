// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"strings"

	"github.com/safchain/ethtool"
)

// setOffloads leaves no work of the inner end's packets to the outer end, which is no NIC. Nothing sends the outer end
// segments to cut, and a veth that could cut them keeps its peer from GRO (veth_skb_is_eligible_for_gro in
// drivers/net/veth.c).
func setOffloads(gro bool) error {
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open ethtool: %w", err)
	}
	defer tool.Close()
	if err := change(tool, TrunkInner, func(feature string, on bool) bool {
		if feature == "rx-gro" {
			return gro
		}
		return on && !leavesWork(feature)
	}); err != nil {
		return err
	}
	return change(tool, TrunkOuter, func(feature string, on bool) bool {
		return on && !strings.HasPrefix(feature, "tx-tcp")
	})
}

// leavesWork tells of a feature, by ethtool's names (net/ethtool/common.c), whether it leaves packets unfinished:
// checksums, segments, VLAN tags.
func leavesWork(feature string) bool {
	return strings.HasPrefix(feature, "tx-checksum-") || strings.HasPrefix(feature, "tx-vlan-") ||
		strings.HasPrefix(feature, "tx-gso-") ||
		strings.HasPrefix(feature, "tx-") && strings.HasSuffix(feature, "-segmentation")
}

// change sets what can be changed of a device's features and is not as want has it.
func change(tool *ethtool.Ethtool, device string, want func(feature string, on bool) bool) error {
	features, err := tool.FeaturesWithState(device)
	if err != nil {
		return fmt.Errorf("read offloads of %s: %w", device, err)
	}
	changes := make(map[string]bool)
	for name, state := range features {
		// What is requested and not active comes back when what keeps it off (a program, another feature) goes.
		if on := state.Requested || state.Active; state.Available && !state.NeverChanged && want(name, on) != on {
			changes[name] = want(name, on)
		}
	}
	if len(changes) == 0 {
		return nil
	}
	if err := tool.Change(device, changes); err != nil {
		return fmt.Errorf("set offloads of %s: %w", device, err)
	}
	return nil
}
