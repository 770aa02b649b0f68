package fsm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
)

// SnapshotStore is raft's snapshot store. A local snapshot is a checkpoint that the
// engine's manifest names: raft's metadata and the list of segments in one atomic
// edit. One that is received goes into a staging directory, and is found by
// List only once Restore has adopted it, so a crash between the two leaves
// neither raft nor the engine ahead of the other.
type SnapshotStore struct {
	store  *bitcask.Store
	holds  *holds
	logger *slog.Logger

	mu      sync.Mutex
	arrived *received // verified, waiting for Restore; at most one
}

// NewSnapshotStore gives the snapshots of the store that logs is the log of.
func NewSnapshotStore(logs *LogStore, logger *slog.Logger) *SnapshotStore {
	return &SnapshotStore{store: logs.store, holds: logs.holds, logger: logger}
}

// Create opens a sink, for a local snapshot and for a received one: which it is
// shows by whether bytes are written to it.
func (s *SnapshotStore) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &sink{snapshots: s, meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixMilli()),
		Index: index, Term: term, Configuration: configuration, ConfigurationIndex: configurationIndex,
	}}, nil
}

// List gives the saved snapshot, if there is one.
func (s *SnapshotStore) List() ([]*raft.SnapshotMeta, error) {
	var list []*raft.SnapshotMeta
	for _, c := range s.store.Checkpoints() {
		meta := new(raft.SnapshotMeta)
		if err := json.Unmarshal(c.Info, meta); err != nil {
			return nil, fmt.Errorf("snapshot %q: %w", c.Name, err)
		}
		list = append(list, meta)
	}
	return list, nil
}

// Open gives a snapshot's stream. Its Size is exact. The log behind it is kept until a while after it was closed.
func (s *SnapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	arrived := s.arrived
	s.mu.Unlock()
	if arrived != nil && arrived.meta.ID == id {
		meta := arrived.meta
		return &meta, arrived, nil
	}
	list, err := s.List()
	if err != nil {
		return nil, nil, err
	}
	for _, meta := range list {
		if meta.ID != id {
			continue
		}
		checkpoint, err := s.store.OpenCheckpoint(id)
		if err != nil {
			return nil, nil, fmt.Errorf("open snapshot %q: %w", id, err)
		}
		stream, err := checkpoint.Stream()
		if err != nil {
			return nil, nil, fmt.Errorf("open snapshot %q: %w", id, err)
		}
		meta.Size = stream.Size()
		return meta, &outgoing{stream, s.holds.take(meta.Index, meta.Size)}, nil
	}
	return nil, nil, fmt.Errorf("open snapshot %q: there is none of that name", id)
}

// outgoing is a snapshot on its way to a follower.
type outgoing struct {
	*bitcask.Stream
	hold *hold
}

func (o *outgoing) Close() error {
	o.hold.release()
	return o.Stream.Close()
}

// setArrived keeps a verified snapshot until Restore, and drops an earlier one.
func (s *SnapshotStore) setArrived(r *received) {
	s.mu.Lock()
	old := s.arrived
	s.arrived = r
	s.mu.Unlock()
	if old != nil && old != r {
		old.staging.Abort()
	}
}

// sink takes a snapshot: a checkpoint by reference, or a stream's bytes.
type sink struct {
	snapshots  *SnapshotStore
	meta       raft.SnapshotMeta
	checkpoint *bitcask.Checkpoint
	staging    *bitcask.Staging
	done       bool
}

func (k *sink) ID() string { return k.meta.ID }

func (k *sink) Write(p []byte) (int, error) {
	if k.staging == nil {
		staging, err := k.snapshots.store.Receive()
		if err != nil {
			return 0, err
		}
		k.staging = staging
	}
	n, err := k.staging.Write(p)
	k.meta.Size += int64(n)
	return n, err
}

// Close saves a local snapshot, or verifies a received one.
func (k *sink) Close() error {
	if k.done {
		return nil
	}
	k.done = true
	switch {
	case k.checkpoint != nil:
		// The index may be that of a barrier or a no-op, which raft does not
		// show to the FSM. It is committed, and the log may go up to it.
		if err := k.snapshots.store.Commit(k.meta.Index); err != nil {
			return fmt.Errorf("snapshot %q: %w", k.meta.ID, err)
		}
		info, err := json.Marshal(&k.meta)
		if err != nil {
			return fmt.Errorf("snapshot %q: %w", k.meta.ID, err)
		}
		return k.checkpoint.Save(k.meta.ID, info)
	case k.staging != nil:
		if err := k.staging.Verify(); err != nil {
			k.staging.Abort()
			return err
		}
		k.snapshots.setArrived(&received{snapshots: k.snapshots, meta: k.meta, staging: k.staging})
		return nil
	}
	return errors.New("fsm: a snapshot was closed with nothing in it")
}

// Cancel drops what was received. It does nothing after Close.
func (k *sink) Cancel() error {
	if !k.done && k.staging != nil {
		k.staging.Abort()
	}
	k.done = true
	return nil
}

// received is a snapshot between its arrival and Restore. raft hands it to
// FSM.Restore, which takes it by its type; its bytes are on disk already.
type received struct {
	snapshots *SnapshotStore
	meta      raft.SnapshotMeta
	staging   *bitcask.Staging
}

func (r *received) Read([]byte) (int, error) { return 0, io.EOF }
func (r *received) Close() error             { return nil }

func (r *received) adopt() error {
	info, err := json.Marshal(&r.meta)
	if err != nil {
		return fmt.Errorf("snapshot %q: %w", r.meta.ID, err)
	}
	err = r.snapshots.store.Adopt(r.staging, r.meta.ID, info)
	r.snapshots.setArrived(nil)
	return err
}
