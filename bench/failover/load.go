package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/raftcask/raftcask/client"
)

// load is the writers. They go on through everything; what cannot be written is counted.
type load struct {
	sdk    *client.Client
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu               sync.Mutex
	written          uint64
	last             time.Time     // of the last success
	longest          time.Duration // between two successes, since mark
	unknown, refused int           // since mark
	slowest          time.Duration // of a successful write, since mark
}

// gap is what happened to the writers since a mark.
type gap struct {
	longest          time.Duration
	slowest          time.Duration
	unknown, refused int
}

func startLoad(addrs []string) (*load, error) {
	sdk, err := client.New(client.Options{Addrs: addrs})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{sdk: sdk, cancel: cancel, last: time.Now()}
	value := bytes.Repeat([]byte("x"), valueBytes)
	for w := range writers {
		l.wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				start := time.Now()
				err := sdk.Set(ctx, fmt.Sprintf("writer-%d-%d", w, n%keyCount), value)
				l.note(ctx, start, err)
			}
		})
	}
	return l, nil
}

func (l *load) note(ctx context.Context, start time.Time, err error) {
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		now := time.Now()
		l.longest = max(l.longest, now.Sub(l.last))
		l.slowest = max(l.slowest, now.Sub(start))
		l.last = now
		l.written++
	case errors.Is(err, client.ErrNotApplied):
		l.refused++
	default:
		l.unknown++
	}
}

// mark begins a measurement; it returns the number of writes so far.
func (l *load) mark() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.longest, l.slowest, l.unknown, l.refused = 0, 0, 0, 0
	return l.written
}

// since ends it. If nobody writes now, the gap goes on.
func (l *load) since(before uint64) gap {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := gap{longest: max(l.longest, time.Since(l.last)), slowest: l.slowest, unknown: l.unknown, refused: l.refused}
	if l.written == before {
		g.longest = max(g.longest, watch)
	}
	return g
}

func (l *load) count() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written
}

func (l *load) close() error {
	l.cancel()
	l.wg.Wait()
	return l.sdk.Close()
}
