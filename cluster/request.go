package cluster

import (
	"fmt"
	"sync"
	"time"
)

// request is one call of Propose: operations that are evaluated in order, in one entry or in several.
//
// The caller and the proposer share it. mu settles who may touch the caller's memory: the proposer
// evaluates with mu held, and never once closed is set; the caller returns after done, or after it has set
// closed itself.
type request struct {
	n        int
	hint     int // bytes per operation, about
	bytes    int64
	deadline time.Time
	eval     func(tx *Tx, i int)
	done     chan struct{} // capacity 1: every operation has its outcome

	// Neighbors in the list of outstanding requests; guarded by the queue's lock, like pinned: somebody took
	// the request from the list, so it cannot be recycled.
	prev, next *request
	listed     bool
	pinned     bool
	queued     *request // next in the queue; owned like the queue

	mu        sync.Mutex
	evaluated int     // operations evaluated so far
	answered  int     // operations whose entry is answered; entries are answered in order
	end       int     // operations from here on were refused
	errs      []error // nil while all were applied
	closed    bool    // nothing more is evaluated or answered
	shared    bool    // the proposer may know the request still, so it cannot be recycled
}

var requestPool = sync.Pool{New: func() any { return &request{done: make(chan struct{}, 1)} }}

func newRequest(n int, bytes int64, deadline time.Time, eval func(tx *Tx, i int)) *request {
	r, ok := requestPool.Get().(*request)
	if !ok {
		panic("cluster: the pool of requests holds something else")
	}
	r.n, r.end, r.bytes, r.hint, r.deadline, r.eval = n, n, bytes, int(bytes)/n, deadline, eval
	return r
}

// recycle gives a request back that no list and no entry knows.
func (r *request) recycle() {
	r.eval, r.errs = nil, nil
	r.evaluated, r.answered, r.closed = 0, 0, false
	requestPool.Put(r)
}

// evaluate runs operations until the entry is full, and reports whether none is left.
func (r *request) evaluate(tx *Tx, limits *Limits) (complete bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return true
	}
	e := tx.entry
	from := r.evaluated
	for r.evaluated < r.end && !e.full(r.hint, limits) {
		tx.overlay.begin()
		tx.err = nil
		r.eval(tx, r.evaluated)
		if tx.err != nil {
			tx.overlay.rollback(e)
		}
		r.evaluated++
		e.ops++
	}
	if r.evaluated > from {
		e.spans = append(e.spans, span{r, from, r.evaluated})
	}
	return r.evaluated == r.end
}

// answer gives operations [from, to) the outcome of their entry. Like refuse it reports whether the request
// is complete by that; the caller then takes it off the list and sends done, in this order (finish).
func (r *request) answer(from, to int, err error) (complete bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	if err != nil {
		r.setErrs(from, to, err)
	}
	r.answered = to
	return r.completeLocked()
}

func (r *request) completeLocked() bool {
	if r.answered < r.end {
		return false
	}
	r.closed = true
	return true
}

// refuse ends what is not evaluated yet: definitely not applied. What is in flight keeps its outcome.
func (r *request) refuse(reason error) (complete bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.evaluated == r.end {
		return false
	}
	r.setErrs(r.evaluated, r.end, reason)
	r.end, r.shared = r.evaluated, true // it stays in the queue until run comes by
	return r.completeLocked()
}

// abandon ends the request without waiting: what is not evaluated is definitely not applied, what is in
// flight is unknown. It reports false when the request was complete already.
func (r *request) abandon(reason error, unknown string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.closed, r.shared = true, true
	if r.answered < r.evaluated {
		r.setErrs(r.answered, r.evaluated, fmt.Errorf("%w: %s while the write was being replicated", ErrUnknown, unknown))
	}
	if r.evaluated < r.end {
		r.setErrs(r.evaluated, r.end, reason)
	}
	return true
}

func (r *request) setErrs(from, to int, err error) {
	if r.errs == nil {
		r.errs = make([]error, r.n)
	}
	for i := from; i < to; i++ {
		r.errs[i] = err
	}
}

// ended tells that run has nothing to do for the request.
func (r *request) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed || r.evaluated == r.end
}

// maxEntryOps bounds how long the evaluation of one entry can take when the operations have no effects.
const maxEntryOps = 1 << 14

// full tells that an operation of about hint bytes belongs into the next entry. An operation that is larger
// than the limit gets an entry of its own.
func (e *entry) full(hint int, limits *Limits) bool {
	return e.ops > 0 && (e.size+hint > limits.EntryBytes || e.ops >= maxEntryOps)
}
