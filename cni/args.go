// SPDX-License-Identifier: Apache-2.0

package cni

import "strings"

// podName is how Kubernetes calls the pod; empty elsewhere.
type podName struct{ namespace, name, uid string }

// parse reads CNI_ARGS, "KEY=VALUE;KEY=VALUE", and returns what it asks of the interface. By convention a key that a
// plugin does not know is an error unless IgnoreUnknown is set.
func (p *podName) parse(args string) (preferences, error) {
	var asked preferences
	var unknown []string
	ignore := false
	for pair := range strings.SplitSeq(args, ";") {
		key, value, found := strings.Cut(pair, "=")
		if !found && pair != "" {
			return asked, argument("CNI_ARGS: %q is no KEY=VALUE", pair)
		}
		switch key {
		case "":
		case "K8S_POD_NAMESPACE":
			p.namespace = value
		case "K8S_POD_NAME":
			p.name = value
		case "K8S_POD_UID":
			p.uid = value
		case "K8S_POD_INFRA_CONTAINER_ID": // CNI_CONTAINERID once more
		case "IP":
			asked.IPs = strings.Split(value, ",")
		case "MAC":
			asked.MAC = value
		case "IgnoreUnknown":
			switch strings.ToLower(value) {
			case "1", "true":
				ignore = true
			case "0", "false":
			default:
				return asked, argument("CNI_ARGS: IgnoreUnknown is 1 or 0, not %q", value)
			}
		default:
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 && !ignore {
		return asked, argument("CNI_ARGS: unknown %s, and IgnoreUnknown is not set", strings.Join(unknown, ", "))
	}
	return asked, nil
}
