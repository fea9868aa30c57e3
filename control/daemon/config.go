// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// configured is a source with a NodeConfig from a file over it: what the source says of that node's settings does not
// count.
type configured struct {
	source.Source
	path   string
	node   string
	reload chan struct{}

	mu     sync.Mutex // guards what follows, and keeps events in order
	config *model.Object
	err    *model.Error // why the file as it is does not count
}

// newConfigured reads the file, which has to be right at first. The NodeConfig becomes the node's, whatever its name.
func newConfigured(s source.Source, path, node string) (*configured, error) {
	c := &configured{Source: s, path: path, node: node, reload: make(chan struct{}, 1)}
	if c.read(); c.err != nil {
		return nil, fmt.Errorf("--config: %w", c.err)
	}
	return c, nil
}

// read reads the file; a wrong one leaves the last good form.
func (c *configured) read() {
	config, err := readConfig(c.path)
	if err == nil {
		config.Key.Name = c.node
		c.config = config
	}
	c.err = err
}

func readConfig(path string) (*model.Object, *model.Error) {
	fail := func(err error) (*model.Object, *model.Error) {
		return nil, model.NewError(model.Place{File: path}, model.Key{}, "", err.Error())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fail(err)
	}
	objects, errs := model.Decode(path, text)
	switch {
	case len(errs) > 0:
		return nil, errs[0]
	case len(objects) != 1 || objects[0].Key.Kind != "NodeConfig":
		return fail(errors.New("one NodeConfig is meant, and nothing else"))
	}
	return objects[0], nil
}

// Reload reads the file again, and the source if it can be read again.
func (c *configured) Reload() {
	select {
	case c.reload <- struct{}{}:
	default: // one is pending
	}
	if s, ok := c.Source.(interface{ Reload() }); ok {
		s.Reload()
	}
}

// Publish implements source.Publisher as far as the source does.
func (c *configured) Publish(r source.Report) {
	p, ok := c.Source.(source.Publisher)
	if !ok {
		return
	}
	c.mu.Lock()
	config := c.config
	c.mu.Unlock()
	// The file's, as it is or was: its place tells it from the source's of that name.
	r.Statuses = slices.DeleteFunc(slices.Clone(r.Statuses), func(s source.Status) bool {
		return s.Object.Key == config.Key && s.Object.Place.File == config.Place.File
	})
	p.Publish(r)
}

// Run implements source.Source.
func (c *configured) Run(ctx context.Context, report func(source.Event)) error {
	var last source.Event // without objects: what stands
	say := func(e source.Event) {
		if c.err != nil {
			e.Errors = append(slices.Clip(e.Errors), c.err)
		}
		report(e)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return c.Source.Run(ctx, func(e source.Event) {
			c.mu.Lock()
			defer c.mu.Unlock()
			last = source.Event{Errors: e.Errors, Trouble: e.Trouble}
			say(c.over(e))
		})
	})
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-c.reload:
			}
			c.mu.Lock()
			c.read()
			e := last
			e.Set = []*model.Object{c.config}
			say(e)
			c.mu.Unlock()
		}
	})
	return group.Wait()
}

// over puts the NodeConfig in the place of the source's.
func (c *configured) over(e source.Event) source.Event {
	e.Set = slices.DeleteFunc(slices.Clone(e.Set), func(o *model.Object) bool { return o.Key == c.config.Key })
	e.Removed = slices.DeleteFunc(slices.Clone(e.Removed), func(k model.Key) bool { return k == c.config.Key })
	if e.Whole {
		e.Set = append(e.Set, c.config)
	}
	return e
}
