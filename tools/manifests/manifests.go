// SPDX-License-Identifier: Apache-2.0

// Package manifests reads desired state from a directory for tools that work offline.
package manifests

import (
	"fmt"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source/directory"
)

// Read returns the objects in a directory, ordered by key, or the first error in them: what a running control would
// leave out and report nobody would see.
func Read(dir string) ([]*model.Object, error) {
	objects, errs, err := ReadAll(dir)
	if err != nil {
		return nil, err
	}
	return objects, Refused(errs)
}

// ReadAll returns the objects in a directory, ordered by key, as a control has them that starts, and what is refused.
func ReadAll(dir string) (objects []*model.Object, refused []*model.Error, err error) {
	objects, refused, err = directory.Read(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read manifests: %w", err)
	}
	return objects, refused, nil
}

// Refused makes one error of what was refused, nil where nothing was.
func Refused(errs []*model.Error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return fmt.Errorf("%w (and %d more)", errs[0], len(errs)-1)
}
