package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
)

// applier is the part of raft.Raft that the proposer uses.
type applier interface {
	Apply(data []byte, timeout time.Duration) raft.ApplyFuture
}

// proposer turns operations into Raft entries.
//
//	propose → queue → run: evaluate, one entry → raft.Apply → complete: outcome → propose returns
//
// run is the only goroutine that evaluates. It takes what has queued while the previous entry was in
// flight, so entries grow with the load and nothing waits for a timer. complete waits for raft's answers,
// in order. expire ends requests whose time is over.
type proposer struct {
	raft     applier
	store    engine
	queue    requestQueue
	limits   Limits
	timeout  time.Duration // of a request, see Timing.Write
	maxValue int
	counters *counters
	log      *slog.Logger
	// onBroken: raft refused an entry within a term that goes on. The group must start a new term.
	onBroken func(error)

	wake chan struct{} // capacity 1: something that run waits for may have changed
	// hungry: run waits for operations. Only then do callers wake it; otherwise it comes by itself, when the
	// previous entry is stored or answered.
	hungry   atomic.Bool
	pruning  atomic.Bool    // requests may have ended while they were queued
	inFlight chan *inFlight // from run to complete; capacity Limits.InFlight
	stop     chan struct{}
	workers  sync.WaitGroup // run and expire
	finished chan struct{}  // complete has returned

	mu      sync.Mutex
	term    uint64 // evaluation is allowed for this term; 0: not now
	epoch   uint64 // counts the calls of setTerm
	paused  bool
	closed  bool
	flying  int           // entries that are being built or in flight
	storing bool          // the last entry is not stored yet
	idle    chan struct{} // closed when nothing is in flight; nil when nobody waits
	applied []*entry      // to be purged from the overlay
	spare   []*entry      // to be used again
}

// inFlight is an entry that raft has and not answered.
type inFlight struct {
	entry  *entry
	epoch  uint64
	future raft.ApplyFuture
}

// builder is what run owns.
type builder struct {
	overlay *overlay
	batch   bitcask.Batch
	pending *request // taken from the queue, not evaluated completely; linked by queued
	entry   *entry
	term    uint64
	epoch   uint64
	now     int64 // the highest leader time so far, ms
}

func newProposer(r applier, store engine, cfg *Config, c *counters, onBroken func(error)) *proposer {
	return &proposer{
		raft: r, store: store, queue: requestQueue{limit: cfg.Limits.QueueBytes}, limits: cfg.Limits,
		timeout: cfg.Timing.Write, maxValue: cfg.Engine.MaxValueBytes, counters: c, log: cfg.Logger, onBroken: onBroken,
		wake:     make(chan struct{}, 1),
		inFlight: make(chan *inFlight, cfg.Limits.InFlight),
		stop:     make(chan struct{}),
		finished: make(chan struct{}),
	}
}

func (p *proposer) start() {
	p.workers.Go(p.run)
	p.workers.Go(p.expire)
	go func() {
		defer close(p.finished)
		p.complete()
	}()
}

// TimePerMiB is added to the time of a write for what it carries: three disks have to take it.
const TimePerMiB = 100 * time.Millisecond

// propose evaluates n operations of about size bytes together; see Group.Propose.
func (p *proposer) propose(ctx context.Context, n int, size int64, eval func(tx *Tx, i int)) []error {
	r := newRequest(n, size+int64(n)*effectOverhead, time.Now().Add(p.timeout+time.Duration(size>>20)*TimePerMiB), eval)
	if err := p.queue.add(r); err != nil {
		r.recycle()
		if errors.Is(err, ErrOverloaded) {
			p.counters.overloaded.Add(1)
		}
		return sameError(n, err)
	}
	if p.hungry.Load() {
		p.signal()
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		cause := causeText(ctx.Err())
		if r.abandon(fmt.Errorf("%w: %s while the operation was queued", ErrNotApplied, cause), cause) {
			p.queue.forget(r)
			return r.errs // without recycling: the proposer may know it still
		}
		<-r.done
	}
	errs := r.errs
	if !r.shared && !r.pinned {
		r.recycle()
	}
	return errs
}

// signal wakes run.
func (p *proposer) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// setTerm allows evaluation for a term, or forbids it with 0. What is queued when leadership is lost is
// definitely not applied. Called by the leadership monitor only; with a term only after its barrier.
func (p *proposer) setTerm(term uint64) {
	p.mu.Lock()
	p.term = term
	p.epoch++
	p.mu.Unlock()
	if term == 0 {
		p.queue.refuseAll(fmt.Errorf("%w: leadership was lost before the write was proposed", ErrNotLeader))
	}
	p.signal()
}

