package bitcask

import (
	"math"
	"sync/atomic"
	"time"
)

// Stats describes a store at one moment.
type Stats struct {
	Keys           int   // expired ones that were not removed yet included
	Expiring       int   // those of them with a time to live
	Segments       int   // live files
	DiskBytes      int64 // live segments, hints and preallocated space not counted
	LiveBytes      int64 // records that the keydir points at
	DeadBytes      int64 // what merges can reclaim
	TombstoneBytes int64 // deletes that must be kept for now
	PinnedBytes    int64 // segments kept only by saved checkpoints
	KeydirBytes    int64 // memory of the keydir, outside the garbage-collected heap
	LogBytes       int64 // log entries that were not forgotten
	LogEntries     uint64
	LogFirst       uint64 // the first of them, 0 when there is none
	AppliedIndex   uint64
	Pending        int // entries appended and not committed
	Merges         uint64
	MergedBytes    int64 // written by merges
	// WriteStalls is how long writers were held up in all, because dead bytes came faster than merges could go.
	WriteStalls time.Duration
	Syncs       SyncHistogram
	Poisoned    bool
	DiskFull    bool
	Scrub       ScrubStats
}

// SyncBuckets are the upper bounds of SyncHistogram, in seconds.
var SyncBuckets = [...]float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 10}

// SyncHistogram counts how long syncs of the log took.
type SyncHistogram struct {
	Count   uint64
	Seconds float64
	Buckets [len(SyncBuckets)]uint64 // not cumulative; slower ones are only in Count
}

type syncStats struct {
	count   atomic.Uint64
	nanos   atomic.Int64
	buckets [len(SyncBuckets)]atomic.Uint64

	merges      atomic.Uint64
	mergedBytes atomic.Int64
}

func (h *syncStats) observe(d time.Duration) {
	h.count.Add(1)
	h.nanos.Add(int64(d))
	for i, bound := range SyncBuckets {
		if d.Seconds() <= bound {
			h.buckets[i].Add(1)
			return
		}
	}
}

func (h *syncStats) snapshot() SyncHistogram {
	out := SyncHistogram{Count: h.count.Load(), Seconds: math.Max(0, time.Duration(h.nanos.Load()).Seconds())}
	for i := range h.buckets {
		out.Buckets[i] = h.buckets[i].Load()
	}
	return out
}

// Stats are cheap: no disk is touched.
func (s *Store) Stats() Stats {
	st := Stats{
		Syncs: s.syncs.snapshot(), Merges: s.syncs.merges.Load(), MergedBytes: s.syncs.mergedBytes.Load(),
		WriteStalls: time.Duration(s.space.stall.total.Load()),
		Poisoned:    s.poison.Load() != nil, DiskFull: s.full.Load(), AppliedIndex: s.committer.point.Load().index,
	}
	s.committer.queue.Lock()
	st.Pending = len(s.committer.pending)
	s.committer.queue.Unlock()
	s.disk.mu.Lock()
	for id, seg := range s.disk.pinned {
		if s.liveSegments()[id] == nil {
			st.PinnedBytes += seg.size.Load()
		}
	}
	s.disk.mu.Unlock()
	s.visible.RLock()
	keys, open := s.visible.keys, s.visible.segments != nil
	for _, seg := range s.visible.segments {
		st.Segments++
		st.DiskBytes += seg.size.Load()
		st.LiveBytes += seg.liveBytes.Load()
		st.TombstoneBytes += seg.tombstoneBytes.Load()
		st.DeadBytes += seg.deadBytes()
	}
	s.visible.RUnlock()
	if open {
		st.Keys, st.Expiring, st.KeydirBytes = keys.Len(), keys.Expiring(), keys.Bytes()
	}
	st.LogBytes, st.LogEntries, st.LogFirst = s.logSize()
	st.Scrub = s.scrub.snapshot()
	return st
}

func (s *Store) logSize() (bytes int64, entries, first uint64) {
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	l := &s.log
	if l.first == 0 {
		return 0, 0, 0
	}
	for i := range l.places {
		sp := &l.places[i]
		from := sp.places[0].offset
		if l.first > sp.first {
			from = sp.places[l.first-sp.first].offset
		}
		bytes += sp.segment.size.Load() - int64(from)*frameAlign
	}
	return bytes, s.lastLocked() - l.first + 1, l.first
}
