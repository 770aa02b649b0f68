package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/fsm"
	"github.com/raftcask/raftcask/internal/vfs"
)

// Recovery is the state of a directory whose cluster has lost its quorum, and what can be made of it.
type Recovery struct {
	Dir       string `json:"dir"`
	NodeID    string `json:"node_id"`
	ClusterID string `json:"cluster_id"` // of the cluster that is lost, or after Recover of the new one
	// Applied is the last entry that is known to be committed here, Last the last one that is stored. Those
	// between them may have been acknowledged to clients or not.
	Applied     uint64 `json:"applied"`
	AppliedTerm uint64 `json:"applied_term"`
	First       uint64 `json:"first"`
	Last        uint64 `json:"last"`
	LastTerm    uint64 `json:"last_term"`
	Snapshot    uint64 `json:"snapshot"`
	Term        uint64 `json:"term"`
	Keys        int    `json:"keys"`
	// Voters and NonVoters are the members by the last configuration that this node has.
	Voters    []string `json:"voters"`
	NonVoters []string `json:"non_voters"`
	Removed   bool     `json:"removed"` // an operator took the node out: its data ends there
	// Interrupted: a recovery of this directory was begun and not finished.
	Interrupted bool `json:"interrupted"`
}

// NewerThan says which of two directories has seen more of their cluster's log, as Raft compares logs.
func (r *Recovery) NewerThan(other *Recovery) bool {
	if r.LastTerm != other.LastTerm {
		return r.LastTerm > other.LastTerm
	}
	return r.Last > other.Last
}

// InspectRecovery reads a directory that no process has open, and leaves it as it is but for what each start does,
// such as to cut a torn tail off.
func InspectRecovery(dir string) (*Recovery, error) {
	o, err := openOffline(dir)
	if err != nil {
		return nil, err
	}
	r, err := o.inspect()
	return r, errors.Join(err, o.close())
}

// Recover makes a directory that no process has open the only member of a new cluster, with all entries that it
// stores, acknowledged or not. What only the lost nodes had is lost for good. The new cluster has an id of its own, so
// that the nodes of the old one are refused by it. A crash at any point leaves a node that does not serve; Recover may be repeated.
//
// Raft's own RecoverCluster does the same by a snapshot of the state machine; here the log is the state machine's
// data, so a configuration behind its end is all that is needed.
func Recover(dir string) (*Recovery, error) {
	o, err := openOffline(dir)
	if err != nil {
		return nil, err
	}
	r, err := o.inspect()
	if err == nil {
		err = o.found(r)
	}
	return r, errors.Join(err, o.close())
}

// offline is a group's files without raft over them.
type offline struct {
	dir      string
	identity *identityStore
	lock     io.Closer
	store    *bitcask.Store
	stable   *stableStore
	logs     *fsm.LogStore
	fatal    error
}

func openOffline(dir string) (_ *offline, err error) {
	o := &offline{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()
	if err := refuseStore(vfs.OS(), dir); err != nil {
		return nil, err
	}
	if _, err := vfs.ReadFile(vfs.OS(), filepath.Join(dir, identityFile)); errors.Is(err, iofs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s has no %s: it is not the data directory of a node", ErrIdentity, dir, identityFile)
	}
	if o.lock, err = LockDir(dir); err != nil {
		return nil, err
	}
	if o.identity, err = openIdentity(vfs.OS(), dir, ""); err != nil {
		return nil, err
	}
	id := o.identity.get()
	if id.ClusterID == "" {
		return nil, fmt.Errorf("%w: node %s was in no cluster yet: there is nothing to recover in %s", ErrIdentity, id.NodeID, dir)
	}
	group := filepath.Join(dir, groupsDir, fmt.Sprintf("%04d", defaultGroup))
	names, err := vfs.OS().List(filepath.Join(group, "cask"))
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("%w: %s has no data in %s", ErrIdentity, dir, group)
	}
	stop := func(err error) { o.fatal = err }
	if o.store, err = bitcask.Open(filepath.Join(group, "cask"), &bitcask.Options{Replicated: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}); err != nil {
		return nil, fmt.Errorf("open the data: %w", err)
	}
	if o.stable, err = openStable(filepath.Join(group, "raft.db"), newStallWatch(time.Minute, time.Minute, stop), stop); err != nil {
		return nil, fmt.Errorf("open raft's term and vote: %w", err)
	}
	o.logs = fsm.NewLogStore(o.store)
	o.logs.OnFatal(stop)
	return o, nil
}

func (o *offline) close() error {
	var errs []error
	if o.stable != nil {
		errs = append(errs, o.stable.Close())
	}
	if o.store != nil {
		errs = append(errs, o.store.Close())
	}
	if o.lock != nil {
		errs = append(errs, o.lock.Close())
	}
	return errors.Join(errs...)
}

