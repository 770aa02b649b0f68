package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// voter is another member that has a vote.
type voter struct {
	id   string
	addr string
}

// quorum is what a round needs to know of raft.
type quorum interface {
	// leading returns the term in which this node leads and is ready to serve; ok is false if it does not.
	leading() (term uint64, ok bool)
	// voters returns the other voters of the latest configuration; self tells whether this node is one.
	voters() (others []voter, self bool)
}

// rounds confirms leadership for linearizable reads (Ongaro 2014, §6.4, with messages of our own). A read is
// linearizable if this node was still the leader at some moment after the read arrived, and had applied
// every write that was acknowledged before. A round asks the other voters for their term. A voter makes a
// higher term durable before it votes in it, so a majority still at our term shows that no newer leader
// existed when the round began.
//
// raft.VerifyLeader is not used: it counts answers to messages that were sent before the read, and answers
// of non-voters.
//
// One round runs at a time, and serves every read that arrived before it began.
type rounds struct {
	quorum   quorum
	call     func(ctx context.Context, addr string, req []byte) ([]byte, error)
	group    uint32
	timeout  time.Duration
	counters *counters

	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{} // capacity 1
	worker sync.WaitGroup
	asks   sync.WaitGroup // of rounds that did not wait for all answers

	mu   sync.Mutex
	next *round // what the next round will serve; nil when nothing waits
	over bool
	id   atomic.Uint64
}

// round is a set of reads with a common outcome.
type round struct {
	done chan struct{}
	err  error // set before done is closed
}

func newRounds(q quorum, call func(ctx context.Context, addr string, req []byte) ([]byte, error), timeout time.Duration, c *counters) *rounds {
	r := &rounds{quorum: q, call: call, group: defaultGroup, timeout: timeout, counters: c, wake: make(chan struct{}, 1)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

func (r *rounds) start() { r.worker.Go(r.run) }

// stop fails what waits, and waits for the goroutines.
func (r *rounds) stop() {
	r.mu.Lock()
	r.over = true
	waiting := r.next
	r.next = nil
	r.mu.Unlock()
	if waiting != nil {
		waiting.err = ErrClosed
		close(waiting.done)
	}
	r.cancel()
	r.worker.Wait()
	r.asks.Wait()
}

// confirm returns nil once a round that began after the call has confirmed this node's leadership.
func (r *rounds) confirm(ctx context.Context) error {
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return ErrClosed
	}
	mine := r.next
	if mine == nil {
		mine = &round{done: make(chan struct{})}
		r.next = mine
	}
	r.mu.Unlock()
	r.counters.reads.Add(1)
	select {
	case r.wake <- struct{}{}:
	default:
	}
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %s", ErrNotConfirmed, causeText(ctx.Err()))
	}
}

func (r *rounds) run() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.wake:
		}
		r.mu.Lock()
		now := r.next
		r.next = nil
		r.mu.Unlock()
		if now == nil {
			continue
		}
		now.err = r.ask()
		close(now.done)
	}
}

// ask runs one round.
func (r *rounds) ask() error {
	r.counters.rounds.Add(1)
	term, ok := r.quorum.leading()
	if !ok {
		r.counters.roundsFailed.Add(1)
		return ErrNotLeader
	}
	err := r.majority(term)
	if err == nil {
		// Also when a majority agreed: this node may have seen a newer term meanwhile.
		if now, ok := r.quorum.leading(); !ok || now != term {
			err = fmt.Errorf("%w: the term changed during the confirmation", ErrNotLeader)
		}
	}
	if err != nil {
		r.counters.roundsFailed.Add(1)
	}
	return err
}

