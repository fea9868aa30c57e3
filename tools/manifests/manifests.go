// SPDX-License-Identifier: Apache-2.0

// Package manifests reads desired state from a directory for tools that work offline. What a running control would
// leave out and report is an error here: nobody would see it.
package manifests

import (
	"fmt"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source/directory"
)

// Read returns the objects in a directory, ordered by key, or the first error in them.
func Read(dir string) ([]*model.Object, error) {
	objects, errs, err := directory.Read(dir)
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	return objects, Refused(errs)
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
