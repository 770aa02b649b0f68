package fsm

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
)

// LogStore is raft's log over a store. It needs no raft.LogCache around it: it
// keeps recent entries itself, bounded in bytes, and forgets them when the engine
// drops or replaces its log (a LogCache would go on serving them).
type LogStore struct {
	store *bitcask.Store
	cache logCache
	holds *holds
	fatal func(error)
}

// exitGrace is how long GetLog holds an answer back for which the process is to end. raft panics over a log that it cannot
// read: a stack trace, where the node would have said what is damaged and what to do.
const exitGrace = 3 * time.Second

// NewLogStore gives the log of store, which is open in Replicated mode.
func NewLogStore(store *bitcask.Store) *LogStore {
	return &LogStore{store: store, holds: newHolds(), fatal: func(error) {}}
}

// OnFatal sets what is called with an error after which the node must stop. Call
// it before raft starts.
func (l *LogStore) OnFatal(stop func(error)) { l.fatal = stop }

// IsMonotonic tells raft that the log has no gaps, so that it clears the whole log
// after it installed a snapshot.
func (l *LogStore) IsMonotonic() bool { return true }

// FirstIndex is 0 for an empty log.
func (l *LogStore) FirstIndex() (uint64, error) { return l.store.FirstIndex(), nil }

// LastIndex is 0 for an empty log.
func (l *LogStore) LastIndex() (uint64, error) { return l.store.LastIndex(), nil }

// GetLog reads one entry, raft.ErrLogNotFound when the log does not hold it.
func (l *LogStore) GetLog(index uint64, out *raft.Log) error {
	if log := l.cache.get(index, l.store.LogGeneration()); log != nil {
		*out = *log
		return nil
	}
	e, err := l.store.Entry(index)
	if errors.Is(err, bitcask.ErrNoEntry) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		l.stopIfFatal(err)
		if isFatal(err) {
			time.Sleep(exitGrace)
		}
		return err
	}
	*out = raft.Log{Index: e.Index, Term: e.Term, Type: raft.LogType(e.Kind), Data: e.Data, Extensions: e.Ext}
	return nil
}

// StoreLog stores one entry.
func (l *LogStore) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs makes entries durable: one write, one sync.
func (l *LogStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	// A failed StoreLogs may have left a beginning behind that raft does not count.
	if first := logs[0].Index; l.store.LastIndex() >= first {
		if err := l.store.TruncateAfter(first - 1); err != nil {
			return l.failed(fmt.Errorf("store log %d: drop what a failed attempt left: %w", first, err))
		}
	}
	entries := make([]bitcask.Entry, len(logs))
	for i, log := range logs {
		entries[i] = bitcask.Entry{Index: log.Index, Term: log.Term, Kind: bitcask.Kind(log.Type), Data: log.Data, Ext: log.Extensions}
	}
	if err := l.store.Append(entries); err != nil {
		return l.failed(fmt.Errorf("store logs %d to %d: %w", logs[0].Index, logs[len(logs)-1].Index, err))
	}
	l.cache.put(logs, l.store.LogGeneration())
	return nil
}

// DeleteRange drops entries from either end. Committed ones go from the old end,
// after a snapshot (which has committed what it covers, see sink.Close), but for those that a receiver of a snapshot
// needs next: raft asks again after its next snapshot.
// Uncommitted ones go from the new end, because another leader's take their place.
func (l *LogStore) DeleteRange(first, last uint64) error {
	applied, _ := l.store.Applied()
	if first <= applied {
		l.store.ForgetBefore(l.holds.limit(min(last, applied), l.store.Stats().LogBytes) + 1)
		return nil
	}
	if err := l.store.TruncateAfter(first - 1); err != nil {
		return l.failed(fmt.Errorf("delete logs %d to %d: %w", first, last, err))
	}
	return nil
}

func (l *LogStore) failed(err error) error {
	l.stopIfFatal(err)
	return err
}

func (l *LogStore) stopIfFatal(err error) {
	if isFatal(err) {
		l.fatal(err)
	}
}

// isFatal tells errors after which the node's disk can no longer be trusted.
func isFatal(err error) bool {
	return errors.Is(err, bitcask.ErrPoisoned) || errors.Is(err, bitcask.ErrCorrupt)
}

const (
	cacheEntries = 4096 // enough for what a follower lags behind in normal running
	cacheBytes   = 64 << 20
)

// logCache keeps the newest entries for replicators and for followers' applies.
type logCache struct {
	mu         sync.RWMutex
	generation uint64
	low, high  uint64 // indexes held, high exclusive
	bytes      int
	slots      [cacheEntries]*raft.Log
}

func (c *logCache) get(index, generation uint64) *raft.Log {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if generation != c.generation || index < c.low || index >= c.high {
		return nil
	}
	return c.slots[index%cacheEntries]
}

func (c *logCache) put(logs []*raft.Log, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation || logs[0].Index != c.high {
		clear(c.slots[:])
		c.generation, c.low, c.high, c.bytes = generation, logs[0].Index, logs[0].Index, 0
	}
	for _, log := range logs {
		for c.high-c.low >= cacheEntries || (c.high > c.low && c.bytes+len(log.Data) > cacheBytes) {
			c.dropOldest()
		}
		c.slots[log.Index%cacheEntries] = log
		c.bytes += len(log.Data)
		c.high = log.Index + 1
	}
}

func (c *logCache) dropOldest() {
	slot := &c.slots[c.low%cacheEntries]
	c.bytes -= len((*slot).Data)
	*slot = nil
	c.low++
}
