package cluster

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/fsm"
)

// startState is what a group finds on disk.
type startState struct {
	applied, appliedTerm uint64 // of the engine
	first, last          uint64 // log indexes, 0 when the log is empty
	lastTerm             uint64 // term of the last log entry
	atApplied            uint64 // term of the log entry at the applied index, 0 when the log has none
	snapshot             uint64 // raft's index of it, 0 for none
	snapshotApplied      uint64 // the engine's: raft's may be that of a barrier, which the engine never sees
	term                 uint64 // raft's current term
	started              bool   // identity.Started
}

func (st *startState) hasData() bool { return st.applied > 0 || st.last > 0 || st.snapshot > 0 }

// check refuses what raft would take for granted. A node whose log or vote was lost must not go on under its
// old id: it could vote twice, or for a leader without entries that it has acknowledged.
func (st *startState) check() error {
	refuse := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s; remove this node from its cluster, and start it with an empty directory and a new node id",
			ErrIdentity, fmt.Sprintf(format, a...))
	}
	switch {
	case st.started && !st.hasData():
		return refuse("the log is empty, but this node has had entries: they were lost")
	case st.hasData() && st.term == 0:
		return refuse("raft.db is missing or empty, but there is a log: the votes of this node were lost")
	case st.lastTerm > st.term:
		return refuse("raft.db is at term %d, the log at term %d: raft.db is older than the log", st.term, st.lastTerm)
	case st.applied > max(st.last, st.snapshot):
		return refuse("the engine has applied entry %d, but the log ends at %d: the end of the log was lost", st.applied, max(st.last, st.snapshot))
	case st.applied < st.snapshotApplied:
		return refuse("the snapshot is at entry %d, the engine only at %d", st.snapshotApplied, st.applied)
	case st.first > st.snapshot+1:
		return refuse("the log begins at entry %d, the snapshot ends at %d: entries between them are missing", st.first, st.snapshot)
	case st.atApplied != 0 && st.atApplied != st.appliedTerm:
		return refuse("the engine has applied entry %d of term %d, but the log holds one of term %d", st.applied, st.appliedTerm, st.atApplied)
	}
	return nil
}

// checkStart reads the state and judges it, before raft starts.
func (g *Group) checkStart(identity *identityStore) error {
	st, err := g.readStartState()
	if err != nil {
		return err
	}
	st.started = identity.get().Started
	if err := st.check(); err != nil {
		return err
	}
	g.guard.started.Store(st.started)
	if st.hasData() && !st.started {
		if err := g.guard.onFirst(); err != nil {
			return err
		}
		g.guard.started.Store(true)
	}
	if !st.hasData() && st.term == 1 {
		// raft writes term 1, and then the first entry, when it bootstraps: a crash came between. It would
		// refuse to bootstrap now. Nobody votes in term 1.
		g.log.Info("resuming a bootstrap that was interrupted")
		if err := g.stable.Set(keyCurrentTerm, binary.BigEndian.AppendUint64(nil, 0)); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) readStartState() (*startState, error) {
	st := &startState{first: g.store.FirstIndex(), last: g.store.LastIndex()}
	st.applied, st.appliedTerm = g.store.Applied()
	st.term = g.stable.term()
	snapshots, err := fsm.NewSnapshotStore(g.logs, g.log).List()
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	if len(snapshots) > 0 {
		st.snapshot = snapshots[0].Index
		for _, c := range g.store.Checkpoints() {
			if c.Name == snapshots[0].ID {
				st.snapshotApplied = c.Index
			}
		}
	}
	var entry raft.Log
	if st.last > 0 && st.first > 0 && st.last >= st.first {
		if err := g.guard.GetLog(st.last, &entry); err != nil {
			return nil, fmt.Errorf("read the last log entry: %w", err)
		}
		st.lastTerm = entry.Term
	}
	if st.first > 0 && st.applied >= st.first && st.applied <= st.last {
		if err := g.guard.GetLog(st.applied, &entry); err != nil {
			return nil, fmt.Errorf("read the log entry that was applied last: %w", err)
		}
		st.atApplied = entry.Term
	}
	return st, nil
}
