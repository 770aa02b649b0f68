package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// store is what import and verify need of a cluster, or of one node.
type store interface {
	Set(ctx context.Context, key string, value []byte) error
	Get(ctx context.Context, key string) (value []byte, found bool, err error)
	// Keys calls fn for every key that begins with prefix; a key may come twice.
	Keys(ctx context.Context, prefix string, fn func(key string)) error
	// MaxValueBytes is the longest value that the node takes.
	MaxValueBytes(ctx context.Context) (int64, error)
	Close() error
}

// fate of an operation that failed.
type fate int

const (
	fatal   fate = iota // it fails again however often it is tried
	retry               // nothing was applied, or it was a read
	unknown             // a write that may or may not have been applied
)

const (
	retryPauseMin = 25 * time.Millisecond
	retryPauseMax = time.Second
)

// retrier repeats operations while a cluster elects a leader or a node restarts.
// It is for operations that may be repeated: reads, and writes of the same value.
type retrier struct {
	timeout  time.Duration // of one try
	patience time.Duration // of all tries of an operation

	retries, unknowns atomic.Int64
}

// exhausted is an operation that was given up: the cluster does not answer.
type exhausted struct {
	after time.Duration
	err   error
}

func (e *exhausted) Error() string {
	return fmt.Sprintf("gave up after %s: %v", e.after.Round(time.Second), e.err)
}
func (e *exhausted) Unwrap() error { return e.err }

// do runs op until it succeeds, fails for good, or patience is over.
func (r *retrier) do(ctx context.Context, op func(ctx context.Context) error) error {
	begin := time.Now()
	for pause := retryPauseMin; ; pause = min(2*pause, retryPauseMax) {
		err := r.try(ctx, op)
		if err == nil || ctx.Err() != nil {
			return err
		}
		switch fateOf(err) {
		case fatal:
			return err
		case unknown:
			r.unknowns.Add(1)
		case retry:
		}
		if took := time.Since(begin); took > r.patience {
			return &exhausted{took, err}
		}
		r.retries.Add(1)
		if !sleep(ctx, pause) {
			return err
		}
	}
}

func (r *retrier) try(ctx context.Context, op func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return op(ctx)
}

// each runs work for all files with a number of workers. The first error of work
// ends it: what concerns one file only is work's own business.
func each(ctx context.Context, files []file, workers int, work func(context.Context, file) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var running sync.WaitGroup
	for range min(workers, len(files)) {
		running.Go(func() {
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				if i >= int64(len(files)) {
					return
				}
				if err := work(ctx, files[i]); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}

// sleep waits for d; false means that ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
