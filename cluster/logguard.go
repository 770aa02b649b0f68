package cluster

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
)

// logGuard stands between raft and the log store. raft goes on after a failed StoreLogs as if the disk
// were in a known state; after a failed sync it is not (fsyncgate), so the process must end. A full disk
// is another matter: the engine has cut the entry off again, raft steps down, and reads go on.
type logGuard struct {
	raft.LogStore
	watch   *stallWatch
	onFatal func(error)
	// onFirst is called once, after the first entry is stored: see identity.Started. In this order a crash
	// between the two leaves a log that is not empty, which says the same.
	onFirst func() error
	started atomic.Bool
	// onStored is called after each StoreLogs. The proposer collects operations until then.
	onStored atomic.Pointer[func()]
}

// StoreLog implements raft.LogStore.
func (g *logGuard) StoreLog(entry *raft.Log) error { return g.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (g *logGuard) StoreLogs(entries []*raft.Log) error {
	done := g.watch.begin("append to the log")
	err := g.LogStore.StoreLogs(entries)
	done()
	if err == nil && !g.started.Load() {
		err = g.onFirst()
		g.started.Store(err == nil)
	}
	if fn := g.onStored.Load(); fn != nil {
		(*fn)()
	}
	return g.check(err, "append to the log")
}

// DeleteRange implements raft.LogStore.
func (g *logGuard) DeleteRange(first, last uint64) error {
	done := g.watch.begin("truncate the log")
	err := g.LogStore.DeleteRange(first, last)
	done()
	return g.check(err, "truncate the log")
}

// IsMonotonic implements raft.MonotonicLogStore: the log has no gaps, so raft drops all of it when it
// installs a snapshot.
func (g *logGuard) IsMonotonic() bool {
	m, ok := g.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func (g *logGuard) check(err error, step string) error {
	if err == nil || errors.Is(err, bitcask.ErrNoSpace) || errors.Is(err, bitcask.ErrClosed) {
		return err
	}
	err = fmt.Errorf("%s: %w", step, err)
	g.onFatal(err)
	return err
}
