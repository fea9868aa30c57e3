// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/policy"
)

// Between explains a flow of which each end is judged by the node that it is on: out is what the source's node asks,
// egress alone, and in what the destination's asks, ingress alone. They may differ in what FromNode and ToNode say: a
// node is its own pods' node, and no others'.
func Between(t *policy.Table, out, in *policy.Query) *api.ExplainReply {
	reply := Flow(t, out)
	if out.Self || out.Src == out.Dst {
		return reply
	}
	return merge(reply, Flow(t, in))
}

// endSteps are a reply's first steps, which say who the ends are.
const endSteps = 2

// merge makes one reply of what both nodes say: the source's is asked first, and where it denies the other's is not.
func merge(out, in *api.ExplainReply) *api.ExplainReply {
	r := out
	staged, stagedRule := stagedOf(out)
	if out.Verdict == word(true) {
		r = in
		r.Steps = append(out.Steps, in.Steps[endSteps:]...)
		r.Rule = cmp.Or(in.Rule, out.Rule)
	}
	if staged == word(true) {
		let := stagedRule
		staged, stagedRule = stagedOf(in)
		stagedRule = cmp.Or(stagedRule, let)
	}
	if r.StagedVerdict, r.StagedRule = staged, stagedRule; staged == r.Verdict {
		r.StagedVerdict, r.StagedRule = "", ""
	}
	return r
}

// stagedOf is the verdict if staged policies were enforced, and its rule: empty where none had to decide.
func stagedOf(r *api.ExplainReply) (word, rule string) {
	if r.StagedVerdict != "" {
		return r.StagedVerdict, r.StagedRule
	}
	return r.Verdict, r.Rule
}
