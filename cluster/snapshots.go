package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

const (
	snapshotCheck = 500 * time.Millisecond
	// snapshotRetry is the pause after a snapshot that failed. raft refuses one, for example, while a change
	// of its configuration is not applied.
	snapshotRetry = 5 * time.Second
	// minTrailingLogs keeps followers from needing a snapshot when entries are huge.
	minTrailingLogs = 64
)

// snapshotByBytes takes a snapshot whenever the log has grown by bytes. raft counts entries, and one entry may
// hold one operation or 512 KiB of them.
func (g *Group) snapshotByBytes() {
	var left int64 // bytes of log that the last snapshot left behind
	var notBefore time.Time
	every(g.ctx, snapshotCheck, func() {
		limits := &g.cfg.Limits
		stats := g.store.Stats()
		due := max(limits.SnapshotBytes, left+(limits.SnapshotBytes-limits.TrailingBytes)/2)
		if stats.LogBytes < due || time.Now().Before(notBefore) {
			left = min(left, stats.LogBytes)
			return
		}
		s := g.session()
		if s == nil || !s.hasNews() {
			return
		}
		s.setTrailing(limits.TrailingBytes, stats.LogBytes, stats.LogEntries)
		err := s.snapshot(g.ctx)
		switch {
		case err == nil:
			g.counters.snapshots.Add(1)
			left = g.store.Stats().LogBytes
		case g.ctx.Err() != nil:
		default:
			notBefore = time.Now().Add(snapshotRetry)
			g.log.Info("no snapshot yet", "log_bytes", stats.LogBytes, "error", err)
		}
	})
}

// hasNews tells whether raft has given the state machine anything since the last snapshot. If not, raft refuses to take
// one, with a warning each time; a node that was restarted and has no leader could go on like that for ever.
func (s *session) hasNews() bool {
	saved, err := s.snapshots.List()
	if err != nil {
		return true // let raft tell
	}
	var last uint64
	if len(saved) > 0 {
		last = saved[0].Index
	}
	return s.fsm.Fed() > last
}

// snapshot asks raft for one, and returns when the log is cut behind it.
func (s *session) snapshot(ctx context.Context) error {
	return wait(ctx, s.raft.Snapshot())
}

// setTrailing tells raft how many entries to keep behind a snapshot, from the present size of entries.
func (s *session) setTrailing(trailingBytes, logBytes int64, entries uint64) {
	if entries == 0 || logBytes <= 0 {
		return
	}
	size := max(logBytes/int64(entries), 1)
	s.reload(func(conf *raft.ReloadableConfig) {
		conf.TrailingLogs = max(uint64(trailingBytes/size), min(minTrailingLogs, entries/2))
	})
}
