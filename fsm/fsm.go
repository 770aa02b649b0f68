package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
)

// ErrStaleTerm is the response to an entry that was evaluated in another term than
// it was stored in. It has no effect on any replica: it was definitely not applied.
var ErrStaleTerm = errors.New("fsm: the entry was evaluated in another term; it was not applied")

// FSM is raft's state machine over a store: committing an entry makes the records
// that were appended with it visible.
type FSM struct {
	store  *bitcask.Store
	logger *slog.Logger
	fatal  func(error)
	fed    atomic.Uint64 // last index that raft gave to this process
	named  func(index, term uint64, clusterID string)
}

var _ raft.BatchingFSM = (*FSM)(nil)

// New gives the state machine of store.
func New(store *bitcask.Store, logger *slog.Logger) *FSM {
	return &FSM{store: store, logger: logger, fatal: func(error) {}, named: func(uint64, uint64, string) {}}
}

// OnClusterID sets what is called with each entry that names the cluster (ClusterEntry). Call it before raft starts.
func (f *FSM) OnClusterID(named func(index, term uint64, clusterID string)) { f.named = named }

// clusterMark begins the extension of an entry that names the cluster.
const clusterMark = "raftcask-cluster\x00"

// ClusterEntry is an entry without effects that names the cluster whose log it is in. It was made in term.
func ClusterEntry(term uint64, clusterID string) raft.Log {
	var b bitcask.Batch
	b.Reset(term, 0)
	return raft.Log{Data: b.Detach(), Extensions: []byte(clusterMark + clusterID)}
}

// OnFatal sets what is called with an error after which the node must stop. Call
// it before raft starts.
func (f *FSM) OnFatal(stop func(error)) { f.fatal = stop }

// StartAt sets the index of the snapshot that raft starts from: it feeds only what is
// after it. Call it before raft starts.
func (f *FSM) StartAt(index uint64) { f.fed.Store(index) }

// AppliedIndex is the last entry that the engine has applied.
func (f *FSM) AppliedIndex() uint64 {
	index, _ := f.store.Applied()
	return index
}

// Fed is the last entry that raft gave to this process, or the one it started at. After a restart it is behind
// AppliedIndex for a while.
func (f *FSM) Fed() uint64 { return f.fed.Load() }

// Apply applies one entry.
func (f *FSM) Apply(log *raft.Log) any { return f.ApplyBatch([]*raft.Log{log})[0] }

// ApplyBatch makes entries visible. A response is nil, ErrStaleTerm, or the
// error that stops the node. Entries that are applied already are skipped (I4).
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	responses := make([]any, len(logs))
	last := logs[len(logs)-1].Index
	if last > f.AppliedIndex() {
		if err := f.store.Commit(last); err != nil {
			err = fmt.Errorf("apply entry %d: %w", last, err)
			f.fatal(err) // going on would diverge from the other replicas
			for i := range responses {
				responses[i] = err
			}
			return responses
		}
	}
	f.fed.Store(last)
	for i, log := range logs {
		if log.Type != raft.LogCommand {
			continue
		}
		if term, ok := bitcask.BatchTerm(log.Data); ok && term != 0 && term != log.Term {
			responses[i] = ErrStaleTerm
		}
		if id, ok := bytes.CutPrefix(log.Extensions, []byte(clusterMark)); ok {
			f.named(log.Index, log.Term, string(id))
		}
	}
	return responses
}

// Snapshot captures the applied state, without any I/O. After a restart raft
// applies entries again that the engine has: until it has caught up, its idea of
// the index would not fit the state, and there is nothing new to keep.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	if fed, applied := f.fed.Load(), f.AppliedIndex(); fed < applied {
		return nil, fmt.Errorf("snapshot: raft is at entry %d again, the engine at %d already", fed, applied)
	}
	checkpoint, err := f.store.Checkpoint()
	if err != nil {
		return nil, err
	}
	return &snapshot{checkpoint: checkpoint}, nil
}

// Restore adopts a received snapshot, all or nothing: after an error the store
// is what it was.
func (f *FSM) Restore(source io.ReadCloser) error {
	if w, ok := source.(raft.ReadCloserWrapper); ok {
		source = w.WrappedReadCloser()
	}
	r, ok := source.(*received)
	if !ok {
		return fmt.Errorf("restore: %T is no received snapshot", source)
	}
	if err := r.adopt(); err != nil {
		if isFatal(err) {
			f.fatal(err)
		}
		return err
	}
	f.fed.Store(f.AppliedIndex())
	f.logger.Info("adopted a snapshot", "index", f.AppliedIndex(), "keys", f.store.Len())
	return nil
}

// snapshot hands its checkpoint to our own sink: nothing is copied.
type snapshot struct{ checkpoint *bitcask.Checkpoint }

func (s *snapshot) Persist(out raft.SnapshotSink) error {
	own, ok := out.(*sink)
	if !ok {
		return fmt.Errorf("persist: %T is not a sink of this store", out)
	}
	own.checkpoint = s.checkpoint
	return nil
}

func (s *snapshot) Release() { s.checkpoint.Release() }
