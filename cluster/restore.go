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

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/fsm"
	"github.com/raftcask/raftcask/internal/vfs"
)

// RestoreBackup makes dir, which must be missing or empty, the data directory of the only member of a new cluster: it holds what
// a backup of a node holds (bitcask.Store.Backup), as a snapshot, every checksum of it checked. nodeID is its id, a generated
// one when empty. dir is whole or not there, whenever it breaks off; a directory beside it whose name has ".restoring-" may be left.
func RestoreBackup(ctx context.Context, backup, dir, nodeID string) (r *Recovery, err error) {
	if err := checkUnused(dir); err != nil {
		return nil, err
	}
	dir = filepath.Clean(dir)
	if err := vfs.OS().MkdirAll(filepath.Dir(dir)); err != nil {
		return nil, err
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".restoring-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(made))
		}
	}()
	if r, err = restoreInto(ctx, backup, made, nodeID); err != nil {
		return nil, err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, iofs.ErrNotExist) { // it is empty
		return nil, err
	}
	if err := vfs.OS().Rename(made, dir); err != nil {
		return nil, err
	}
	r.Dir = dir
	return r, vfs.OS().SyncDir(filepath.Dir(dir))
}

// checkUnused refuses a directory that holds anything.
func checkUnused(dir string) error {
	names, err := vfs.OS().List(dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("%w: %s is not empty: it holds %s", ErrIdentity, dir, names[0])
	}
	return err
}

func restoreInto(ctx context.Context, backup, dir, nodeID string) (*Recovery, error) {
	ids, err := openIdentity(vfs.OS(), dir, nodeID) // first: data without an identity is refused
	if err != nil {
		return nil, err
	}
	if err := ids.update(func(id *identity) error { id.ClusterID, id.Started = uuid.NewString(), true; return nil }); err != nil {
		return nil, err
	}
	group := filepath.Join(dir, groupsDir, fmt.Sprintf("%04d", defaultGroup))
	if err := vfs.OS().MkdirAll(group); err != nil {
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
		r, err = o.inspect()
	}
	return r, errors.Join(err, o.close(), vfs.OS().SyncDir(dir))
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
