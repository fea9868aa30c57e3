// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/viaduct-net/viaduct/perf/rig"
)

// Pair is viaduct-control with a source of one's choice, and a dataplane that follows it.
type Pair struct{ v viaduct }

// NewPair makes a pair of programs that lie beside each other; dataplane is the path of viaduct-dataplane.
func NewPair(dataplane string) (*Pair, error) {
	p := &Pair{viaduct{name: "viaduct", binary: dataplane}}
	if missing := p.v.Missing(rig.Options{}); missing != "" {
		return nil, errors.New(missing)
	}
	return p, p.v.directory()
}

// Directory is the pair's own, for manifests and stores.
func (p *Pair) Directory() string { return p.v.dir }

// Run is the run directory, with the sockets.
func (p *Pair) Run() string { return p.v.run() }

// StartDataplane starts the dataplane in the device under test.
func (p *Pair) StartDataplane(r *rig.Rig) error { return p.v.startDataplane(r.DUT, nil) }

// StartControl starts control, for the node, in the device under test.
func (p *Pair) StartControl(r *rig.Rig, source, node string) error {
	return p.v.startControl(r.DUT, nil, "--source", source, "--node", node)
}

// ControlMemory is the most memory that control has had resident, in bytes (VmHWM of proc_pid_status(5)).
func (p *Pair) ControlMemory() (uint64, error) {
	path := fmt.Sprintf("/proc/%d/status", p.v.control.cmd.Process.Pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read memory of control: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		var kilobytes uint64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kilobytes); err == nil {
			return kilobytes << 10, nil
		}
	}
	return 0, fmt.Errorf("%s has no VmHWM", path)
}

// Err says that one of the programs has ended, and what it said last.
func (p *Pair) Err() error {
	for _, of := range []*process{p.v.control, p.v.dataplane} {
		if of == nil {
			continue
		}
		select {
		case <-of.ended:
			return fmt.Errorf("%s ended (%v): %s", of.cmd.Path, of.cmd.ProcessState, of.output.last())
		default:
		}
	}
	return nil
}

// Stop ends both and removes the directory.
func (p *Pair) Stop() error { return p.v.Stop() }

// Etcd is an etcd of one member inside the device under test, without fsync: what is measured is not its disk.
type Etcd struct {
	process *process
	client  *clientv3.Client
}

// etcdAddress is where it listens, inside the network namespace.
const etcdAddress = "127.0.0.1:2379"

// Source is the etcd as --source has it.
func (*Etcd) Source() string { return "etcd:http://" + etcdAddress }

// StartEtcd starts Debian's etcd with its data in the directory.
func StartEtcd(ctx context.Context, r *rig.Rig, dir string) (*Etcd, error) {
	binary, err := exec.LookPath("etcd")
	if err != nil {
		return nil, errors.New("there is no etcd: install Debian's package etcd-server")
	}
	p, err := launch(r.DUT, nil, binary, "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", "http://"+etcdAddress, "--advertise-client-urls", "http://"+etcdAddress,
		"--listen-peer-urls", "http://127.0.0.1:2380", "--quota-backend-bytes", "8000000000", "--log-level", "error")
	if err != nil {
		return nil, err
	}
	e := &Etcd{process: p}
	e.client, err = clientv3.New(clientv3.Config{
		Endpoints: []string{"http://" + etcdAddress}, Context: ctx, DialTimeout: 10 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithBlock(), //nolint:staticcheck // the client's own way to wait
			grpc.WithContextDialer(func(ctx context.Context, _ string) (c net.Conn, err error) {
				nsErr := r.DUT.Do(func() error {
					c, err = (&net.Dialer{}).DialContext(ctx, "tcp", etcdAddress)
					return err
				})
				return c, nsErr
			})},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to etcd: %w: %s", err, p.output.last()), p.stop())
	}
	return e, nil
}

// batch is how many operations go into one transaction: etcd's --max-txn-ops.
const batch = 128

// Put writes keys and values, many at once.
func (e *Etcd) Put(ctx context.Context, pairs [][2]string) error {
	for len(pairs) > 0 {
		n := min(len(pairs), batch)
		ops := make([]clientv3.Op, n)
		for i, kv := range pairs[:n] {
			ops[i] = clientv3.OpPut("/viaduct/"+kv[0], kv[1])
		}
		if _, err := e.client.Txn(ctx).Then(ops...).Commit(); err != nil {
			return fmt.Errorf("write to etcd: %w", err)
		}
		pairs = pairs[n:]
	}
	return nil
}

// Stop ends it.
func (e *Etcd) Stop() error { return errors.Join(e.client.Close(), e.process.stop()) }
