// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/viaduct-net/viaduct/control/model"
)

// statusFolder is where nodes write. It is not read: were it watched, every status of every node would go to all.
const statusFolder = "status"

// span is a range of keys: from the first to before the second.
type span struct{ from, to string }

func (s span) has(key string) bool { return s.from <= key && key < s.to }

// spans are the keys that mean desired state: all below the prefix, but for statuses.
func spans(prefix string) [2]span {
	return [2]span{
		{prefix + "/", prefix + "/" + statusFolder + "/"},
		{prefix + "/" + statusFolder + "0", prefix + "0"}, // "0" is the byte behind "/"
	}
}

// parseKey reads PREFIX/KIND/NAME or PREFIX/KIND/NAMESPACE/NAME. The kind is as in model.Key: of groups that are not
// known it ends in the group, "Deployment.apps", so that each object has one key.
func parseKey(prefix, key string) (model.Key, bool) {
	rest, ok := strings.CutPrefix(key, prefix+"/")
	parts := strings.Split(rest, "/")
	for _, part := range parts {
		ok = ok && printable(part)
	}
	switch {
	case !ok || parts[0] == statusFolder:
		return model.Key{}, false
	case len(parts) == 2:
		return model.Key{Kind: parts[0], Name: parts[1]}, true
	case len(parts) == 3:
		return model.Key{Kind: parts[0], Namespace: parts[1], Name: parts[2]}, true
	}
	return model.Key{}, false
}

// formatKey is the inverse of parseKey.
func formatKey(prefix string, k model.Key) string {
	if k.Namespace == "" {
		return prefix + "/" + k.Kind + "/" + k.Name
	}
	return prefix + "/" + k.Kind + "/" + k.Namespace + "/" + k.Name
}

func printable(s string) bool {
	unprintable := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }
	return s != "" && utf8.ValidString(s) && !strings.ContainsFunc(s, unprintable)
}

func validNode(name string) bool { return printable(name) && !strings.Contains(name, "/") }

// decode reads the value of a key. One of the results is nil.
func decode(prefix, key string, value []byte) (*model.Object, *model.Error) {
	place := model.Place{File: key}
	meant, ok := parseKey(prefix, key)
	refuse := func(field, format string, args ...any) (*model.Object, *model.Error) {
		return nil, &model.Error{Place: place, Key: meant, Field: field, Reason: fmt.Sprintf(format, args...)}
	}
	if !ok {
		return refuse("", "not a key of the form %s/KIND/NAME or %s/KIND/NAMESPACE/NAME", prefix, prefix)
	}
	o, err := decodeValue(place, value)
	switch {
	case err != nil:
		if err.Key == (model.Key{}) {
			err.Key = meant
		}
		return nil, err
	case o == nil:
		return refuse("", "the value is empty")
	case o.Key.Kind != meant.Kind:
		return refuse("kind", "%q under the key of a %q; it belongs to %s", o.Key.Kind, meant.Kind,
			formatKey(prefix, o.Key))
	case o.Key.Namespace != meant.Namespace:
		return refuse("metadata.namespace", "%q under the key of %q; it belongs to %s", o.Key.Namespace, meant.Namespace,
			formatKey(prefix, o.Key))
	case o.Key.Name != meant.Name:
		return refuse("metadata.name", "%q under the key of %q; it belongs to %s", o.Key.Name, meant.Name,
			formatKey(prefix, o.Key))
	}
	return o, nil
}

// everyone is the NodeConfig of the nodes that have none of their own.
const everyone = "default"

// whose reads which node an object is for that was refused; empty when that is not one, or does not become clear.
func whose(prefix, key string, value []byte) string {
	meant, _ := parseKey(prefix, key)
	switch meant.Kind {
	case "NodeConfig":
		if meant.Name != everyone {
			return meant.Name
		}
	case "Route":
		var route struct {
			Spec struct {
				Node string `yaml:"node"`
			} `yaml:"spec"`
		}
		if yaml.Unmarshal(value, &route) == nil {
			return route.Spec.Node
		}
	}
	return ""
}

// decodeValue reads JSON, or YAML of one document; nil and nil when there is none.
func decodeValue(place model.Place, value []byte) (*model.Object, *model.Error) {
	if text := bytes.TrimSpace(value); bytes.HasPrefix(text, []byte("{")) && json.Valid(text) {
		return model.FromJSON(place, text)
	}
	objects, errs := model.Decode(place.File, value)
	switch {
	case len(objects)+len(errs) > 1:
		return nil, &model.Error{Place: place, Reason: "more than one document; a key holds one object"}
	case len(errs) == 1:
		errs[0].Place = place
		return nil, errs[0]
	case len(objects) == 1:
		objects[0].Place = place
		return objects[0], nil
	}
	return nil, nil
}
