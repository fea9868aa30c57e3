// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Thread says how a worker's thread runs and waits for packets.
type Thread struct {
	// Spin is for how long an idle worker polls its rings before it sleeps; negative: for ever.
	Spin time.Duration
	// CPU is the one that the thread is bound to, or AnyCPU.
	CPU int
}

// Activity is what the thread did so far, for status.
type Activity struct {
	Passes uint64 // passes of the loop
	Busy   uint64 // passes that found packets
	Sleeps uint64 // times it waited for the kernel
	Free   uint64 // frames in the pool, as of the last tick
}

// Activity reports what the thread did so far.
func (w *Worker) Activity() Activity {
	return Activity{Passes: w.passes.Load(), Busy: w.busy.Load(), Sleeps: w.sleeps.Load(), Free: w.freeFrames.Load()}
}

// Progress is how far a worker's loop is.
type Progress struct {
	passes uint64
	asleep bool
}

// Asleep is that of a worker that sleeps.
var Asleep = Progress{asleep: true}

// Progress may be asked for by any goroutine.
func (w *Worker) Progress() Progress {
	return Progress{passes: w.passes.Load(), asleep: w.asleep.Load()}
}

// Queues are those that the worker serves, or has served, of any device, by offload.QueueBit. Any goroutine may ask.
func (w *Worker) Queues() uint64 { return w.queues.Load() }

// Since says whether the pass that the worker may have been in is over: tables that were in force at an earlier
// Progress are in use no more, unless they are in force still.
func (p Progress) Since(earlier Progress) bool { return p.asleep || p.passes != earlier.passes }

// Open prepares the descriptors that Run sleeps on. Links may be added from then on.
func (w *Worker) Open() error {
	var err error
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(w.epoll)
		return fmt.Errorf("create eventfd: %w", err)
	}
	w.watch(w.wake)
	return nil
}

// Run polls until Stop or Leave, on a thread of its own. After Stop all links are closed.
func (w *Worker) Run(thread Thread) {
	runtime.LockOSThread() // and never unlocked: the thread, with its priority, ends with Run
	prefer(thread.CPU)
	last := int64(0) // when packets were last seen
	var lately rhythm
	for !w.stopping.Load() {
		now := w.clock()
		w.passes.Add(1)
		if w.Poll(now) > 0 {
			w.busy.Add(1)
			last = now
			lately.saw(now)
			w.runCommands()
			continue
		}
		w.runCommands()
		if thread.Spin >= 0 && now-last >= lately.spin(int64(thread.Spin)) {
			w.sleep()
			last = 0
		}
	}
	if !w.left {
		w.shutdown()
	}
}

// Stop has Run return, soon. Do must not be called from then on.
func (w *Worker) Stop() {
	w.stopping.Store(true)
	w.rouse()
}

// Close releases what Open made, once Run has returned.
func (w *Worker) Close() error {
	return errors.Join(unix.Close(w.epoll), unix.Close(w.wake))
}

// rouse ends the worker's sleep.
func (w *Worker) rouse() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(w.wake, one[:]) // EAGAIN: it is awake already
}

// Do has f run by the worker's goroutine, between two passes, and returns at once. f must not block.
func (w *Worker) Do(f func()) {
	w.commands <- f
	w.rouse()
}

// Call is Do, and waits until f has run or the context ends.
func (w *Worker) Call(ctx context.Context, f func()) error {
	done := make(chan struct{})
	w.Do(func() { f(); close(done) })
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for worker: %w", ctx.Err())
	}
}

func (w *Worker) runCommands() {
	for len(w.commands) > 0 {
		(<-w.commands)()
	}
}

// sleep waits for a packet, a command, the next tick or the next packet that may leave.
func (w *Worker) sleep() {
	w.sleeps.Add(1)
	w.asleep.Store(true)
	defer w.asleep.Store(false)
	timeout := tickInterval
	if len(w.hold.packets) > 0 {
		timeout = 1e6 // the answer that they wait for may come in by another worker's queue
	}
	if len(w.pace.due) > 0 {
		timeout = min(timeout, max(w.pace.due[0].at-w.clock(), 0))
	}
	until := unix.NsecToTimespec(timeout)
	w.polled[0] = unix.PollFd{Fd: int32(w.epoll), Events: unix.POLLIN} // epoll_wait counts in milliseconds
	_, err := unix.Ppoll(w.polled[:], &until, nil)
	if err != nil && !errors.Is(err, unix.EINTR) {
		time.Sleep(time.Millisecond) // cannot happen with descriptors of our own; do not spin if it does
	}
	var drain [8]byte
	_, _ = unix.Read(w.wake, drain[:])
}

func (w *Worker) watch(fd int) {
	if fd >= 0 && w.epoll >= 0 {
		_ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	}
}

func (w *Worker) unwatch(fd int) {
	if fd >= 0 && w.epoll >= 0 {
		_ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

// shutdown closes all links and takes their frames back.
func (w *Worker) shutdown() {
	for len(w.hold.packets) > 0 {
		w.discard(0, verdict.PortClosed)
	}
	w.abandonPaced(verdict.PortClosed)
	w.pipeline.Fragments().Abandon(verdict.PortClosed)
	w.rejoin()
	for _, l := range w.links {
		l.gone = true
	}
	w.closeGone()
	w.book.Publish()
}
