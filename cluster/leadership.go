package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/fsm"
)

// monitor follows raft's leadership until the session stops. A new leader may serve only once its state
// machine has applied everything from earlier terms (I9): raft's barrier tells. Readiness is bound to the
// term of the barrier, because leadership can be lost and regained before anybody looks.
func (s *session) monitor(notify <-chan bool) {
	abandon := func() {} // ends the establishment that is running, and waits for it
	defer func() { abandon() }()
	for {
		select {
		case <-s.ctx.Done():
			return
		case leads := <-notify:
			abandon()
			s.lose()
			abandon = func() {}
			if leads {
				abandon = s.goEstablish()
			}
		}
	}
}

// goEstablish establishes leadership on another goroutine, because raft blocks when nobody reads its
// notifications.
func (s *session) goEstablish() (abandon func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.establish(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// lose forbids evaluation and reads. It is also called when leadership is gained: what an earlier
// leadership left must be gone first.
func (s *session) lose() {
	if s.readyTerm.Swap(0) != 0 {
		s.group.log.Info("leadership ended")
	}
	s.proposer.setTerm(0)
}

// establish makes this leader ready.
func (s *session) establish(ctx context.Context) {
	term := s.raft.CurrentTerm()
	start := time.Now()
	if err := s.first(ctx, term); err != nil {
		if ctx.Err() == nil {
			s.group.log.Info("leadership was not established", "term", term, "error", err)
		}
		return
	}
	if s.raft.State() != raft.Leader || s.raft.CurrentTerm() != term {
		return // another notification is on its way
	}
	s.proposer.setTerm(term)
	s.readyTerm.Store(term)
	s.group.log.Info("leading", "term", term, "took", time.Since(start).Round(time.Millisecond))
}

// first is a leader's first entry. It names the cluster, so that every replica can tell that it replicates the right
// log (session.checkCluster), and when it is applied, then so is everything before it.
func (s *session) first(ctx context.Context, term uint64) error {
	return s.await(ctx, func() raft.Future {
		return s.raft.ApplyLog(fsm.ClusterEntry(term, s.group.clusterID()), 0)
	})
}

// barrier returns nil when everything before it is applied.
func (s *session) barrier(ctx context.Context) error {
	return s.await(ctx, func() raft.Future { return s.raft.Barrier(0) })
}

// await waits for an entry. While a leadership transfer of an earlier term
// hangs, raft refuses every write of the leader, for ever (hashicorp/raft#696): then the session is stuck.
func (s *session) await(ctx context.Context, start func() raft.Future) error {
	var since time.Time
	for {
		err := wait(ctx, start())
		if !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			return err
		}
		if since.IsZero() {
			since = time.Now()
		}
		if refused := time.Since(since); refused > 2*s.group.cfg.Timing.Election {
			err = fmt.Errorf("a leadership transfer has been in progress for %s: %w", refused.Round(time.Millisecond), err)
			s.setStuck(err)
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(s.group.cfg.Timing.Election / 10):
		}
	}
}

// transfer hands leadership to the named node, or to the most up-to-date one if id is empty. Nothing is in
// flight meanwhile: raft refuses entries during a transfer, and accepts the next ones if it fails, and those
// would have been evaluated on top of the refused ones. If the transfer fails this node goes on leading.
func (s *session) transfer(ctx context.Context, id string) error {
	s.transferring.Lock()
	defer s.transferring.Unlock()
	term, ok := s.leading()
	if !ok {
		return ErrNotLeader
	}
	defer s.proposer.resume()
	if err := s.proposer.pause(ctx); err != nil {
		return err
	}
	var future raft.Future
	if id == "" {
		future = s.raft.LeadershipTransfer()
	} else {
		address, err := s.voterAddress(id)
		if err != nil {
			return err
		}
		future = s.raft.LeadershipTransferToServer(raft.ServerID(id), address)
	}
	err := wait(ctx, future)
	if _, still := s.leadingIn(term); !still {
		return nil // raft reports some successes as errors
	}
	if err == nil {
		err = errors.New("raft reported success, but this node leads on")
	}
	// raft clears its mark of the transfer a moment after it answers. Only then may entries go in.
	if cause := s.barrier(s.ctx); cause != nil {
		return fmt.Errorf("transfer leadership: %w; and then: %w", err, cause)
	}
	return fmt.Errorf("transfer leadership: %w", err)
}

// leadingIn reports whether this node still leads in term.
func (s *session) leadingIn(term uint64) (uint64, bool) {
	now, ok := s.leading()
	return now, ok && now == term
}

func (s *session) voterAddress(id string) (raft.ServerAddress, error) {
	for _, server := range s.servers() {
		if string(server.ID) == id {
			if server.Suffrage != raft.Voter {
				return "", fmt.Errorf("%w: node %q has no vote yet", ErrNotApplied, id)
			}
			return server.Address, nil
		}
	}
	return "", fmt.Errorf("%w: node %q is not a member", ErrNotApplied, id)
}
