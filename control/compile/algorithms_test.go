// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// TestAlgorithmsAreKnown: what a document may say has a number in the contract, and the other way round.
func TestAlgorithmsAreKnown(t *testing.T) {
	numbers := map[api.Service_Algorithm]bool{}
	for _, name := range model.Algorithms {
		if algorithms[name] == api.Service_ALGORITHM_NONE {
			t.Errorf("%q has no number", name)
		}
		numbers[algorithms[name]] = true
	}
	if len(numbers) != len(api.Service_Algorithm_name)-1 {
		t.Errorf("%d algorithms of %d have names", len(numbers), len(api.Service_Algorithm_name)-1)
	}
}
