package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/fsm"
	"github.com/raftcask/raftcask/internal/vfs"
)

// RestoreBackup makes dir, which must be missing or empty, the data directory of the only member of a new cluster: it holds what
// a backup of a node holds (bitcask.Store.Backup), as a snapshot, every checksum of it checked. nodeID is its id, a generated
// one when empty. After an error dir is empty or missing again; when it breaks off, no node starts from what is there.
func RestoreBackup(ctx context.Context, backup, dir, nodeID string) (r *Recovery, err error) {
	made, err := claimUnused(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			return
		}
		if made {
			err = errors.Join(err, os.RemoveAll(dir))
			return
		}
		names, listErr := contentsOf(dir)
		err = errors.Join(err, listErr)
		for _, name := range names { // all ours
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
		}
	}()
	return restoreInto(ctx, backup, dir, nodeID)
}

// claimUnused refuses a directory that holds anything, and makes one that is missing.
func claimUnused(dir string) (made bool, err error) {
	names, err := contentsOf(dir)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return true, makeDir(vfs.OS(), dir)
	case err == nil && len(names) > 0:
		return false, fmt.Errorf("%w: %s is not empty: it holds %s", ErrIdentity, dir, names[0])
	}
	return false, err
}

// contentsOf lists a directory, without what a new ext4 has in its root.
func contentsOf(dir string) ([]string, error) {
	names, err := vfs.OS().List(dir)
	return slices.DeleteFunc(names, func(name string) bool { return name == "lost+found" }), err
}

func restoreInto(ctx context.Context, backup, dir, nodeID string) (*Recovery, error) {
	ids, err := openIdentity(vfs.OS(), dir, nodeID)
	if err != nil {
		return nil, err
	}
	// First: no node starts from a directory that says this.
	if err := ids.update(func(id *identity) error { id.ClusterID, id.Recovering = uuid.NewString(), true; return nil }); err != nil {
		return nil, err
	}
	group := filepath.Join(dir, groupsDir, fmt.Sprintf("%04d", defaultGroup))
	if err := makeDir(vfs.OS(), group); err != nil {
		return nil, err
	}
	if _, err := bitcask.Restore(ctx, backup, filepath.Join(group, "cask"), &bitcask.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		return nil, err
	}
	o, err := openOffline(dir)
	if err != nil {
		return nil, err
	}
	var r *Recovery
	if err = o.beginWithSnapshot(); err == nil {
		if r, err = o.inspect(); err == nil {
			r.Interrupted = false
		}
	}
	if err := errors.Join(err, o.close(), vfs.OS().SyncDir(group)); err != nil { // raft.db is new
		return nil, err
	}
	return r, ids.update(func(id *identity) error { id.Recovering, id.Started = false, true; return nil })
}

// beginWithSnapshot makes a snapshot of what is applied, whose configuration has this node alone, and raft's term.
func (o *offline) beginWithSnapshot() error {
	index, term := o.store.Applied()
	if term == 0 {
		return fmt.Errorf("%w: it is the backup of an embedded store or of an empty one, not of a node: it holds no entry of a Raft log", ErrIdentity)
	}
	o.store.ForgetBefore(index + 1) // of the old cluster's log
	logger := slog.New(slog.DiscardHandler)
	machine := fsm.New(o.store, logger)
	machine.StartAt(index)
	state, err := machine.Snapshot()
	if err != nil {
		return err
	}
	defer state.Release()
	members := raft.Configuration{Servers: []raft.Server{aloneServer(o.identity.get().NodeID)}}
	sink, err := fsm.NewSnapshotStore(o.logs, logger).Create(raft.SnapshotVersionMax, index, term, members, index, nil)
	if err != nil {
		return err
	}
	if err := state.Persist(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("save the first snapshot: %w", err)
	}
	return o.stable.Set(keyCurrentTerm, binary.BigEndian.AppendUint64(nil, term+1))
}
