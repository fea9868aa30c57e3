// SPDX-License-Identifier: Apache-2.0

// Package cyclonus compares what NetworkPolicies mean to the oracle with what they mean to the matcher of cyclonus
// (https://github.com/mattfenwick/cyclonus), which others test network plugins with: in all the cases that cyclonus
// generates, and in random ones. What the two see otherwise is listed, each with its reason.
//
// It is a module of its own, since cyclonus brings much that nothing else needs. All of it is in the tests.
package cyclonus
