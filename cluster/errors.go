package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/fsm"
)

// The outcomes of an operation that was not applied, or may not have been. All but ErrUnknown are
// definite: nothing was applied, and the operation may be sent again. Compare with errors.Is; the text
// that wraps them tells a person why.
var (
	// ErrNotLeader: another node leads, or this one is handing over.
	ErrNotLeader = errors.New("cluster: not the leader")
	// ErrNoLeader: this node knows no leader.
	ErrNoLeader = errors.New("cluster: no leader is known")
	// ErrOverloaded: the queue of the proposer is full.
	ErrOverloaded = errors.New("cluster: overloaded")
	// ErrNotApplied: definitely not applied for another reason, such as a deadline while still queued.
	ErrNotApplied = errors.New("cluster: not applied")
	// ErrUnknown: the operation was proposed, and this node cannot learn its outcome (I10).
	ErrUnknown = errors.New("cluster: outcome unknown")

	// ErrNotConfirmed: a majority did not confirm the leader in time. Reads have no effect, so they may
	// be tried again.
	ErrNotConfirmed = errors.New("cluster: leadership was not confirmed by a majority")
	// ErrReadOnly: a write on a read transaction.
	ErrReadOnly = errors.New("cluster: read transaction")
	// ErrClosed: the node or the group was closed.
	ErrClosed = errors.New("cluster: closed")
	// ErrStalled: a disk operation takes too long.
	ErrStalled = errors.New("cluster: disk stalled")
	// ErrIdentity: the data directory belongs to another node or cluster, or lost a part of itself.
	ErrIdentity = errors.New("cluster: data directory refused")
	// ErrConfig: a mistake in Config.
	ErrConfig = errors.New("cluster: configuration")
)

// Definite reports whether err says that an operation was certainly not applied.
func Definite(err error) bool {
	return err != nil && !errors.Is(err, ErrUnknown)
}

// entryOutcome translates raft's answer to one proposed entry: nil is applied, everything that is not
// certainly "no" is unknown.
func entryOutcome(err error, response any) error {
	switch {
	case err == nil && response == nil:
		return nil
	case err == nil:
		failure, ok := response.(error)
		if ok && errors.Is(failure, fsm.ErrStaleTerm) {
			return fmt.Errorf("%w: leadership changed before the write was stored", ErrNotApplied)
		}
		return fmt.Errorf("%w: the state machine answered %v", ErrUnknown, response)
	case errors.Is(err, raft.ErrNotLeader):
		// Answered before the entry gets an index, so it is in no log.
		return fmt.Errorf("%w: leadership was lost before the write was stored", ErrNotLeader)
	case errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return fmt.Errorf("%w: %w", ErrNotApplied, err)
	case errors.Is(err, bitcask.ErrIncomplete):
		// The entry may be among those that stayed in the log, and come back as a new leader's after a restart.
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	case errors.Is(err, bitcask.ErrNoSpace):
		// The engine cut the entry off again, and raft replicates nothing that it could not store.
		return fmt.Errorf("%w: %w", ErrNotApplied, err)
	case errors.Is(err, raft.ErrLeadershipLost):
		return fmt.Errorf("%w: leadership was lost while the write was being replicated", ErrUnknown)
	case errors.Is(err, raft.ErrRaftShutdown):
		return fmt.Errorf("%w: the node shut down while the write was being replicated", ErrUnknown)
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// causeText names a context's end for a message to a person.
func causeText(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "the deadline passed"
	}
	return "the caller gave up"
}

// sameError is the result of n operations that all ended alike.
func sameError(n int, err error) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}
