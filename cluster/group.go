package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/fsm"
	"github.com/raftcask/raftcask/internal/vfs"
)

// Group is one Raft group on this node: an engine, and a Raft over it. Its methods are safe for concurrent
// use. A group shares nothing with another but the process.
type Group struct {
	id     uint32
	nodeID string
	cfg    Config
	log    *slog.Logger
	store  *bitcask.Store
	reads  *watchedStore // store, for transactions
	stable *stableStore
	logs   *fsm.LogStore
	guard  *logGuard
	watch  *stallWatch
	hub    *streamHub
	addrs  *addressBook
	fatal  func(error)
	// describe names a node's client address; the node knows it by gossip.
	describe  func(id string) (respAddr string)
	clusterID func() string

	counters counters
	damage   atomic.Pointer[error] // the first that was met

	ctx     context.Context // ends at close
	cancel  context.CancelFunc
	workers sync.WaitGroup

	lifecycle sync.Mutex // serializes restart and close
	closed    bool
	retired   bool // the node is no member any more
	current   atomic.Pointer[session]
}

// groupParts is what a node gives to its group.
type groupParts struct {
	dir      string // of the group
	nodeID   string
	identity *identityStore
	addrs    *addressBook
	fatal    func(error)
	describe func(id string) string
}

// openGroup opens the engine, checks that it and raft's term belong together, and starts raft. On error it
// closes what it opened, the stream layer included.
func openGroup(cfg Config, parts groupParts) (_ *Group, err error) {
	g := &Group{
		id: defaultGroup, nodeID: parts.nodeID, cfg: cfg, log: cfg.Logger.With("group", defaultGroup),
		addrs: parts.addrs, fatal: parts.fatal, describe: parts.describe,
		clusterID: func() string { return parts.identity.get().ClusterID },
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.watch = newStallWatch(cfg.Timing.StallLeader, cfg.Timing.StallLimit, g.fatal)
	g.hub = newStreamHub(cfg.StreamLayer)
	defer func() {
		if err != nil {
			err = errors.Join(err, g.release())
		}
	}()
	cask := filepath.Join(parts.dir, "cask")
	if err := makeDir(vfs.OS(), cask); err != nil {
		return nil, fmt.Errorf("create the group's directory: %w", err)
	}
	if g.store, err = bitcask.Open(cask, &cfg.Engine); err != nil {
		return nil, fmt.Errorf("open the engine: %w", err)
	}
	g.reads = &watchedStore{g.store, g.noteDamage}
	if g.stable, err = openStable(filepath.Join(parts.dir, "raft.db"), g.watch, g.fatal); err != nil {
		return nil, fmt.Errorf("open raft's term and vote: %w", err)
	}
	if err := vfs.OS().SyncDir(parts.dir); err != nil { // raft.db may be new
		return nil, fmt.Errorf("sync the group's directory: %w", err)
	}
	g.logs = fsm.NewLogStore(g.store)
	g.logs.OnFatal(g.fatal)
	g.guard = &logGuard{LogStore: g.logs, watch: g.watch, onFatal: g.fatal, onFirst: func() error {
		return parts.identity.update(func(id *identity) error { id.Started = true; return nil })
	}}
	if err := g.checkStart(parts.identity); err != nil {
		return nil, err
	}
	s, err := g.newSession()
	if err != nil {
		return nil, err
	}
	g.current.Store(s)
	g.workers.Go(func() { g.watch.run(g.ctx) })
	g.workers.Go(g.snapshotByBytes)
	g.workers.Go(g.sweepExpired)
	g.workers.Go(g.watchdog)
	return g, nil
}

// release closes what the group opened, in reverse.
func (g *Group) release() error {
	g.cancel()
	g.workers.Wait()
	var errs []error
	if g.stable != nil {
		errs = append(errs, g.stable.Close())
	}
	if g.store != nil {
		errs = append(errs, g.store.Close())
	}
	if err := g.hub.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// close hands leadership over if handOver is set and there is somebody to take it, stops raft, and closes the
// stores.
func (g *Group) close(ctx context.Context, handOver bool) error {
	g.lifecycle.Lock()
	if g.closed {
		g.lifecycle.Unlock()
		return ErrClosed
	}
	g.closed = true // from here on restart is refused
	s := g.current.Load()
	g.lifecycle.Unlock()
	if s != nil && handOver {
		g.handOver(ctx, s)
	}
	g.cancel()
	g.current.Store(nil)
	if s != nil {
		s.stop()
	}
	return g.release()
}

func (g *Group) handOver(ctx context.Context, s *session) {
	if others, _ := s.voters(); len(others) == 0 {
		return
	}
	if _, ok := s.leading(); !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timing.Transfer)
	defer cancel()
	if err := s.transfer(ctx, ""); err != nil {
		g.log.Warn("leadership was not handed over; the others will elect a leader", "error", err)
	}
}

// retire ends raft for good: a node that is no member any more would ask for votes for ever.
func (g *Group) retire() {
	g.lifecycle.Lock()
	defer g.lifecycle.Unlock()
	g.retired = true
	if g.closed {
		return // close stops it
	}
	if s := g.current.Swap(nil); s != nil {
		g.log.Info("stopping raft: this node is no member any more")
		s.stop()
	}
}

// restart replaces raft by a new one over the same stores: the cure for states that raft cannot leave.
func (g *Group) restart(reason error) error {
	g.lifecycle.Lock()
	defer g.lifecycle.Unlock()
	if g.closed {
		return ErrClosed
	}
	if g.retired {
		return nil
	}
	g.log.Warn("restarting raft in the process", "reason", reason)
	g.counters.restarts.Add(1)
	if old := g.current.Swap(nil); old != nil {
		old.stop()
	}
	s, err := g.newSession()
	if err != nil {
		err = fmt.Errorf("restart raft: %w", err)
		g.fatal(err) // without raft there is no group, and close would find none to stop
		return err
	}
	g.current.Store(s)
	return nil
}

// session returns the current session, nil while raft is being restarted or the group is closed.
func (g *Group) session() *session { return g.current.Load() }

// Propose evaluates n operations in order on the leader and returns when their entries are committed and
// applied here: nil means that all are. Otherwise it returns one error per operation, nil for those applied;
// see ErrUnknown and its neighbors.
//
// eval is called for i = 0 … n-1 on another goroutine, and never after Propose has returned; only the results
// of operations without an error may be read then. What it passes to Tx.Put must not be modified afterwards. An
// operation is whole, in one entry; the n together need not be. Operations take Timing.Write at most, or less
// if ctx ends before.
func (g *Group) Propose(ctx context.Context, n int, eval func(tx *Tx, i int)) []error {
	return g.ProposeSized(ctx, n, int64(n)*assumedOpBytes, eval)
}

// assumedOpBytes of keys and values in an operation whose size the caller does not tell.
const assumedOpBytes = 256

// ProposeSized is Propose for a caller that knows about how many bytes of keys and values the operations
// carry. They bound the queue, and they keep a large value in an entry of its own.
func (g *Group) ProposeSized(ctx context.Context, n int, bytes int64, eval func(tx *Tx, i int)) []error {
	if n == 0 {
		return nil
	}
	s := g.session()
	if s == nil || s.raft.State() != raft.Leader {
		return sameError(n, g.notLeader())
	}
	return s.proposer.propose(ctx, n, bytes, eval)
}

func (g *Group) notLeader() error {
	if id, _, _, ok := g.Leader(); ok && id != g.nodeID {
		return fmt.Errorf("%w: %s leads", ErrNotLeader, id)
	}
	return ErrNoLeader
}

// ConfirmLeader returns nil when this node was the leader at some moment after the call began, and has applied
// every write that was acknowledged before the call. A read of ReadTx or Store after it is linearizable.
func (g *Group) ConfirmLeader(ctx context.Context) error {
	s := g.session()
	if s == nil || s.raft.State() != raft.Leader {
		return g.notLeader()
	}
	return s.rounds.confirm(ctx)
}

// ReadTx returns a read transaction on what is applied on this node, at this moment.
func (g *Group) ReadTx() *ReadTx { return &ReadTx{store: g.reads, now: g.store.Now()} }

// IsLeader reports whether this node leads and is ready to serve. It may be about to lose that.
func (g *Group) IsLeader() bool {
	s := g.session()
	if s == nil {
		return false
	}
	_, ok := s.leading()
	return ok
}

// Leader returns the leader that this node knows. respAddr is empty while gossip has not told it.
func (g *Group) Leader() (id, peerAddr, respAddr string, ok bool) {
	s := g.session()
	if s == nil {
		return "", "", "", false
	}
	address, leader := s.raft.LeaderWithID()
	if leader == "" {
		return "", "", "", false
	}
	if now, err := g.addrs.ServerAddr(leader); err == nil {
		address = now
	}
	return string(leader), string(address), g.describe(string(leader)), true
}

// Store is the engine. Only raft writes to it.
func (g *Group) Store() *bitcask.Store { return g.store }

// AppliedIndex is the index of the last entry that the engine shows.
func (g *Group) AppliedIndex() uint64 {
	index, _ := g.store.Applied()
	return index
}

// Transfer hands leadership to the named node, or to the best one if id is empty.
func (g *Group) Transfer(ctx context.Context, id string) error {
	s := g.session()
	if s == nil {
		return g.notLeader()
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timing.Transfer)
	defer cancel()
	return s.transfer(ctx, id)
}

// bootstrap gives raft its first configuration. It is harmless if raft has one.
func (g *Group) bootstrap(ctx context.Context, members []setMember) error {
	s := g.session()
	if s == nil {
		return ErrClosed
	}
	var conf raft.Configuration
	for _, m := range members {
		conf.Servers = append(conf.Servers, raft.Server{
			Suffrage: raft.Voter, ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.PeerAddr),
		})
	}
	err := wait(ctx, s.raft.BootstrapCluster(conf))
	if errors.Is(err, raft.ErrCantBootstrap) {
		return nil
	}
	return err
}

