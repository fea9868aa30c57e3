// SPDX-License-Identifier: Apache-2.0

package show

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/tools/exit"
)

// health is what both daemons say of themselves. As JSON it is the dataplane's reply with control's as a field of it.
type health struct {
	dataplane *api.StatusReply
	absence   error                   // why no dataplane answers; nil when one does
	control   *controlapi.StatusReply // nil when control does not answer
	silence   string                  // why it does not
}

func status(f *Flags) *cobra.Command {
	return command(f, &cobra.Command{
		Use:   "status",
		Short: "Show health, epoch, source, what was refused, workers, kernel features, what is degraded and why",
		Long: `Show how the dataplane and control are: the epoch in force, the source of desired state, the objects that were
refused, workers, kernel features found and missing, and what is degraded and why.

Exit status: 0 tables are in force; 1 there are none yet; 2 no dataplane answers.`,
		Args: cobra.NoArgs,
	}, func(*cobra.Command, []string) view[*health] {
		return view[*health]{ask: askHealth, text: healthText, judge: judgeHealth, alone: true}
	})
}

func askHealth(ctx context.Context, c *Client) (*health, error) {
	h := &health{absence: c.absence}
	var err error
	if h.absence == nil {
		if h.dataplane, err = c.Status(ctx); err != nil {
			return nil, err
		}
	}
	if h.control, err = c.Control(ctx); err != nil {
		h.silence = err.Error()
	}
	if h.control == nil && h.absence != nil {
		return nil, h.absence
	}
	return h, nil
}

func (h *health) json() any {
	object := map[string]any{}
	if h.dataplane != nil {
		object = jsonMessage(h.dataplane.ProtoReflect()).(map[string]any)
	}
	object["control"] = jsonMessage(h.control.ProtoReflect())
	object["control_error"] = h.silence
	object["dataplane_error"] = ""
	if h.absence != nil {
		object["dataplane_error"] = h.absence.Error()
	}
	object["healthy"] = len(h.ailments()) == 0
	return object
}

func judgeHealth(h *health) error {
	if h.absence != nil {
		return h.absence
	}
	if h.dataplane.Epoch == 0 {
		return exit.Fail(errors.New("no tables are in force: nothing is forwarded"))
	}
	return nil
}

// ailments are what is not as it should be, a line each.
func (h *health) ailments() []string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if h.absence != nil {
		say("dataplane: %v", h.absence)
	}
	if n := h.dataplane.GetLastNack(); n != nil {
		say("refused: epoch %d: %s", n.Epoch, nonEmpty(": ", n.Object, n.Field, n.Reason))
	}
	for _, d := range h.dataplane.GetDegraded() {
		say("degraded: %s: %s", d.Subject, d.Reason)
	}
	if trouble := h.dataplane.GetStateFile().GetTrouble(); trouble != "" {
		say("state file: %s: %s", h.dataplane.StateFile.Path, trouble)
	}
	if h.control == nil {
		say("control: %s", h.silence)
		return lines
	}
	if c := h.dataplane.GetControlLink(); c != nil && !c.Connected {
		say("control: the dataplane is not connected for %v: %s", since(c.SinceUnixNanoseconds), c.Error)
	}
	if h.control.Failure != "" {
		say("control: %s", h.control.Failure)
	}
	if trouble := h.control.Source.GetTrouble(); trouble != "" {
		say("source: %s: %s", h.control.Source.GetName(), trouble)
	}
	for _, r := range h.control.Refused {
		say("refused: %s", nonEmpty(": ", r.Place, r.Object, r.Field, r.Reason))
	}
	for _, p := range h.control.Pools {
		if nearlyExhausted(p) {
			say("leases: %s: nearly exhausted", poolText(p))
		}
	}
	return lines
}

// nearlyExhausted says whether nine tenths of a pool's addresses are leased.
func nearlyExhausted(p *controlapi.Pool) bool {
	return !p.Retired && p.Size > 0 && p.Leased >= p.Size-p.Size/10
}

func poolText(p *controlapi.Pool) string {
	switch {
	case p.Retired:
		return fmt.Sprintf("%s: %d leased, and no more to lease", p.Prefix, p.Leased)
	case p.Size == math.MaxUint64:
		return fmt.Sprintf("%s: %d leased", p.Prefix, p.Leased)
	}
	return fmt.Sprintf("%s: %d of %d leased", p.Prefix, p.Leased, p.Size)
}

func healthText(w io.Writer, h *health) error {
	s, ailments := h.dataplane, h.ailments()
	word := "healthy"
	if len(ailments) > 0 || s.GetEpoch() == 0 {
		word = "degraded"
	}
	pairs := newTable("health", word)
	if s == nil {
		pairs.add("node", h.control.Node)
		pairs.add("version", h.control.Version+", control alone")
	} else {
		dataplanePairs(pairs, s)
	}
	controlPairs(pairs, h.control)
	err := pairs.write(w)
	for _, line := range ailments {
		_, lineErr := fmt.Fprintln(w, line)
		err = errors.Join(err, lineErr)
	}
	return errors.Join(err, workersText(w, s.GetWorkers()), featuresText(w, s.GetFeatures()))
}

