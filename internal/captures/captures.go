// SPDX-License-Identifier: Apache-2.0

// Package captures holds real and hostile packet captures for tests. testdata/README.md says where they come from.
package captures

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
)

// Environment names the variable with a directory of further captures, *.pcap and *.pcapng.
const Environment = "VIADUCT_CAPTURES"

//go:embed testdata
var embedded embed.FS

// File is one capture file.
type File struct {
	Name string // without directory
	Data []byte
}

// Files returns the captures of this package, then those of the directory that Environment names, each by name.
func Files() ([]File, error) {
	entries, err := embedded.ReadDir("testdata")
	if err != nil {
		return nil, fmt.Errorf("list embedded captures: %w", err)
	}
	var files []File
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".pcap" {
			continue
		}
		data, err := embedded.ReadFile("testdata/" + e.Name())
		if err != nil {
			return nil, fmt.Errorf("read embedded capture: %w", err)
		}
		files = append(files, File{e.Name(), data})
	}
	dir := os.Getenv(Environment)
	if dir == "" {
		return files, nil
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.pcap*"))
	if err != nil {
		return nil, fmt.Errorf("list captures in %s: %w", Environment, err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read capture: %w", err)
		}
		files = append(files, File{filepath.Base(name), data})
	}
	return files, nil
}
