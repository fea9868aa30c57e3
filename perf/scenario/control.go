// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/process"
	"github.com/viaduct-net/viaduct/perf/cluster"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// Control measures the way of desired state: from a source through viaduct-control into viaduct-dataplane's tables.
type Control struct {
	Dataplane string // path of viaduct-dataplane
	Source    string // "etcd" or "dir"
	Size      cluster.Size
	Small     int // pods of the smaller cluster, whose changes are compared with the larger one's; 0: none
	Changes   int // single changes to time, at least 1
	Storm     int // changes a second of the storm; 0: no storm
	StormTime time.Duration
	Runs      int
	Progress  io.Writer
}

// Validate says what is wrong with the settings.
func (c *Control) Validate() error {
	switch {
	case c.Source != "etcd" && c.Source != "dir":
		return fmt.Errorf("source %q: want etcd or dir", c.Source)
	case c.Changes < 1 || c.Runs < 1 || c.Storm < 0:
		return fmt.Errorf("%d changes, %d a second in storms, %d runs: want at least 1, 0 and 1", c.Changes, c.Storm, c.Runs)
	case c.Storm > 0 && c.StormTime <= 0:
		return fmt.Errorf("a storm of %v: want a positive time", c.StormTime)
	case c.Small < 0 || c.Small > c.Size.Pods:
		return fmt.Errorf("%d pods in the small cluster: want 0 to %d", c.Small, c.Size.Pods)
	}
	return c.Size.Validate()
}

// Run measures in rounds, the small cluster and the large one in turns.
func (c *Control) Run(ctx context.Context, doc *report.Document) error {
	if err := c.Validate(); err != nil {
		return err
	}
	sizes := []cluster.Size{c.Size}
	if c.Small > 0 {
		small := c.Size
		small.Pods = c.Small
		sizes = append(sizes, small)
	}
	s := newSeries("control/" + c.Source)
	var subjects []string
	for round := range c.Runs {
		for _, size := range sizes {
			samples, err := c.once(ctx, size)
			if err != nil {
				return fmt.Errorf("%d pods, round %d: %w", size.Pods, round+1, err)
			}
			subject := fmt.Sprintf("%d pods", size.Pods)
			if round == 0 {
				subjects = append(subjects, subject)
			}
			s.add(subject, samples)
			fmt.Fprintf(c.Progress, "control round %d/%d %s:%s\n", round+1, c.Runs, subject, sampleText(samples))
		}
	}
	doc.Results = append(doc.Results, s.results()...)
	doc.Results = append(doc.Results, s.ratios(subjects)...)
	doc.Notes = append(doc.Notes,
		"first snapshot: from the start of viaduct-control until the dataplane has every identity and route in force",
		"change: from writing a pod with another label until the dataplane's answer about its address shows it, "+
			"asked for again and again: the time of a question is part of it")
	return nil
}

// store is where the cluster's objects are written.
type store interface {
	Put(ctx context.Context, pairs [][2]string) error
}

func (c *Control) once(ctx context.Context, size cluster.Size) (samples []Sample, err error) {
	r, err := rig.New(rig.Options{Queues: 1, MTU: 1500})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	pair, err := peer.NewPair(c.Dataplane)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pair.Stop()) }()
	var to store
	source := "dir:" + filepath.Join(pair.Directory(), "manifests")
	if c.Source == "etcd" {
		etcd, err := peer.StartEtcd(ctx, r, pair.Directory())
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, etcd.Stop()) }()
		to, source = etcd, etcd.Source()
	} else {
		to = directory(strings.TrimPrefix(source, "dir:"))
	}
	m := &measurement{Control: c, size: size, pair: pair, store: to}
	return m.run(ctx, r, source)
}

// directory is a store of one file for what is written at once.
type directory string

