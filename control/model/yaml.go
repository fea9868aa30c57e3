// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
)

// checkAliases refuses a document whose aliases (YAML 1.2, 7.1) stand for more text than an object may have: the
// parser has one copy of what is anchored, but as JSON each alias is a copy of its own, and a short document could be
// any number of gigabytes. It is told before anything is copied.
func checkAliases(text []byte) error {
	if bytes.IndexByte(text, '*') < 0 || bytes.IndexByte(text, '&') < 0 {
		return nil
	}
	var document yamlv3.Node
	if err := yamlv3.Unmarshal(text, &document); err != nil {
		return err
	}
	a := aliases{sizes: map[*yamlv3.Node]int{}}
	if a.count(&document); a.total > MaxObject {
		return fmt.Errorf("aliases stand for more than %d bytes", MaxObject)
	}
	return nil
}

// aliases adds up what a document's aliases stand for.
type aliases struct {
	total int                  // bytes, at most a little more than MaxObject
	sizes map[*yamlv3.Node]int // of what is anchored; 0 while it is being measured
}

// count adds what the aliases below the node stand for.
func (a *aliases) count(n *yamlv3.Node) {
	if n.Kind == yamlv3.AliasNode {
		a.total = min(a.total+a.size(n), MaxObject+1)
	}
	for _, child := range n.Content {
		a.count(child)
	}
}

// size is that of the node's text, with all aliases replaced. What contains itself the parser refuses later.
func (a *aliases) size(n *yamlv3.Node) int {
	if n.Kind == yamlv3.AliasNode {
		n = n.Alias
	}
	if n.Anchor != "" {
		if size, known := a.sizes[n]; known {
			return size
		}
		a.sizes[n] = 0
	}
	const marks = 4 // quotes and separators
	size := len(n.Value) + marks
	for _, child := range n.Content {
		size = min(size+a.size(child), MaxObject+1)
	}
	if n.Anchor != "" {
		a.sizes[n] = size
	}
	return size
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): `)

// oneLine words an error of the YAML parser, whose line numbers count from the document's beginning. Of a list, of
// keys that are repeated, it has the first.
func oneLine(err error) string {
	text := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	text = ofDocument(text)
	text = strings.TrimPrefix(text, "yaml: ")
	if list, found := strings.CutPrefix(text, "unmarshal errors:\n"); found {
		first, rest, more := strings.Cut(list, "\n")
		if text = ofDocument(strings.TrimSpace(first)); more {
			text = fmt.Sprintf("%s, and %d more like that", text, 1+strings.Count(rest, "\n"))
		}
	}
	return strings.Join(strings.Fields(text), " ")
}

// ofDocument says what the line number at the beginning counts from.
func ofDocument(text string) string {
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("line %s of the document: %s", m[1], text[len(m[0]):])
	}
	return text
}
