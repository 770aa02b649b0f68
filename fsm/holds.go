package fsm

import (
	"sync"
	"time"
)

const (
	// holdGrace is how long the log behind a snapshot is kept after it was sent, or for as long as sending it took if
	// that is more. The receiver fetches the entries that were written meanwhile then.
	holdGrace = 15 * time.Second
	// minHoldBytes of log are kept for a receiver, or as much as its snapshot has if that is more.
	minHoldBytes = 1 << 30
)

// holds knows which log entries must not be dropped, because a follower that is receiving a snapshot needs them next.
// Without it a snapshot that takes longer to send than the log needs to move on is followed by another one, for ever
// (consul#9609).
type holds struct {
	now func() time.Time

	mu   sync.Mutex
	held map[*hold]struct{}
}

// hold keeps the entries behind one snapshot that is being sent.
type hold struct {
	owner *holds
	index uint64 // of the snapshot
	bytes int64  // of log that may be kept for it
	since time.Time
	until time.Time // zero while it is being sent
}

func newHolds() *holds { return &holds{now: time.Now, held: map[*hold]struct{}{}} }

// take begins to keep what is behind index.
func (h *holds) take(index uint64, size int64) *hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := &hold{owner: h, index: index, bytes: max(size, minHoldBytes), since: h.now()}
	h.held[k] = struct{}{}
	return k
}

// release ends the sending.
func (k *hold) release() {
	k.owner.mu.Lock()
	defer k.owner.mu.Unlock()
	now := k.owner.now()
	k.until = now.Add(max(holdGrace, now.Sub(k.since)))
}

// limit is the last entry that may be dropped of a log that has logBytes. A receiver that is too slow loses its hold: it
// must not fill the leader's disk.
func (h *holds) limit(last uint64, logBytes int64) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	for k := range h.held {
		if logBytes > k.bytes || !k.until.IsZero() && now.After(k.until) {
			delete(h.held, k)
			continue
		}
		last = min(last, k.index)
	}
	return last
}