// majority asks all other voters at once and returns as soon as enough have answered.
func (r *rounds) majority(term uint64) error {
	others, self := r.quorum.voters()
	agreed, voters := 0, len(others)
	if self {
		agreed++
		voters++
	}
	needed := voters/2 + 1
	if agreed >= needed {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel() // ends the calls that are not needed any more
	id := r.id.Add(1)
	req := encodeConfirm(r.group, id, term)
	answers := make(chan error, len(others))
	for _, v := range others {
		r.asks.Go(func() { answers <- r.askVoter(ctx, v, req, id, term) })
	}
	var last error
	for range others {
		switch err := <-answers; {
		case err == nil:
			if agreed++; agreed >= needed {
				return nil
			}
		case errors.Is(err, ErrNotLeader):
			return err
		default:
			last = err
		}
	}
	return fmt.Errorf("%w: %d of %d voters agreed, %d are needed: %w", ErrNotConfirmed, agreed, voters, needed, last)
}

// askVoter returns nil if the voter is at our term, ErrNotLeader if it is at a higher one.
func (r *rounds) askVoter(ctx context.Context, v voter, req []byte, id, term uint64) error {
	data, err := r.call(ctx, v.addr, req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", v.id, err)
	}
	a, err := decodeConfirmAnswer(data)
	switch {
	case err != nil:
		return fmt.Errorf("ask %s: %w", v.id, err)
	case a.term > term:
		return fmt.Errorf("%w: %s is at term %d, this node at %d", ErrNotLeader, a.node, a.term, term)
	case a.round != id:
		return fmt.Errorf("ask %s: it answered round %d, not %d", v.id, a.round, id)
	case a.node != v.id:
		return fmt.Errorf("ask %s: %s answered at its address", v.id, a.node)
	case a.term < term:
		return fmt.Errorf("ask %s: it is at term %d only", v.id, a.term)
	}
	return nil
}

// The messages of a round. Request: format, group, round, term. Answer: format, round, term, node id.
const (
	confirmFormat      = 1
	confirmBytes       = 1 + 4 + 8 + 8
	confirmAnswerBytes = 1 + 8 + 8 // and the id
)

type confirmAnswer struct {
	round, term uint64
	node        string
}

func encodeConfirm(group uint32, id, term uint64) []byte {
	b := append(make([]byte, 0, confirmBytes), confirmFormat)
	b = binary.BigEndian.AppendUint32(b, group)
	b = binary.BigEndian.AppendUint64(b, id)
	return binary.BigEndian.AppendUint64(b, term)
}

func decodeConfirm(b []byte) (group uint32, id, term uint64, err error) {
	if len(b) != confirmBytes || b[0] != confirmFormat {
		return 0, 0, 0, fmt.Errorf("confirm request of %d bytes is not understood", len(b))
	}
	return binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint64(b[5:]), binary.BigEndian.Uint64(b[13:]), nil
}

func encodeConfirmAnswer(a confirmAnswer) []byte {
	b := append(make([]byte, 0, confirmAnswerBytes+len(a.node)), confirmFormat)
	b = binary.BigEndian.AppendUint64(b, a.round)
	b = binary.BigEndian.AppendUint64(b, a.term)
	return append(b, a.node...)
}

func decodeConfirmAnswer(b []byte) (confirmAnswer, error) {
	if len(b) < confirmAnswerBytes || b[0] != confirmFormat {
		return confirmAnswer{}, fmt.Errorf("confirm answer of %d bytes is not understood", len(b))
	}
	return confirmAnswer{
		round: binary.BigEndian.Uint64(b[1:]), term: binary.BigEndian.Uint64(b[9:]), node: string(b[confirmAnswerBytes:]),
	}, nil
}

// votersOf lists the voters of a configuration but self.
func votersOf(servers []raft.Server, self string, addrs *addressBook) (others []voter, isVoter bool) {
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		if string(s.ID) == self {
			isVoter = true
			continue
		}
		addr := s.Address
		if known, err := addrs.ServerAddr(s.ID); err == nil {
			addr = known
		}
		others = append(others, voter{id: string(s.ID), addr: string(addr)})
	}
	return others, isVoter
}
