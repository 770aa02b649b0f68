package cluster

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/fsm"
)

// session is one life of a raft.Raft over the group's store. A group that is restarted in the process gets a
// new one; everything that depends on raft's memory lives and dies with it.
type session struct {
	group     *Group
	raft      *raft.Raft
	fsm       *fsm.FSM
	snapshots *fsm.SnapshotStore
	transport *transport
	proposer  *proposer
	rounds    *rounds

	readyTerm atomic.Uint64 // the term in which this node leads and has applied everything older; 0: none
	stuck     atomic.Pointer[error]

	ctx    context.Context // ends when the session is being stopped
	cancel context.CancelFunc
	worker sync.WaitGroup // the leadership monitor, and who watches the leader
	// transferring is held by a leadership transfer.
	transferring sync.Mutex
	reloading    sync.Mutex // held while raft's configuration is changed
}

// raftTimeouts of the library that are not in Timing.
const (
	// maxAppendEntries bounds one AppendEntries. Entries are packed, up to 512 KiB each, so few are enough; and as one
	// may be a value of 8 MiB, more of them would cost the leader that memory for each follower that is behind.
	maxAppendEntries = 16
	// notifyBuffer: raft's main thread blocks when the channel is full.
	notifyBuffer = 16
	// shutdownGrace is how long an answer may take that raft owes at shutdown.
	shutdownGrace = 500 * time.Millisecond
)

func (g *Group) newSession() (*session, error) {
	s := &session{group: g}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	log := newHclog(g.log, "raft")
	s.fsm = fsm.New(g.store, g.log)
	s.fsm.OnFatal(g.fatal)
	s.fsm.OnClusterID(g.checkCluster)
	s.snapshots = fsm.NewSnapshotStore(g.logs, g.log)
	saved, err := s.snapshots.List()
	if err != nil {
		s.cancel()
		return nil, fmt.Errorf("start raft: %w", err)
	}
	if len(saved) > 0 {
		s.fsm.StartAt(saved[0].Index)
	}
	notify := make(chan bool, notifyBuffer)
	s.transport = newTransport(g.hub.open(), g.addrs, g.watch, log, &g.counters)
	r, err := raft.NewRaft(g.raftConfig(notify, log), s.fsm, g.guard, g.stable, s.snapshots, s.transport)
	if err != nil {
		s.cancel()
		_ = s.transport.Close() // the error of NewRaft is the one to report
		return nil, fmt.Errorf("start raft: %w", err)
	}
	s.raft = r
	s.proposer = newProposer(r, g.reads, &g.cfg, &g.counters, func(err error) { s.setStuck(err) })
	s.rounds = newRounds(s, g.callConfirm, 2*g.cfg.Timing.Heartbeat, &g.counters)
	stored := s.proposer.noteStored
	g.guard.onStored.Store(&stored)
	s.proposer.start()
	s.rounds.start()
	s.worker.Go(func() { s.monitor(notify) })
	s.worker.Go(s.watchSilence)
	return s, nil
}

func (g *Group) raftConfig(notify chan<- bool, log *hclogAdapter) *raft.Config {
	t := &g.cfg.Timing
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(g.nodeID)
	c.HeartbeatTimeout, c.ElectionTimeout = t.Heartbeat, t.Election
	c.LeaderLeaseTimeout = t.Heartbeat
	c.CommitTimeout = t.Commit
	c.MaxAppendEntries = maxAppendEntries
	c.ShutdownOnRemove = false
	c.NotifyCh = notify
	c.Logger = log
	c.NoLegacyTelemetry = true
	// The engine is at its applied index already.
	c.NoSnapshotRestoreOnStart = true
	// Snapshots are triggered by bytes of log (snapshots.go), not by raft's count of entries.
	c.SnapshotThreshold = math.MaxUint64
	c.SnapshotInterval = time.Hour
	c.TrailingLogs = uint64(g.cfg.Limits.TrailingBytes/1024) + 1 // until the real size of entries is known
	return c
}

// checkCluster compares the cluster that an entry names with the node's own. Entries of earlier terms may name the
// cluster that this one was recovered from.
func (g *Group) checkCluster(index, term uint64, clusterID string) {
	own := g.clusterID()
	if g.stable.term() != term || clusterID == own || own == "" {
		return
	}
	g.fatal(fmt.Errorf("%w: entry %d of the log is of cluster %s, and this node belongs to cluster %s: it was given the data or the peers of another one; move its data directory away, and start it with an empty one and a new node id",
		ErrIdentity, index, clusterID, own))
}

// stop ends the session. Whoever waits in it gets an answer.
func (s *session) stop() {
	s.cancel()
	s.readyTerm.Store(0)
	s.group.guard.onStored.Store(nil)
	s.proposer.close()
	done := s.raft.Shutdown()
	// raft waits for the RPCs that are running; without their connections they end.
	_ = s.transport.Close() // never fails
	_ = done.Error()        // never fails: it only waits
	s.rounds.stop()
	s.proposer.shutdown(shutdownGrace)
	s.worker.Wait()
}

// leading implements quorum. The order of the loads matters: a state read before the term could belong to an
// older one.
func (s *session) leading() (term uint64, ok bool) {
	term = s.readyTerm.Load()
	if term == 0 || s.raft.CurrentTerm() != term || s.raft.State() != raft.Leader {
		return 0, false
	}
	return term, true
}

// voters implements quorum.
func (s *session) voters() (others []voter, self bool) {
	return votersOf(s.servers(), s.group.nodeID, s.group.addrs)
}

// servers of the latest configuration, committed or not.
func (s *session) servers() []raft.Server {
	f := s.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// setStuck notes that only a restart of the session helps; the watchdog acts on it.
func (s *session) setStuck(err error) {
	s.stuck.CompareAndSwap(nil, &err)
}

// wait returns a future's error, or ctx's: raft leaves some futures without an answer when it shuts down.
func wait(ctx context.Context, f raft.Future) error {
	answer := make(chan error, 1)
	go func() { answer <- f.Error() }() // ends with the future; see above
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errRestart = errors.New("raft must be restarted")
