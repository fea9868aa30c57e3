// SPDX-License-Identifier: Apache-2.0

// Package process is what the daemons have in common as processes: their flags and log, the run directory with its
// locks, and the unix sockets in it with the credentials of both ends.
package process

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Exit statuses of the daemons.
const (
	ExitFailed = 1 // stopped by a fault while running
	ExitSetUp  = 2 // could not start: flags, privileges, devices, addresses
)

// SetUpError is what has to be put right before a daemon can run at all: mains exit with ExitSetUp for it.
type SetUpError struct{ Err error }

// Error is the inner error's text.
func (e *SetUpError) Error() string { return e.Err.Error() }

// Unwrap returns the inner error.
func (e *SetUpError) Unwrap() error { return e.Err }

// Flags are those of every daemon.
type Flags struct {
	Run       string // directory of sockets and pid files
	State     string // directory of what outlives the process
	LogLevel  string
	LogFormat string
}

// Add defines the flags.
func (f *Flags) Add(s *pflag.FlagSet) {
	s.StringVar(&f.Run, "run", "/run/viaduct", "directory of control.sock, dataplane.sock and the pid files")
	s.StringVar(&f.State, "state", "/var/lib/viaduct", "directory of what outlives the process")
	s.StringVar(&f.LogLevel, "log-level", "info", "debug, info, warn or error")
	s.StringVar(&f.LogFormat, "log-format", "text", "text or json")
}

// Logger returns a log to standard error as the flags have it.
func (f *Flags) Logger() (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(f.LogLevel)
	if err != nil {
		return nil, &SetUpError{fmt.Errorf("--log-level %q: use debug, info, warn or error", f.LogLevel)}
	}
	cfg := zap.NewProductionConfig()
	cfg.Level = zap.NewAtomicLevelAt(level)
	cfg.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	cfg.DisableStacktrace = true
	cfg.Sampling = nil // three hundred refusals are three hundred lines
	switch f.LogFormat {
	case "json":
	case "text":
		cfg.Encoding = "console"
		cfg.EncoderConfig.EncodeDuration = zapcore.StringDurationEncoder
	default:
		return nil, &SetUpError{fmt.Errorf("--log-format %q: use text or json", f.LogFormat)}
	}
	return cfg.Build()
}

// Build says what this program is: the module's version, the revision that it was built from, and Go's version; each
// is "unknown" where the build did not record it.
func Build() (version, revision, toolchain string) {
	version, revision, toolchain = "unknown", "unknown", "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version, revision, toolchain
	}
	version, toolchain = info.Main.Version, info.GoVersion
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	return version, revision, toolchain
}