// callConfirm is how rounds reach a voter.
func (g *Group) callConfirm(ctx context.Context, addr string, req []byte) ([]byte, error) {
	return g.cfg.Peers.Call(ctx, addr, Confirm, req)
}

// handleConfirm answers a round: the term, read now.
func (g *Group) handleConfirm(req []byte) ([]byte, error) {
	group, id, _, err := decodeConfirm(req)
	if err != nil {
		return nil, err
	}
	if group != g.id {
		return nil, fmt.Errorf("no group %d here", group)
	}
	s := g.session()
	if s == nil {
		return nil, errRestart
	}
	return encodeConfirmAnswer(confirmAnswer{round: id, term: s.raft.CurrentTerm(), node: g.nodeID}), nil
}

// Counters is what the group has done since it was opened.
type Counters struct {
	Operations, Entries, EntryBytes uint64 // proposed
	Overloaded                      uint64 // operations refused because the queue was full
	Reads, Rounds, RoundsFailed     uint64 // confirmed reads and their rounds
	Restarts                        uint64 // of raft inside the process
	Snapshots                       uint64
	SnapshotRaw, SnapshotWire       uint64 // bytes of snapshots sent, before and after compression
	ExpiredKeys                     uint64 // found by the sweep
	QueueBytes                      int64  // waiting now
}

// Counters reads them.
func (g *Group) Counters() Counters {
	c := &g.counters
	out := Counters{
		Operations: c.operations.Load(), Entries: c.entries.Load(), EntryBytes: c.bytes.Load(), Overloaded: c.overloaded.Load(),
		Reads: c.reads.Load(), Rounds: c.rounds.Load(), RoundsFailed: c.roundsFailed.Load(),
		Restarts: c.restarts.Load(), Snapshots: c.snapshots.Load(), ExpiredKeys: c.expired.Load(),
		SnapshotRaw: c.snapshotRaw.Load(), SnapshotWire: c.snapshotWire.Load(),
	}
	if s := g.session(); s != nil {
		out.QueueBytes = s.proposer.queue.bytes.Load()
	}
	return out
}

// counters is Counters while they count.
type counters struct {
	operations, entries, bytes, overloaded atomic.Uint64
	reads, rounds, roundsFailed            atomic.Uint64
	restarts, snapshots, expired           atomic.Uint64
	snapshotRaw, snapshotWire              atomic.Uint64
}

// every calls fn until ctx ends, with a pause between.
func every(ctx context.Context, pause time.Duration, fn func()) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			fn()
			timer.Reset(pause)
		}
	}
}
