package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A stale read is answered from this node's store. How old its data may be is known by marks: at a mark this node
// asked the leader which entry it had applied, the leader had its leadership confirmed by a majority after
// that, and this node has applied that entry. So it shows every write that was acknowledged before the
// mark was begun, and the age of its data is at most the time since then, on its own clock. The last contact with a leader
// would say less: a heartbeat carries no entries, and a deposed leader sends them too.
//
// Marks cost a round trip, so they are made only while somebody reads.

// freshEvery is how old a mark becomes before a read of any age asks for another one.
const freshEvery = 100 * time.Millisecond

// freshTimeout bounds the making of one mark.
const freshTimeout = time.Second

// freshener makes marks, one at a time; each serves everybody who waited when it was begun.
type freshener struct {
	wake chan struct{} // capacity 1

	mu   sync.Mutex
	asOf time.Time // of the last mark; zero: none yet
	next *round
	over bool
}

// Age is how old the data of this node is at most. It is not known before the first mark.
func (n *Node) Age() (age time.Duration, known bool) {
	f := &n.fresh
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asOf.IsZero() {
		return 0, false
	}
	return time.Since(f.asOf), true
}

// NoteStaleRead asks for a new mark if the last one is old, and does not wait for it.
func (n *Node) NoteStaleRead() {
	if age, known := n.Age(); !known || age > freshEvery {
		n.fresh.signal()
	}
}

// Freshen returns nil once this node shows every write that was acknowledged before the call.
func (n *Node) Freshen(ctx context.Context) error {
	f := &n.fresh
	f.mu.Lock()
	if f.over {
		f.mu.Unlock()
		return ErrClosed
	}
	mine := f.next
	if mine == nil {
		mine = &round{done: make(chan struct{})}
		f.next = mine
	}
	f.mu.Unlock()
	f.signal()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %s", ErrNotConfirmed, causeText(ctx.Err()))
	}
}

func (f *freshener) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// take gives the round that waits, and whether the freshener goes on.
func (f *freshener) take(over bool) *round {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = over
	now := f.next
	f.next = nil
	return now
}

// keepFresh makes marks until the node is closed.
func (n *Node) keepFresh() {
	f := &n.fresh
	for {
		select {
		case <-n.ctx.Done():
			if r := f.take(true); r != nil {
				r.err = ErrClosed
				close(r.done)
			}
			return
		case <-f.wake:
		}
		r := f.take(false)
		began := time.Now()
		ctx, cancel := context.WithTimeout(n.ctx, freshTimeout)
		err := n.catchUp(ctx)
		cancel()
		if err == nil {
			f.mu.Lock()
			f.asOf = began
			f.mu.Unlock()
		}
		if r != nil {
			r.err = err
			close(r.done)
		}
	}
}

// catchUp returns nil when this node shows what the leader had acknowledged when it was called.
func (n *Node) catchUp(ctx context.Context) error {
	if n.group.IsLeader() {
		return n.group.ConfirmLeader(ctx)
	}
	id, addr, _, ok := n.group.Leader()
	if !ok || id == n.ID() {
		return ErrNoLeader
	}
	a, err := n.askNode(ctx, id, addr, controlRequest{Op: opReadIndex})
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotConfirmed, err)
	case a.ClusterID != n.ClusterID():
		return fmt.Errorf("%w: %s is of cluster %q", ErrNotConfirmed, id, a.ClusterID)
	case !a.OK:
		return fmt.Errorf("%w: %s: %s", ErrNotConfirmed, id, a.Reason)
	}
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for n.group.AppliedIndex() < a.LastIndex {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: this node has applied entry %d of %d", ErrNotConfirmed, n.group.AppliedIndex(), a.LastIndex)
		case <-poll.C:
		}
	}
	return nil
}

// handleReadIndex tells a follower which entry it has to apply to be up to date.
func (n *Node) handleReadIndex(ctx context.Context) ([]byte, error) {
	a := controlAnswer{Node: n.ID(), ClusterID: n.ClusterID(), OK: true}
	if err := n.group.ConfirmLeader(ctx); err != nil {
		a.refuse("%v", err)
		return json.Marshal(a)
	}
	n.serving.RLock()
	defer n.serving.RUnlock()
	if n.closed {
		return nil, ErrClosed
	}
	a.LastIndex = n.group.AppliedIndex()
	return json.Marshal(a)
}

// errNothingToRead: the node has no data of a cluster yet.
var errNothingToRead = errors.New("cluster: this node has no data yet")

// CheckStale is nil if a stale read here reads something: the data of the cluster as of some time.
func (n *Node) CheckStale() error {
	if n.Removed() || n.ClusterID() == "" || n.group.AppliedIndex() == 0 {
		return errNothingToRead
	}
	return nil
}
