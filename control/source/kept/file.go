// SPDX-License-Identifier: Apache-2.0

package kept

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/viaduct-net/viaduct/control/model"
)

const (
	name    = "kept.json"
	version = 1
	maxSize = 256 << 20 // bytes
)

// document is the file: JSON, for whoever wonders what is in it.
type document struct {
	Version int      `json:"version"`
	Objects []object `json:"objects"`
}

// object is a model.Object whose Spec has the type that its kind's has.
type object struct {
	Key        model.Key
	Place      model.Place
	Labels     map[string]string
	Generation int64
	Spec       json.RawMessage
	Complaints []model.Complaint `json:",omitempty"`
}

// specs makes the Spec of each kind; of the others it is a model.Raw.
var specs = map[string]func() any{
	"NodeConfig": func() any { return model.DefaultNodeConfig() },
	"Route":      func() any { return new(model.Route) },
	"Pod":        func() any { return new(model.Pod) },
	"Namespace":  func() any { return new(model.Namespace) },
	"Node":       func() any { return new(model.Node) },

	"Service":       func() any { return new(model.Service) },
	"EndpointSlice": func() any { return new(model.EndpointSlice) },
	"ServiceCIDR":   func() any { return new(model.ServiceCIDR) },

	"NetworkPolicy":        func() any { return new(model.Policy) },
	"ClusterNetworkPolicy": func() any { return new(model.Policy) },
}

// write replaces the file, so that a crash leaves the one before it or the whole new one.
func write(path string, list []*model.Object) error {
	d := document{Version: version, Objects: []object{}}
	for _, o := range list {
		spec, err := json.Marshal(o.Spec)
		if err != nil {
			return fmt.Errorf("encode %s: %w", o.Key, err)
		}
		d.Objects = append(d.Objects, object{o.Key, o.Place, o.Labels, o.Generation, spec, o.Complaints})
	}
	text, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	return replace(path, text)
}

func replace(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+name+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// read returns what the file has; nothing where there is no file.
func read(path string) ([]*model.Object, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if d.Version != version {
		return nil, fmt.Errorf("read %s: version %d, and %d is known", path, d.Version, version)
	}
	var list []*model.Object
	for _, o := range d.Objects {
		spec, err := specOf(o)
		if err != nil {
			return nil, fmt.Errorf("read %s: %s: %w", path, o.Key, err)
		}
		list = append(list, &model.Object{
			Key: o.Key, Place: o.Place, Labels: o.Labels, Generation: o.Generation, Spec: spec,
			Complaints: o.Complaints,
		})
	}
	return list, nil
}

func specOf(o object) (any, error) {
	if empty := specs[o.Key.Kind]; empty != nil {
		spec := empty()
		return spec, json.Unmarshal(o.Spec, spec)
	}
	var raw model.Raw
	err := json.Unmarshal(o.Spec, &raw)
	return raw, err
}
