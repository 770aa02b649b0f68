package bitcask

import (
	"fmt"
	"sync"
	"time"
)

// groupCommit lets concurrent writers share one write and one sync: whoever finds
// nobody writing leads, and writes for all who came meanwhile. A lone writer
// does its own work, without a switch of goroutine.
type groupCommit struct {
	store *Store

	mu    sync.Mutex
	queue []*writeRequest // the leader's own request is the first
	busy  bool            // somebody leads

	// The leader's.
	entry    [1]Entry // of its group
	combined Batch
	requests sync.Pool
}

type writeRequest struct {
	batch *Batch
	own   Batch // for Put and Delete
	err   error
	wake  chan wakeReason // capacity 1
}

type wakeReason uint8

const (
	wakeDone wakeReason = iota // the write was carried out; see err
	wakeLead                   // the next group is yours
)

// maxGroupBytes bounds one group, and so the delay of its first writer.
const maxGroupBytes = 1 * mib

// Put sets key to value, for ever. It returns when the write is as durable as
// Options.Durability says. Neither slice is kept.
func (s *Store) Put(key, value []byte) error { return s.put(key, value, 0) }

// PutWithTTL is Put for a value that expires after ttl.
func (s *Store) PutWithTTL(key, value []byte, ttl time.Duration) error {
	if ttl <= 0 {
		return fmt.Errorf("bitcask: time to live %s is not positive", ttl)
	}
	return s.put(key, value, s.Now()+max(1, ttl.Milliseconds()))
}

func (s *Store) put(key, value []byte, expireAt int64) error {
	s.space.stall.wait(s.ctx)
	if s.writesDirect() {
		if err := checkKey(key); err != nil {
			return err
		}
		var flags recordFlags
		if expireAt != 0 {
			flags = flagExpiry
		}
		return s.writeOne(flags, key, value, expireAt)
	}
	if err := s.checkValue(len(value)); err != nil {
		return err // a batch knows only the highest limit that a store may have
	}
	r := s.commits.request()
	if err := r.own.Put(key, value, expireAt); err != nil {
		s.commits.requests.Put(r)
		return err
	}
	return s.commits.do(r)
}

func (s *Store) checkValue(bytes int) error {
	if limit := s.opts.MaxValueBytes; bytes > limit {
		return fmt.Errorf("%w: value of %d bytes, the limit is %d (Options.MaxValueBytes)", ErrTooLarge, bytes, limit)
	}
	return nil
}

// Delete removes key; a missing key is no error.
func (s *Store) Delete(key []byte) error {
	if s.writesDirect() {
		if err := checkKey(key); err != nil {
			return err
		}
		return s.writeOne(flagDelete, key, nil, 0)
	}
	r := s.commits.request()
	if err := r.own.Delete(key); err != nil {
		s.commits.requests.Put(r)
		return err
	}
	return s.commits.do(r)
}

// Write carries out a batch: all of it becomes visible at once, and a crash keeps
// all of it or nothing. The batch must not be changed meanwhile. One that is valid in a
// term only (Reset) is refused: this store has none.
func (s *Store) Write(b *Batch) error {
	if b.Len() == 0 {
		return nil
	}
	s.space.stall.wait(s.ctx)
	r := s.commits.request()
	r.batch = b
	return s.commits.do(r)
}

func (g *groupCommit) request() *writeRequest {
	r, ok := g.requests.Get().(*writeRequest)
	if !ok {
		r = &writeRequest{wake: make(chan wakeReason, 1)}
	}
	r.own.Reset(0, 0)
	r.batch, r.err = &r.own, nil
	return r
}

func (g *groupCommit) do(r *writeRequest) error {
	defer g.requests.Put(r)
	if g.store.opts.Replicated {
		return ErrReplicated
	}
	if term, _ := BatchTerm(r.batch.buf); term != 0 {
		return fmt.Errorf("bitcask: the batch is valid in term %d only, and a store that numbers its own entries has no terms: reset it to term 0; nothing was applied", term)
	}
	if err := g.store.checkValue(r.batch.maxValue); err != nil {
		return err
	}
	if r.batch.Size() > maxFrameBytes {
		return fmt.Errorf("%w: batch of %d bytes, the limit is %d", ErrTooLarge, r.batch.Size(), maxFrameBytes)
	}
	g.mu.Lock()
	g.queue = append(g.queue, r)
	follow := g.busy
	g.busy = true
	g.mu.Unlock()
	if follow && <-r.wake == wakeDone {
		return r.err
	}
	g.lead()
	return r.err
}

// lead carries out what is queued, then hands over to the next in the queue.
func (g *groupCommit) lead() {
	group := g.take()
	err := g.store.writeGroup(group)
	for _, r := range group {
		r.err = err
	}
	for _, r := range group[1:] {
		r.wake <- wakeDone
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 0 {
		g.busy = false
		return
	}
	g.queue[0].wake <- wakeLead
}

// take removes a group from the queue, the leader's own request first. A batch that
// clears must be the first of its entry, and so begins a group.
func (g *groupCommit) take() []*writeRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, bytes := 0, 0
	for n < len(g.queue) {
		b := g.queue[n].batch
		if n > 0 && (b.clears() || bytes+b.Size() > maxGroupBytes) {
			break
		}
		bytes += b.Size()
		n++
	}
	group := g.queue[:n:n]
	if g.queue = g.queue[n:]; len(g.queue) == 0 {
		g.queue = nil
	}
	return group
}

// writeGroup appends a group's batches and commits them.
func (s *Store) writeGroup(group []*writeRequest) error {
	s.appender.mu.Lock()
	defer s.appender.mu.Unlock()
	index := s.nextIndex()
	s.commits.entry[0] = Entry{Index: index, Kind: KindData, Data: s.commits.encode(group)}
	if err := s.appendLocked(s.commits.entry[:]); err != nil {
		s.makeRoomAfter(err)
		return err
	}
	s.committer.mu.Lock()
	defer s.committer.mu.Unlock()
	return s.commitLocked(index)
}

// nextIndex of a store that numbers its own entries.
func (s *Store) nextIndex() uint64 { return s.lastLocked() + 1 }

// encode makes the data of one entry of the whole group: one frame, one checksum chain step, and
// after an error nothing of it is there.
func (g *groupCommit) encode(group []*writeRequest) []byte {
	if len(group) == 1 {
		return group[0].batch.Bytes()
	}
	b := &g.combined
	b.Reset(0, 0)
	for _, r := range group {
		b.buf = append(b.buf, r.batch.buf[batchHeaderBytes:]...)
		b.count += r.batch.count
	}
	return b.Bytes()
}
