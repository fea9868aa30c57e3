// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Report is what -o json prints. Its own Answer is that of the first family that is denied, of the first one where none
// is: the flow is denied if any of its families is.
type Report struct {
	Answer
	From     string   `json:"from"` // as asked
	To       string   `json:"to"`
	Protocol string   `json:"protocol"`
	Port     uint16   `json:"port"`     // of the destination; 0: the protocol has none
	Refused  []string `json:"refused"`  // of manifests, what was left out: file, line, document, object, field, why
	Families []Answer `json:"families"` // IPv4 before IPv6; those that the protocol and both ends have
}

// Answer is what policy says of the flow in one family.
type Answer struct {
	Family        string   `json:"family"`         // "ipv4" or "ipv6"
	Source        string   `json:"source"`         // address; empty: the end has none in the manifests
	Destination   string   `json:"destination"`    // the same
	Verdict       string   `json:"verdict"`        // "allow" or "deny"
	Reason        string   `json:"reason"`         // as "viaduct drops" has it; empty where the verdict is allow
	Rule          string   `json:"rule"`           // empty: none had to decide
	Steps         []string `json:"steps"`          // what was looked at, in order
	StagedVerdict string   `json:"staged_verdict"` // if staged policies were enforced; empty: the same
	StagedRule    string   `json:"staged_rule"`
	Epoch         uint64   `json:"epoch"` // of the dataplane; 0 of manifests
	// Service is whose the destination is, "shop/web:http"; empty: no service's.
	Service string `json:"service"`
	// Backends are those of the service that may be chosen: the flow may be where one of them may be reached.
	Backends []Backend `json:"backends"`
	// Uncarried is why the kernel would not carry the flow; empty: it would, or the flow is denied.
	Uncarried string `json:"uncarried"`
	// Pair says that the kernel may carry it as one of all TCP connections between the two addresses, unseen.
	Pair bool `json:"pair"`
}

// Backend is one who answers for a service, and what policy says of the flow to it.
type Backend struct {
	Address string `json:"address"`
	Port    uint32 `json:"port"`
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	Rule    string `json:"rule"`
}

func (a *Answer) denies() bool { return a.Verdict == deny }

func (r *Report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// writeText writes a block for each family, or one where they say the same.
func (r *Report) writeText(w io.Writer) error {
	blocks := make([]string, len(r.Families))
	for i := range r.Families {
		blocks[i] = r.Families[i].text()
	}
	titles := map[string]string{"ipv4": "IPv4", "ipv6": "IPv6"}
	switch {
	case len(slices.Compact(slices.Clone(blocks))) == 1:
		_, err := io.WriteString(w, blocks[0])
		return err
	case r.alike():
		_, err := fmt.Fprintf(w, "IPv4 and IPv6 are judged alike.\n")
		if err != nil {
			return err
		}
	default:
		if _, err := fmt.Fprintf(w, "IPv4 and IPv6 DIFFER.\n"); err != nil {
			return err
		}
	}
	for i, block := range blocks {
		if _, err := fmt.Fprintf(w, "\n%s\n%s", titles[r.Families[i].Family], block); err != nil {
			return err
		}
	}
	return nil
}

// alike says whether the same decides of all families.
func (r *Report) alike() bool {
	return !slices.ContainsFunc(r.Families, func(a Answer) bool {
		b := &r.Families[0]
		return a.Verdict != b.Verdict || a.Rule != b.Rule || a.StagedVerdict != b.StagedVerdict ||
			a.StagedRule != b.StagedRule
	})
}

// text is the verdict and the rule, and then the steps.
func (a *Answer) text() string {
	var b strings.Builder
	line := func(title, text string) { _, _ = fmt.Fprintf(&b, "%-8s %s\n", title, text) }
	verdict, rule := a.Verdict, a.Rule
	if a.Reason != "" {
		verdict += ", " + a.Reason
	}
	switch {
	case rule == "" && a.denies():
		rule = "none: the service decides"
	case rule == "":
		rule = "none: nothing decides, and what nothing denies may be"
	}
	line("verdict", verdict)
	line("rule", rule)
	if a.StagedVerdict != "" {
		staged := a.StagedVerdict + " if staged policies were enforced"
		if a.StagedRule != "" {
			staged += ": " + a.StagedRule
		}
		line("staged", staged)
	}
	switch {
	case a.Uncarried != "":
		line("offload", "none: "+a.Uncarried)
	case a.Pair:
		line("offload", "the kernel carries it behind its first packets, and unseen where there are several between the two")
	case !a.denies():
		line("offload", "the kernel carries it behind its first packets")
	}
	for i, step := range a.Steps {
		line(map[bool]string{true: "steps"}[i == 0], step)
	}
	return b.String()
}