func dataplanePairs(pairs *table, s *api.StatusReply) {
	pairs.add("node", s.Node)
	pairs.add("version", s.Version)
	pairs.add("kernel", s.Kernel)
	pairs.add("up", since(s.StartedUnixNanoseconds))
	pairs.add("epoch", fmt.Sprintf("%d, applied in %v", s.Epoch, time.Duration(s.ApplyNanoseconds)))
	pairs.add("tables", fmt.Sprintf("%d ports, %d routes, %d next-hop groups, %d neighbors, %d identities, %d policies",
		len(s.Ports), s.Routes, s.Groups, s.Neighbors, s.Identities, s.Policies))
	if f := s.FlowTable; f != nil {
		pairs.add("flows", fmt.Sprintf("%d of %d, %d not answered; %d evicted, %d refused", f.Flows, f.Capacity, f.HalfOpen,
			f.Evicted, f.RefusedTable+f.RefusedPort+f.RefusedSource))
	}
	if o := s.Offload; o != nil {
		pairs.add("offload", offloadText(o))
		if o.RefusedPort+o.EvictedPort > 0 {
			pairs.add("shares", sharesText(s.Ports))
		}
	}
	pairs.add("from", s.TablesFrom)
}

// offloadText says how the kernel's table of flows is.
func offloadText(o *api.Offload) string {
	if !o.On {
		return "off: " + o.Why
	}
	text := fmt.Sprintf("%d of %d flows, %d of them pairs; %d entered, %d removed, %d evicted, %d refused", o.Records,
		o.Capacity, o.Pairs, o.Entered, o.Removed, o.Evicted, o.Refused)
	if o.Walks > 0 {
		text += fmt.Sprintf("; last walk %d flows in %v", o.LastWalkFlows,
			time.Duration(o.LastWalkNanoseconds).Round(time.Microsecond))
	}
	return text
}

// sharesText names the ports whose flows are kept from the kernel's table by what a port may have of it, the worst
// first.
func sharesText(ports []*api.Port) string {
	const most = 5
	kept := func(p *api.Port) uint64 { return p.Offload.GetRefused() + p.Offload.GetEvicted() }
	bound := slices.DeleteFunc(slices.Clone(ports), func(p *api.Port) bool { return kept(p) == 0 })
	slices.SortStableFunc(bound, func(a, b *api.Port) int { return cmp.Compare(kept(b), kept(a)) })
	words := make([]string, 0, most)
	for _, p := range bound[:min(len(bound), most)] {
		words = append(words, fmt.Sprintf("%s has %d, %d evicted, %d refused", p.Name, p.Offload.Records, p.Offload.Evicted,
			p.Offload.Refused))
	}
	if len(bound) > most {
		words = append(words, fmt.Sprintf("and %d others", len(bound)-most))
	}
	return cmp.Or(strings.Join(words, "; "), "of ports that are gone")
}

func controlPairs(t *table, c *controlapi.StatusReply) {
	if c == nil {
		return
	}
	source := c.Source.GetName()
	if !c.Source.GetInStep() {
		source += ", not in step"
	}
	t.add("source", source)
	var words []string
	for _, kind := range sortedKeys(c.Objects) {
		words = append(words, fmt.Sprintf("%d %s", c.Objects[kind], kind))
	}
	t.add("objects", strings.Join(words, ", "))
	if len(c.Pools) > 0 || c.Attachments > 0 {
		t.add("pods", fmt.Sprintf("%d interfaces attached", c.Attachments))
	}
	for _, p := range c.Pools {
		t.add("leases", poolText(p))
	}
	if d := c.Dataplane; d != nil {
		t.add("pushed", fmt.Sprintf("epoch %d in %v: %d snapshots, %d deltas, %d refused", d.Epoch,
			time.Duration(d.RoundTripNanoseconds).Round(time.Microsecond), d.Snapshots, d.Deltas, d.Nacks))
	}
}

func since(unixNanoseconds int64) time.Duration {
	return time.Since(time.Unix(0, unixNanoseconds)).Round(time.Second)
}

func workersText(w io.Writer, workers []*api.Worker) error {
	t := newTable("WORKER", "CPU", "QUEUES", ">FRAMES", ">FREE", ">PACKETS", ">PASSES", ">BUSY", ">SLEEPS")
	for _, k := range workers {
		cpu := fmt.Sprint(k.Cpu)
		if k.Cpu < 0 {
			cpu = "any"
		}
		queues := make([]string, len(k.Queues))
		for i, q := range k.Queues {
			queues[i] = fmt.Sprintf("%s:%d", q.Device, q.Queue)
		}
		t.add(k.Id, cpu, strings.Join(queues, " "), k.Frames, k.FramesFree, k.Packets, k.Passes, k.BusyPasses, k.Sleeps)
	}
	return section(w, t)
}

func featuresText(w io.Writer, features []*api.Feature) error {
	t := newTable("FEATURE", "FOUND", "SINCE", "DETAIL")
	for _, f := range features {
		t.add(f.Name, yesNo(f.Found), f.Since, f.Detail)
	}
	return section(w, t)
}
