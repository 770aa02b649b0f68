package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// stallWatch notices disk operations that do not come back. A leader whose disk hangs still sends
// heartbeats, from other goroutines, and so keeps a leadership that it cannot use (hashicorp/raft#503,
// #614). After the first limit leader traffic stops (transport.go) and another node takes over; after the
// second the process ends, because a write that hangs cannot be taken back.
type stallWatch struct {
	leaderLimit, limit time.Duration
	onFatal            func(error)

	mu      sync.Mutex
	running map[uint64]diskOp
	next    uint64
}

type diskOp struct {
	what  string
	since time.Time
}

func newStallWatch(leaderLimit, limit time.Duration, onFatal func(error)) *stallWatch {
	return &stallWatch{leaderLimit: leaderLimit, limit: limit, onFatal: onFatal, running: map[uint64]diskOp{}}
}

// begin notes that an operation starts; the caller calls done when it came back.
func (w *stallWatch) begin(what string) (done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	id := w.next
	w.running[id] = diskOp{what, time.Now()}
	return func() {
		w.mu.Lock()
		delete(w.running, id)
		w.mu.Unlock()
	}
}

// oldest is the operation that has been running longest.
func (w *stallWatch) oldest() (what string, age time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, op := range w.running {
		if d := time.Since(op.since); d > age {
			what, age = op.what, d
		}
	}
	return what, age
}

// stalled is ErrStalled while an operation runs longer than a leader may take.
func (w *stallWatch) stalled() error {
	if what, age := w.oldest(); age > w.leaderLimit {
		return fmt.Errorf("%w: %s has been running for %s", ErrStalled, what, age.Round(time.Millisecond))
	}
	return nil
}

// run ends the process when an operation passes the limit.
func (w *stallWatch) run(ctx context.Context) {
	period := max(w.limit/20, time.Millisecond)
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	looked := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			now := time.Now()
			w.excuse(looked, now.Sub(looked)-period)
			looked = now
			if what, age := w.oldest(); age > w.limit {
				w.onFatal(fmt.Errorf("%w: %s has been running for %s, the limit is %s; the disk does not answer", ErrStalled, what, age.Round(time.Millisecond), w.limit))
				return
			}
		}
	}
}

// excuse takes the time in which this process did not run off what was running then: a process that was paused, or a
// machine that slept, must not blame the disk. looked is when the watch looked before, and late how much later than it should
// it looks again.
func (w *stallWatch) excuse(looked time.Time, late time.Duration) {
	if late < w.limit/20 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, op := range w.running {
		if !op.since.After(looked) {
			w.running[id] = diskOp{op.what, op.since.Add(late)}
		}
	}
}
