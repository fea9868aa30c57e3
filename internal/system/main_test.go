// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"go.uber.org/goleak"
)

// programs are directories with the programs beside each other.
var programs struct {
	plain string // as they are shipped
	race  string // with the race detector
}

// kills is how many times each of the two builds is killed; VIADUCT_KILLS asks for more, or fewer.
var kills = 100

func TestMain(m *testing.M) { os.Exit(built(m)) }

func built(m *testing.M) int {
	if text := os.Getenv("VIADUCT_KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil || kills < 1 {
			fmt.Fprintf(os.Stderr, "VIADUCT_KILLS=%q is no number of kills\n", text)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "viaduct-system-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	programs.plain, programs.race = filepath.Join(dir, "plain"), filepath.Join(dir, "race")
	for _, build := range [][]string{{"-o", programs.plain + "/"}, {"-race", "-o", programs.race + "/"}} {
		if err := compile(build...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	status := m.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

func compile(flags ...string) error {
	const module = "github.com/viaduct-net/viaduct/"
	c := exec.Command("go", append(append([]string{"build"}, flags...), module+"control/cmd/viaduct-control",
		module+"dataplane/cmd/viaduct-dataplane", module+"tools/cmd/viaduct", module+"cni/cmd/viaduct-cni")...)
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, text)
	}
	return nil
}
