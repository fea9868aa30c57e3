// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// Daemons die in the midst of many ADDs and DELs. Every ADD that answered works, and one that failed left nothing.
func TestKillsWhileAdding(t *testing.T) {
	for name, bin := range map[string]string{"plain": programs.plain, "race": programs.race} {
		t.Run(name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			chance := rand.New(rand.NewPCG(seed, 0))
			p := newPodSiteOf(t, bin)
			p.peerIn(p.node)
			before := p.take().list
			for round, dies := range []struct{ control, dataplane bool }{{true, false}, {false, true}, {true, true}} {
				adding := p.startAdding(round, 20)
				p.die(chance, dies.control, dies.dataplane)
				p.onlyThese(adding.stop(t))
				p.leftNothingOf(before)
			}
		})
	}
}

// die kills one daemon or both at any moment, and starts it again.
func (p *podSite) die(chance *rand.Rand, control, dataplane bool) {
	p.t.Helper()
	time.Sleep(time.Duration(100+chance.IntN(200)) * time.Millisecond)
	if control {
		p.control.kill()
	}
	if dataplane {
		p.dataplane.kill()
	}
	time.Sleep(time.Duration(chance.IntN(200)) * time.Millisecond)
	if dataplane {
		p.dataplane = p.startDataplane()
	}
	if control {
		p.control = p.startControl()
	}
	p.willAdd()
}

// onlyThese checks that of all pods these are there and work, and removes them.
func (p *podSite) onlyThese(standing []*attached) {
	p.t.Helper()
	for _, a := range standing {
		if err := a.check(); err != nil {
			p.t.Errorf("CHECK %s: %v", a.Name(), err)
		}
		p.reachable(a)
	}
	if devices := p.devices("vd"); len(devices) != len(standing) {
		p.t.Errorf("devices %v of %d pods", devices, len(standing))
	}
	p.eventually("leases to be those of pods", func() error { return p.attachments(len(standing)) })
	p.must(each(len(standing), 4, func(i int) error { return standing[i].tryDel() }))
	for _, a := range standing {
		a.close()
	}
}

// adding is many who add and remove pods, each one after another.
type adding struct {
	done             chan struct{}
	end              func() // waits for them
	workers          sync.WaitGroup
	mu               sync.Mutex
	standing         []*attached
	answered, failed int
}

func (p *podSite) startAdding(round, workers int) *adding {
	a := &adding{done: make(chan struct{})}
	a.end = sync.OnceFunc(func() {
		close(a.done)
		a.workers.Wait()
	})
	p.t.Cleanup(a.end)
	for w := range workers {
		a.workers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-a.done:
					return
				default:
					a.one(p, fmt.Sprintf("r%d-w%d-%d", round, w, i), i%2 == 0)
				}
			}
		})
	}
	return a
}

// one adds a pod, and removes it again unless it is to stand.
func (a *adding) one(p *podSite, name string, removed bool) {
	pod, err := p.tryPod(name)
	if err != nil {
		p.t.Error(err)
		return
	}
	err = pod.tryAdd()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		a.failed++
		pod.close() // a runtime would call DEL; that nothing is left must not depend on it
	case removed || len(a.standing) >= 12:
		a.answered++
		a.mu.Unlock()
		if err := pod.tryDel(); err != nil {
			p.t.Errorf("DEL %s: %v", name, err)
		}
		pod.close()
		a.mu.Lock()
	default:
		a.answered++
		a.standing = append(a.standing, pod)
	}
}

// stop returns the pods that stand.
func (a *adding) stop(t *testing.T) []*attached {
	a.end()
	t.Logf("%d ADDs answered, %d failed, %d stand", a.answered, a.failed, len(a.standing))
	return a.standing
}