func (o *offline) inspect() (*Recovery, error) {
	id := o.identity.get()
	g := &Group{store: o.store, stable: o.stable, logs: o.logs, log: slog.New(slog.NewTextHandler(io.Discard, nil)), guard: &logGuard{LogStore: o.logs}}
	st, err := g.readStartState()
	if err != nil {
		return nil, err
	}
	st.started = id.Started
	if err := st.check(); err != nil && !id.Recovering {
		return nil, err
	}
	if !st.hasData() {
		return nil, fmt.Errorf("%w: %s holds no entry", ErrIdentity, o.dir)
	}
	r := &Recovery{
		Dir: o.dir, NodeID: id.NodeID, ClusterID: id.ClusterID, Applied: st.applied, AppliedTerm: st.appliedTerm,
		First: st.first, Last: st.last, LastTerm: st.lastTerm, Snapshot: st.snapshot, Term: st.term,
		Keys: o.store.Stats().Keys, Removed: id.Removed, Interrupted: id.Recovering,
	}
	if r.Last < r.Snapshot {
		r.Last = r.Snapshot
	}
	if r.LastTerm == 0 {
		r.LastTerm = r.AppliedTerm
	}
	servers, err := o.configuration(st)
	if err != nil {
		return nil, err
	}
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			r.Voters = append(r.Voters, string(s.ID))
		} else {
			r.NonVoters = append(r.NonVoters, string(s.ID))
		}
	}
	return r, nil
}

// configuration is the last one that is stored: in the log, or in the snapshot before it.
func (o *offline) configuration(st *startState) ([]raft.Server, error) {
	var entry raft.Log
	for i := st.last; i >= st.first && i > 0; i-- {
		if err := o.logs.GetLog(i, &entry); err != nil {
			return nil, fmt.Errorf("read entry %d of the log: %w", i, err)
		}
		if entry.Type == raft.LogConfiguration {
			return raft.DecodeConfiguration(entry.Data).Servers, nil
		}
	}
	list, err := fsm.NewSnapshotStore(o.logs, slog.New(slog.NewTextHandler(io.Discard, nil))).List()
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0].Configuration.Servers, nil
}

// found makes the node the only member of a new cluster. The identity goes first: from then on the node belongs to
// none of its old peers, and it does not start before all is done.
func (o *offline) found(r *Recovery) error {
	r.ClusterID = uuid.NewString()
	err := o.identity.update(func(id *identity) error {
		if id.Recovering {
			r.ClusterID = id.ClusterID
		}
		id.ClusterID, id.Prepared, id.Recovering = r.ClusterID, nil, true
		id.Removed, id.Joined = false, false
		return nil
	})
	if err != nil {
		return err
	}
	// The addresses of the old peers.
	if err := vfs.OS().Remove(filepath.Join(o.dir, peersFile)); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return fmt.Errorf("forget the old peers: %w", err)
	}
	servers, err := o.ownConfiguration(r)
	if err != nil {
		return err
	}
	// The term goes before the entry: a log that is ahead of it is refused.
	term := max(r.Term, r.LastTerm) + 1
	if err := o.stable.Set(keyCurrentTerm, binary.BigEndian.AppendUint64(nil, term)); err != nil {
		return err
	}
	if err := o.logs.StoreLog(&raft.Log{
		Index: r.Last + 1, Term: term, Type: raft.LogConfiguration, AppendedAt: time.Now(),
		Data: raft.EncodeConfiguration(raft.Configuration{Servers: servers}),
	}); err != nil {
		return fmt.Errorf("store the new configuration: %w", err)
	}
	if o.fatal != nil {
		return o.fatal
	}
	return o.identity.update(func(id *identity) error { id.Recovering, id.Started = false, true; return nil })
}

// ownConfiguration has this node alone, at the address that it had.
func (o *offline) ownConfiguration(r *Recovery) ([]raft.Server, error) {
	st := &startState{first: o.store.FirstIndex(), last: o.store.LastIndex()}
	old, err := o.configuration(st)
	if err != nil {
		return nil, err
	}
	self, ok := findServer(old, r.NodeID)
	if !ok {
		self = aloneServer(r.NodeID)
	}
	self.Suffrage = raft.Voter
	return []raft.Server{self}, nil
}

// aloneServer is a node that nobody has an address of. raft wants one: the node's own is never dialed, and the others learn it by
// gossip.
func aloneServer(nodeID string) raft.Server {
	return raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(nodeID), Address: raft.ServerAddress(nodeID + ":9379")}
}

// refuseUnfinished is for a directory that is half of the old cluster and half of a new one.
func (id *identity) refuseUnfinished(dir string) error {
	if !id.Recovering {
		return nil
	}
	return fmt.Errorf("%w: the recovery of %s was interrupted; run \"raftcask recover --yes %s\" again, or, if it was made out of a backup, empty the directory and repeat \"raftcask recover --backup\"", ErrIdentity, dir, dir)
}

// refuse is for directories that no node may start from.
func (id *identity) refuse(dir string) error {
	if err := id.refuseUnfinished(dir); err != nil {
		return err
	}
	return id.refuseRemoved(dir)
}
