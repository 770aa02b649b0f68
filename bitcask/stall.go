package bitcask

import (
	"context"
	"sync/atomic"
	"time"
)

// stall holds writers up for a while: none of them holds a lock meanwhile, and each waits before it writes.
type stall struct {
	now   atomic.Pointer[pause] // nil: nobody waits
	total atomic.Int64          // nanoseconds
}

type pause struct {
	until time.Time
	over  chan struct{} // closed when it ends early
}

// begin holds writers up for d. A longer pause that has begun goes on. For one caller at a time.
func (t *stall) begin(d time.Duration) {
	from := time.Now()
	until := from.Add(d)
	if before := t.now.Load(); before != nil {
		if !until.After(before.until) {
			return
		}
		if before.until.After(from) {
			from = before.until
		}
	}
	t.total.Add(int64(until.Sub(from)))
	t.now.Store(&pause{until, make(chan struct{})})
}

// end lets writers go on.
func (t *stall) end() {
	if p := t.now.Swap(nil); p != nil {
		t.total.Add(-int64(max(0, time.Until(p.until))))
		close(p.over)
	}
}

// wait until the stall is over, or the context.
func (t *stall) wait(ctx context.Context) {
	p := t.now.Load()
	if p == nil {
		return
	}
	if d := time.Until(p.until); d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.over:
		case <-ctx.Done():
		}
	}
	t.now.CompareAndSwap(p, nil)
}