// Put implements store. Objects written together share a file; a later one has its own, named by its key, so that
// only objects which were written alone at first may be written again.
func (d directory) Put(_ context.Context, pairs [][2]string) error {
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return err
	}
	var b strings.Builder
	for _, kv := range pairs {
		b.WriteString("---\n" + kv[1] + "\n")
	}
	name := strings.ReplaceAll(pairs[0][0], "/", "_") + ".yaml"
	aside := filepath.Join(string(d), "."+name)
	if err := os.WriteFile(aside, []byte(b.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(aside, filepath.Join(string(d), name))
}

// measurement is one round with one cluster.
type measurement struct {
	*Control
	size     cluster.Size
	pair     *peer.Pair
	store    store
	conn     *grpc.ClientConn
	client   api.DataplaneClient
	revision int
}

func (m *measurement) run(ctx context.Context, r *rig.Rig, source string) ([]Sample, error) {
	if err := m.fill(ctx, r); err != nil {
		return nil, err
	}
	if err := m.pair.StartDataplane(r); err != nil {
		return nil, err
	}
	if err := m.connect(ctx); err != nil {
		return nil, err
	}
	defer m.conn.Close()
	first, err := m.firstSnapshot(ctx, r, source)
	if err != nil {
		return nil, err
	}
	samples := []Sample{{"first snapshot", "s", first.Seconds()}}
	changes, err := m.changes(ctx)
	if err != nil {
		return nil, err
	}
	samples = append(samples,
		Sample{"change p50", "ms", milliseconds(changes[len(changes)/2])},
		Sample{"change p99", "ms", milliseconds(changes[len(changes)*99/100])})
	if m.Storm > 0 {
		storm, err := m.storm(ctx)
		if err != nil {
			return nil, err
		}
		samples = append(samples, storm...)
	}
	memory, err := m.pair.ControlMemory()
	if err != nil {
		return nil, err
	}
	return append(samples, Sample{"control memory", "MB", float64(memory) / 1e6}), nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / 1e6 }

// fill writes the whole cluster, each pod so that it can be written again.
func (m *measurement) fill(ctx context.Context, r *rig.Rig) error {
	var together [][2]string
	for o := range m.size.Objects(cluster.Port{Name: "right", Device: r.Right.Name}) {
		pair := [2]string{o.Key(), string(o.JSON)}
		if _, alone := m.store.(directory); alone && o.Kind == "Pod" {
			if err := m.store.Put(ctx, [][2]string{pair}); err != nil {
				return err
			}
			continue
		}
		together = append(together, pair)
	}
	return m.store.Put(ctx, together)
}

func (m *measurement) connect(ctx context.Context) (err error) {
	if m.conn, err = process.Dial(filepath.Join(m.pair.Run(), "dataplane.sock")); err != nil {
		return err
	}
	m.client = api.NewDataplaneClient(m.conn)
	return m.await(ctx, func(ctx context.Context) bool {
		_, err := m.client.Status(ctx, &api.StatusRequest{})
		return err == nil
	})
}

// await asks until the answer is yes.
func (m *measurement) await(ctx context.Context, done func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !done(ctx) {
		if err := m.pair.Err(); err != nil {
			return err
		}
		if err := sleep(ctx, 200*time.Microsecond); err != nil {
			return fmt.Errorf("the dataplane does not have what was written: %w", err)
		}
	}
	return nil
}

func (m *measurement) firstSnapshot(ctx context.Context, r *rig.Rig, source string) (time.Duration, error) {
	start := time.Now()
	if err := m.pair.StartControl(r, source, cluster.Node); err != nil {
		return 0, err
	}
	last := m.size.Pods - 1
	err := m.await(ctx, func(ctx context.Context) bool {
		s, err := m.client.Status(ctx, &api.StatusRequest{})
		return err == nil && int(s.Routes) >= m.size.Routes+m.size.Nodes-1 && m.has(ctx, last, 0)
	})
	return time.Since(start), err
}

// has says whether the dataplane knows the pod's revision.
func (m *measurement) has(ctx context.Context, pod, revision int) bool {
	stream, err := m.client.Identities(ctx, &api.IdentitiesRequest{Address: m.size.PodAddress(pod).String()})
	if err != nil {
		return false
	}
	want := fmt.Sprint("revision=", revision)
	for {
		reply, err := stream.Recv()
		if err != nil {
			return false
		}
		for _, identity := range reply.Identities {
			if slices.Contains(identity.Labels, want) {
				_, _ = stream.Recv() // its end
				return true
			}
		}
	}
}

// changes times single changes, one after the other, in order of their size.
func (m *measurement) changes(ctx context.Context) ([]time.Duration, error) {
	var took []time.Duration
	for range m.Changes {
		pod := rand.IntN(m.size.Pods)
		m.revision++
		start := time.Now()
		if err := m.write(ctx, pod); err != nil {
			return nil, err
		}
		if err := m.await(ctx, func(ctx context.Context) bool { return m.has(ctx, pod, m.revision) }); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took, nil
}

func (m *measurement) write(ctx context.Context, pods ...int) error {
	var pairs [][2]string
	for _, pod := range pods {
		o := m.size.Pod(pod, m.revision)
		pairs = append(pairs, [2]string{o.Key(), string(o.JSON)})
	}
	return m.store.Put(ctx, pairs)
}

// storm changes pods at a rate, and finds how long after the last change all are in force, and in how many epochs.
func (m *measurement) storm(ctx context.Context) ([]Sample, error) {
	before, err := m.client.Status(ctx, &api.StatusRequest{})
	if err != nil {
		return nil, err
	}
	start, sent, pod := time.Now(), 0, 0
	for time.Since(start) < m.StormTime {
		due := int(time.Since(start).Seconds() * float64(m.Storm))
		for ; sent < due; sent++ {
			m.revision++
			pod = sent % m.size.Pods
			if err := m.write(ctx, pod); err != nil {
				return nil, err
			}
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return nil, err
		}
	}
	last := time.Now()
	if err := m.await(ctx, func(ctx context.Context) bool { return m.has(ctx, pod, m.revision) }); err != nil {
		return nil, err
	}
	settled := time.Since(last)
	after, err := m.client.Status(ctx, &api.StatusRequest{})
	if err != nil {
		return nil, err
	}
	return []Sample{
		{"storm changes", "per s", float64(sent) / last.Sub(start).Seconds()},
		{"storm epochs", "per s", float64(after.Epoch-before.Epoch) / time.Since(start).Seconds()},
		{"storm settled", "ms", milliseconds(settled)},
	}, nil
}