// run evaluates and proposes until close.
func (p *proposer) run() {
	defer close(p.inFlight)
	b := &builder{overlay: newOverlay()}
	for p.await(b) {
		p.build(b)
		p.submit(b)
	}
	p.prune(b)
}

// await returns true when an entry may be built: there is something to evaluate, this node leads and has
// applied everything older, and the previous entry is answered, or stored and the next one full.
func (p *proposer) await(b *builder) bool {
	for {
		p.mu.Lock()
		for _, e := range p.applied {
			b.overlay.purge(e)
			e.reset()
			p.spare = append(p.spare, e)
		}
		p.applied = p.applied[:0]
		if p.closed {
			p.mu.Unlock()
			return false
		}
		if p.epoch != b.epoch && p.flying == 0 {
			// What was in flight is answered, so the engine alone is the truth again. Before that, an entry
			// of the old epoch could still be stored in this term, behind the barrier.
			b.overlay, b.epoch = newOverlay(), p.epoch
			p.applied = nil
		}
		ready := p.epoch == b.epoch && p.term != 0 && !p.paused && !p.storing && p.roomLocked()
		p.hungry.Store(ready) // before the queue is looked at: who adds after that look sees it
		if ready && (b.pending != nil || !p.queue.empty()) {
			p.hungry.Store(false)
			p.flying++
			b.term, b.entry = p.term, p.newEntryLocked()
			p.mu.Unlock()
			return true
		}
		p.mu.Unlock()
		if !ready && p.pruning.Swap(false) {
			p.prune(b)
		}
		<-p.wake
	}
}

// roomLocked tells whether another entry may go. Behind one that is in flight only a full one does: a smaller one
// gains more by what queues up until then, because three nodes sync once for each entry.
func (p *proposer) roomLocked() bool {
	if p.flying == 0 {
		return true
	}
	return p.flying < p.limits.InFlight && p.queue.bytes.Load() >= int64(p.limits.EntryBytes)
}

func (p *proposer) newEntryLocked() *entry {
	if n := len(p.spare); n > 0 {
		e := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return e
	}
	return &entry{}
}

// prune drops requests that have ended, so that they do not count as waiting.
func (p *proposer) prune(b *builder) {
	var kept, tail *request
	keep := func(r *request) {
		for r != nil {
			next := r.queued
			r.queued = nil
			switch {
			case r.ended():
				p.queue.left(r)
			case tail == nil:
				kept, tail = r, r
			default:
				tail.queued = r
				tail = r
			}
			r = next
		}
	}
	keep(b.pending)
	keep(p.queue.take())
	b.pending = kept
}

// build evaluates what is waiting, until the entry is full.
func (p *proposer) build(b *builder) {
	tx := &Tx{store: p.store, overlay: b.overlay, entry: b.entry, now: p.tick(b), maxValue: p.maxValue}
	for {
		if b.pending == nil {
			if b.pending = p.queue.take(); b.pending == nil {
				return
			}
			tx.now = p.tick(b) // no write is judged by a time before its call: a read may have seen a key expire in between
		}
		r := b.pending
		if !r.evaluate(tx, &p.limits) {
			return
		}
		b.pending, r.queued = r.queued, nil
		p.queue.left(r)
	}
}

// tick is the time for what is evaluated from now on.
func (p *proposer) tick(b *builder) int64 {
	b.now = max(b.now, p.store.Now())
	return b.now
}

// submit hands the entry to raft, also when it has no effects: its replies are reads of the overlay, and
// wait like any other.
func (p *proposer) submit(b *builder) {
	e := b.entry
	b.entry = nil
	if len(e.spans) == 0 {
		p.mu.Lock()
		p.spare = append(p.spare, e)
		p.landedLocked(1)
		p.mu.Unlock()
		return
	}
	data, err := encode(&b.batch, e, b.term, b.now)
	if err != nil {
		panic(fmt.Sprintf("cluster: an effect that was checked cannot be encoded: %v", err))
	}
	p.counters.entries.Add(1)
	p.counters.operations.Add(uint64(e.ops))
	p.counters.bytes.Add(uint64(len(data)))
	p.mu.Lock()
	p.storing = true
	p.mu.Unlock()
	// Blocks while raft's main thread is busy, and returns when raft shuts down.
	p.inFlight <- &inFlight{entry: e, epoch: b.epoch, future: p.raft.Apply(data, 0)}
}

