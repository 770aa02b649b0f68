package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
)

// scriptedLog is a log store that does what a test says.
type scriptedLog struct {
	raft.LogStore
	store func() error
}

func (l *scriptedLog) StoreLogs([]*raft.Log) error      { return l.store() }
func (l *scriptedLog) DeleteRange(uint64, uint64) error { return l.store() }
func (l *scriptedLog) IsMonotonic() bool                { return true }

func testGuard(watch *stallWatch, store func() error, fatal func(error)) *logGuard {
	return &logGuard{LogStore: &scriptedLog{store: store}, watch: watch, onFatal: fatal, onFirst: func() error { return nil }}
}

func TestFailedAppendIsFatalButForAFullDisk(t *testing.T) {
	for _, c := range []struct {
		err   error
		fatal bool
	}{
		{nil, false},
		{fmt.Errorf("append: %w", bitcask.ErrNoSpace), false},
		{bitcask.ErrClosed, false},
		{bitcask.ErrPoisoned, true},
		{bitcask.ErrCorrupt, true},
		{errors.New("something new"), true},
	} {
		var fatal error
		g := testGuard(noWatch(), func() error { return c.err }, func(err error) { fatal = err })
		if err := g.StoreLog(&raft.Log{Index: 1}); !errors.Is(err, c.err) {
			t.Errorf("%v: raft is told %v", c.err, err)
		}
		if (fatal != nil) != c.fatal {
			t.Errorf("%v: fatal is %v", c.err, fatal)
		}
		fatal = nil
		_ = g.DeleteRange(1, 2)
		if (fatal != nil) != c.fatal {
			t.Errorf("%v: fatal in DeleteRange is %v", c.err, fatal)
		}
	}
}

func TestGuardKeepsTheLogMonotonic(t *testing.T) {
	// raft finds the interface by a type assertion: a wrapper that hides it leaves gaps after an install.
	var store raft.LogStore = testGuard(noWatch(), nil, nil)
	if m, ok := store.(raft.MonotonicLogStore); !ok || !m.IsMonotonic() {
		t.Error("raft would not clear the log after it installed a snapshot")
	}
}

func TestFirstEntryIsRemembered(t *testing.T) {
	fail := errors.New("full")
	results := []error{fail, nil, nil}
	g := testGuard(noWatch(), func() error { err := results[0]; results = results[1:]; return err }, func(error) {})
	first := 0
	g.onFirst = func() error { first++; return nil }
	for i, want := range []int{0, 1, 1} {
		_ = g.StoreLogs([]*raft.Log{{Index: 1}})
		if first != want {
			t.Errorf("after append %d: remembered %d times, want %d", i, first, want)
		}
	}
}

// Two nodes of three that had been paused for twelve seconds, each in the middle of a write, ended with "the disk does not answer".
func TestPausedNodeDoesNotBlameItsDisk(t *testing.T) {
	w := newStallWatch(2*time.Second, 10*time.Second, func(error) {})
	done := w.begin("a write of the log")
	defer done()
	looked := time.Now()
	pause := func(d time.Duration) { // as it looks from inside: all clocks jump
		w.mu.Lock()
		for id, op := range w.running {
			w.running[id] = diskOp{op.what, op.since.Add(-d)}
		}
		w.mu.Unlock()
		looked = looked.Add(-d)
	}
	pause(12 * time.Second)
	w.excuse(looked, time.Since(looked)-500*time.Millisecond)
	if what, age := w.oldest(); age > time.Second {
		t.Errorf("%s is said to have been running for %s, 12 s of which the process was paused", what, age)
	}
	later := w.begin("a write after the pause")
	w.excuse(time.Now().Add(-time.Hour), time.Minute)
	if _, age := w.oldest(); age < 0 {
		t.Errorf("a write that began after the pause is %s old", age)
	}
	later()
	pause(500 * time.Millisecond)
	w.excuse(looked, 0) // in time
	if _, age := w.oldest(); age < 500*time.Millisecond {
		t.Errorf("half a second without a pause counts for %s", age)
	}
}

func TestStalledDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fatal atomic.Pointer[error]
		watch := newStallWatch(2*time.Second, 10*time.Second, func(err error) { fatal.Store(&err) })
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { watch.run(ctx); close(done) }()
		release := make(chan struct{})
		g := testGuard(watch, func() error { <-release; return nil }, func(error) {})
		stored := make(chan error, 1)
		go func() { stored <- g.StoreLogs([]*raft.Log{{Index: 1}}) }()

		time.Sleep(time.Second)
		if err := watch.stalled(); err != nil {
			t.Errorf("after 1 s: %v", err)
		}
		time.Sleep(1500 * time.Millisecond)
		if err := watch.stalled(); !errors.Is(err, ErrStalled) {
			t.Errorf("after 2.5 s: %v, want ErrStalled", err)
		}
		// A leader with a stalled disk sends no heartbeats.
		trans := &transport{watch: watch}
		if err := trans.AppendEntries("x", "x", &raft.AppendEntriesRequest{}, nil); !errors.Is(err, ErrStalled) {
			t.Errorf("a heartbeat went out: %v", err)
		}
		if fatal.Load() != nil {
			t.Errorf("fatal too early: %v", *fatal.Load())
		}
		time.Sleep(9 * time.Second)
		if err := fatal.Load(); err == nil || !errors.Is(*err, ErrStalled) {
			t.Error("after 11.5 s the process still runs")
		}
		close(release)
		if err := <-stored; err != nil {
			t.Error(err)
		}
		if err := watch.stalled(); err != nil {
			t.Errorf("the disk answers again: %v", err)
		}
		cancel()
		<-done
	})
}
