// SPDX-License-Identifier: Apache-2.0

package show

import (
	"encoding/json"
	"io"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// document is what is asked for when it is more than one message.
type document interface{ json() any }

// writeJSON writes a message as one JSON document: the contract's field names, every field present, 64-bit numbers as
// numbers (protobuf's own mapping makes strings of them, which no script can add up), states as lower-case words.
func writeJSON(w io.Writer, reply any, indent bool) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if indent {
		e.SetIndent("", "  ")
	}
	switch r := reply.(type) {
	case document:
		return e.Encode(r.json())
	case protoreflect.ProtoMessage:
		return e.Encode(jsonMessage(r.ProtoReflect()))
	}
	return e.Encode(reply)
}

func jsonMessage(m protoreflect.Message) any {
	if !m.IsValid() {
		return nil
	}
	object := make(map[string]any)
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		object[string(f.Name())] = jsonField(f, m.Get(f))
	}
	return object
}

func jsonField(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case f.IsMap():
		object := make(map[string]any)
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			object[k.String()] = jsonScalar(f.MapValue(), v)
			return true
		})
		return object
	case f.IsList():
		list := make([]any, v.List().Len())
		for i := range list {
			list[i] = jsonScalar(f, v.List().Get(i))
		}
		return list
	}
	return jsonScalar(f, v)
}

func jsonScalar(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return jsonMessage(v.Message())
	case protoreflect.EnumKind:
		return enumWord(f.Enum(), v.Enum())
	}
	return v.Interface()
}

// enumWord makes "up" of PORT_STATE_UP.
func enumWord(e protoreflect.EnumDescriptor, n protoreflect.EnumNumber) any {
	value := e.Values().ByNumber(n)
	if value == nil {
		return int32(n)
	}
	name := string(value.Name())
	return strings.ToLower(name[strings.LastIndexByte(name, '_')+1:])
}