// landedLocked counts entries that are not in flight any more.
func (p *proposer) landedLocked(n int) {
	p.flying -= n
	if p.flying > 0 {
		return
	}
	p.storing = false // also when raft refused the entry and stored nothing
	if p.idle != nil {
		close(p.idle)
		p.idle = nil
	}
}

// complete answers requests in the order of their entries, until run ends. It returns late, or never, if
// raft shuts down with an entry on its way to the state machine: raft forgets to answer those.
func (p *proposer) complete() {
	var ended []*request
	for f := range p.inFlight {
		err := f.future.Error()
		var response any
		if err == nil {
			response = f.future.Response()
		}
		outcome := entryOutcome(err, response)
		for _, s := range f.entry.spans {
			if s.req.answer(s.from, s.to, outcome) {
				ended = append(ended, s.req)
			}
		}
		p.queue.finish(ended...)
		clear(ended)
		ended = ended[:0]
		p.land(f, outcome)
		if errors.Is(err, raft.ErrLeadershipTransferInProgress) || errors.Is(err, raft.ErrAbortedByRestore) {
			p.onBroken(err)
		}
	}
}

// land notes the end of an entry's flight. After a failed one nothing more is evaluated in its epoch: the
// overlay holds effects that will not come.
func (p *proposer) land(f *inFlight, outcome error) {
	p.mu.Lock()
	p.landedLocked(1)
	halted := outcome != nil && p.epoch == f.epoch && p.term != 0
	switch {
	case outcome == nil && p.epoch == f.epoch:
		p.applied = append(p.applied, f.entry)
	case halted:
		p.term = 0
	}
	p.mu.Unlock()
	if halted {
		p.queue.refuseAll(fmt.Errorf("%w: leadership was lost before the write was proposed", ErrNotLeader))
	}
	p.signal()
}

// expire ends the requests whose time is over.
func (p *proposer) expire() {
	ticker := time.NewTicker(max(p.timeout/30, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case now := <-ticker.C:
			p.queue.abandonBefore(now,
				fmt.Errorf("%w: the operation was queued for longer than %s", ErrNotApplied, p.timeout),
				fmt.Sprintf("%s passed", p.timeout))
			if p.queue.bytes.Load() > 0 {
				p.pruning.Store(true)
				p.signal()
			}
		}
	}
}

// pause stops evaluation, and returns when nothing is in flight. Operations queue up until resume.
func (p *proposer) pause(ctx context.Context) error {
	p.mu.Lock()
	p.paused = true
	if p.flying == 0 {
		p.mu.Unlock()
		return nil
	}
	idle := make(chan struct{})
	p.idle = idle
	p.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait until nothing is in flight: %w", ctx.Err())
	}
}

func (p *proposer) resume() {
	p.mu.Lock()
	p.paused = false
	p.mu.Unlock()
	p.signal()
}

// noteStored is called when raft has stored entries: time to build the next one.
func (p *proposer) noteStored() {
	p.mu.Lock()
	waiting := p.storing
	p.storing = false
	p.mu.Unlock()
	if waiting {
		p.signal()
	}
}

// close refuses what is queued and what is new. Entries in flight are still answered.
func (p *proposer) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	p.mu.Unlock()
	p.queue.close()
	close(p.stop)
	p.signal()
	p.queue.refuseAll(fmt.Errorf("%w: the node is closing", ErrNotLeader))
}

// shutdown waits for the goroutines; raft must have shut down. The outcome of entries that raft has not
// answered after grace stays unknown.
func (p *proposer) shutdown(grace time.Duration) {
	p.close()
	select {
	case <-p.finished:
	case <-time.After(grace):
		p.log.Warn("raft shut down without answering entries in flight; their outcome is unknown")
	}
	p.workers.Wait()
	p.queue.abandonBefore(time.Time{}, fmt.Errorf("%w: the node is closing", ErrNotLeader), "the node shut down")
}

// encode makes the entry's payload. raft keeps it, so its memory is never used again.
func encode(b *bitcask.Batch, e *entry, term uint64, now int64) ([]byte, error) {
	b.Reset(term, now)
	if e.clears {
		b.Clear()
	}
	for i := range e.effects {
		ef := &e.effects[i]
		key := unsafe.Slice(unsafe.StringData(ef.key), len(ef.key)) // only read
		var err error
		if ef.deleted {
			err = b.Delete(key)
		} else {
			err = b.Put(key, ef.value, ef.expireAt)
		}
		if err != nil {
			return nil, fmt.Errorf("encode an effect: %w", err)
		}
	}
	return append([]byte(nil), b.Bytes()...), nil
}
