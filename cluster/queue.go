package cluster

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// requestQueue holds the requests that wait for the proposer, bounded in bytes, and knows all that are not
// complete, oldest first, so that each ends in time.
type requestQueue struct {
	limit int64
	bytes atomic.Int64 // of requests that are not evaluated completely

	mu          sync.Mutex
	closed      bool
	head, tail  *request // waiting, linked by queued
	first, last *request // outstanding, linked by next
}

// add queues a request.
func (q *requestQueue) add(r *request) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return fmt.Errorf("%w: the node is closing", ErrNotLeader)
	}
	if waiting := q.bytes.Load(); waiting > 0 && waiting+r.bytes > q.limit {
		return fmt.Errorf("%w: %d KiB of writes are waiting already", ErrOverloaded, waiting>>10)
	}
	q.bytes.Add(r.bytes)
	if q.tail == nil {
		q.head = r
	} else {
		q.tail.queued = r
	}
	q.tail = r
	r.prev, r.next, r.listed = q.last, nil, true
	if q.last == nil {
		q.first = r
	} else {
		q.last.next = r
	}
	q.last = r
	return nil
}

// take returns everything that waits, linked by queued. The taker calls left for each that it is done with.
func (q *requestQueue) take() *request {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.head
	q.head, q.tail = nil, nil
	return r
}

// left takes a request's bytes off the bound.
func (q *requestQueue) left(r *request) { q.bytes.Add(-r.bytes) }

// empty tells that nothing waits.
func (q *requestQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.head == nil
}

// finish wakes the callers of complete requests. They come off the list first: a caller may use its request
// again at once.
func (q *requestQueue) finish(rs ...*request) {
	q.forget(rs...)
	for _, r := range rs {
		r.done <- struct{}{} // has room: a request completes once
	}
}

// forget takes complete requests off the list of outstanding ones.
func (q *requestQueue) forget(rs ...*request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range rs {
		if !r.listed {
			continue
		}
		if r.prev == nil {
			q.first = r.next
		} else {
			r.prev.next = r.next
		}
		if r.next == nil {
			q.last = r.prev
		} else {
			r.next.prev = r.prev
		}
		r.prev, r.next, r.listed = nil, nil, false
	}
}

// outstanding lists the requests whose deadline is before a time, or all for the zero time. They may be
// complete by the time the caller looks, but not in use by another call.
func (q *requestQueue) outstanding(before time.Time) []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	var rs []*request
	for r := q.first; r != nil; r = r.next { // a later request may end sooner: large ones have more time
		if before.IsZero() || r.deadline.Before(before) {
			r.pinned = true
			rs = append(rs, r)
		}
	}
	return rs
}

// refuseAll ends what is not evaluated: definitely not applied.
func (q *requestQueue) refuseAll(reason error) {
	for _, r := range q.outstanding(time.Time{}) {
		if r.refuse(reason) {
			q.finish(r)
		}
	}
}

// abandonBefore ends requests whose deadline is before a time, or all for the zero time.
func (q *requestQueue) abandonBefore(before time.Time, reason error, unknown string) {
	for _, r := range q.outstanding(before) {
		if r.abandon(reason, unknown) {
			q.finish(r)
		}
	}
}

func (q *requestQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}
