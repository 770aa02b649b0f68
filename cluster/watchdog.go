package cluster

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// watchdog restarts raft in the process when it is in a state that it cannot leave:
//
//   - The session says so (setStuck): a leadership transfer that hangs (hashicorp/raft#696).
//   - raft believes in a longer log than there is. After an InstallSnapshot that replaced a log with a
//     conflicting end, it keeps the old last index in memory, and refuses every AppendEntries for ever,
//     one snapshot after the other (hashicorp/raft#697).
func (g *Group) watchdog() {
	patience := 2 * g.cfg.Timing.Election
	var since time.Time
	every(g.ctx, g.cfg.Timing.Election/4, func() {
		s := g.session()
		if s == nil {
			return
		}
		reason := s.phantomLog()
		switch {
		case reason == nil:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		}
		if stuck := s.stuck.Load(); stuck != nil {
			reason = *stuck
		} else if reason == nil || time.Since(since) < patience {
			return
		}
		since = time.Time{}
		if err := g.restart(reason); err != nil && g.ctx.Err() == nil {
			g.log.Error("raft could not be restarted", "error", err)
		}
	})
}

// phantomLog returns an error while raft's last index is beyond the log's. That is normal only for moments, in
// the middle of a write.
func (s *session) phantomLog() error {
	if _, running := s.group.watch.oldest(); running > 0 || s.raft.State() == raft.Leader {
		return nil
	}
	believed := s.raft.LastIndex()
	actual := s.group.store.LastIndex()
	if list, err := s.snapshots.List(); err == nil && len(list) > 0 {
		actual = max(actual, list[0].Index)
	}
	if believed <= actual {
		return nil
	}
	return fmt.Errorf("raft believes that the log ends at entry %d, but it ends at %d (hashicorp/raft#697)", believed, actual)
}
