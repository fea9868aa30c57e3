// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/json"
	"fmt"

	policyv1 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

// objectsOf are the cluster's objects as a source reports them.
func objectsOf(c *oracle.Cluster) (list []*model.Object, err error) {
	for _, typed := range typedOf(c) {
		o, refused := model.FromTyped(typed)
		if refused != nil {
			return nil, refused
		}
		list = append(list, o)
	}
	for _, policy := range c.ClusterNetworkPolicies {
		o, err := fromServer(policy)
		if err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	return list, nil
}

func typedOf(c *oracle.Cluster) (list []any) {
	for _, o := range c.Namespaces {
		list = append(list, o)
	}
	for _, o := range c.Nodes {
		list = append(list, o)
	}
	for _, o := range c.Pods {
		list = append(list, o)
	}
	for _, o := range c.NetworkPolicies {
		list = append(list, o)
	}
	return list
}

// fromServer is a custom resource, which a source has as text.
func fromServer(policy *policyv1.ClusterNetworkPolicy) (*model.Object, error) {
	policy = policy.DeepCopy()
	policy.APIVersion, policy.Kind = policyv1.GroupVersion.String(), "ClusterNetworkPolicy"
	text, err := json.Marshal(policy)
	if err != nil {
		return nil, err
	}
	o, refused := model.FromServer(text)
	if refused != nil {
		return nil, fmt.Errorf("%w", refused)
	}
	return o, nil
}
