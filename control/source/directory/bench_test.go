// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/viaduct-net/viaduct/control/source"
)

// BenchmarkChange is the time from a file's rename into a directory of 10,000 to the report.
func BenchmarkChange(b *testing.B) {
	dir := b.TempDir()
	for i := range 10_000 {
		path := filepath.Join(dir, fmt.Sprintf("%02d", i%100), fmt.Sprintf("%05d.yaml", i))
		text := blackhole(fmt.Sprint("r", i), fmt.Sprintf("10.%d.%d.0/24", i/256, i%256))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	events, done := make(chan source.Event), make(chan error)
	go func() { done <- New(dir).Run(ctx, func(e source.Event) { events <- e }) }()
	if e := <-events; len(e.Set) != 10_000 {
		b.Fatalf("%d objects, %d errors", len(e.Set), len(e.Errors))
	}
	aside, path := filepath.Join(dir, ".aside"), filepath.Join(dir, "42/00042.yaml")
	for i := 0; b.Loop(); i++ {
		text := blackhole("r42", fmt.Sprintf("11.%d.%d.0/24", i/256%256, i%256))
		if err := os.WriteFile(aside, []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
		if err := os.Rename(aside, path); err != nil {
			b.Fatal(err)
		}
		if e := <-events; len(e.Set) != 1 {
			b.Fatalf("reported %+v", e)
		}
	}
	stop()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
