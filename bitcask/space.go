package bitcask

import "time"

// Three things keep a store near the space that its live records take, each for when those before it are not enough. While much
// is dead, segments are small against what is alive, so that what cannot be merged yet is little. From Merge.SpaceTrigger on the
// emptiest segments are merged though none passes a trigger of its own, and merges hurry. At last writers wait
// for them (write stall).

// occupancy is what the segments hold, in bytes.
type occupancy struct {
	live, dead int64 // records, about
	// mergeable is how large the segments are that merges may take now: not the active one, nor a log that is still needed. due is
	// what a merge leaves out of them: dead records, and what frames add to the records of a log, which for small values
	// is more than the records themselves. dueRecords is due without that.
	mergeable, due, dueRecords int64
}

// entryOverhead is what an entry of a log adds to its records, about.
const entryOverhead = frameHeaderBytes + batchHeaderBytes + frameAlign/2

// occupancy is cheap: some nanoseconds for each segment.
func (s *Store) occupancy() occupancy {
	segments := s.liveSegments() // before the id of the active one: a segment that is not in the set yet cannot be taken for a sealed one
	return s.occupancyOf(segments, s.activeID())
}

func (s *Store) occupancyOf(segments map[uint32]*segment, active uint32) (o occupancy) {
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	for _, seg := range segments {
		o.live += seg.liveBytes.Load()
		if seg.installing.Load() {
			continue // what is dead in it is about to go, or is going to be alive
		}
		dead := seg.deadBytes()
		records := dead
		if seg.kind == logSegment && seg.first > 0 {
			last := seg.last
			if seg.id == active {
				last = s.lastLocked()
			}
			records = max(0, dead-int64(last-seg.first+1)*entryOverhead)
		}
		o.dead += records
		if s.mergeableLocked(seg, active) {
			o.mergeable += seg.size.Load()
			o.due += dead
			o.dueRecords += records
		}
	}
	return o
}

const (
	// segmentsOfLive is into how many segments the live records are divided, at least, while much is dead. The space that a
	// merge takes and what is dead in the active segment are parts of one of them.
	segmentsOfLive = 8
	// smallestShare of SegmentBytes is the smallest segment: smaller ones cost more files and syncs than they save space.
	smallestShare = 16
	smallestBytes = 4 << 10 // beside the header
)

// segmentTarget is how large segments should be while much is dead, and merges go on.
func (s *Store) segmentTarget(o occupancy) int64 {
	limit := s.opts.SegmentBytes
	if s.opts.Merge.Disabled {
		return limit
	}
	return min(limit, max(o.live/segmentsOfLive, limit/smallestShare, smallestBytes))
}

// debt is how much is due, as a multiple of Merge.SpaceTrigger.
func (s *Store) debt(o occupancy) float64 { return s.ofTrigger(o, o.due) }

func (s *Store) ofTrigger(o occupancy, due int64) float64 {
	whole := max(o.live, s.opts.SegmentBytes) // one segment of garbage is not much, however little is alive
	return 100 * float64(due) / float64(whole) / float64(s.opts.Merge.SpaceTrigger)
}

const (
	// stallFrom is the debt from which on writers wait. Merges begin to hurry at 1, and are as fast as they may be here.
	stallFrom = 1.1
	// maxMergeHaste is how many times faster than Merge.BytesPerSecond they may be.
	maxMergeHaste = 64
	// hintHaste is how many times faster hints are made at least.
	hintHaste = 32
	// stallSlope is how many times as long as the fastest merge takes to read them writers wait for the bytes that they wrote, for
	// each unit of debt above stallFrom.
	stallSlope = 12
	// minStall is not worth a timer.
	minStall = 2 * time.Millisecond
	// maxStall at a time: more would look like a hang.
	maxStall = time.Second
	// looksPerSegment is how often the occupancy is looked at while a segment fills up.
	looksPerSegment = 256
)

// mergeHaste is 1 up to the trigger, and up to maxMergeHaste when dead bytes come in faster: a limit that lets the disk fill up
// would be none.
func (s *Store) mergeHaste() float64 {
	over := (s.debt(s.occupancy()) - 1) / (stallFrom - 1)
	return 1 + (maxMergeHaste-1)*min(max(0, over), 1)
}

// mergeRate is how many bytes merges may read in a second.
func (s *Store) mergeRate() float64 { return s.mergeHaste() * float64(s.opts.Merge.BytesPerSecond) }

// hintRate is what may be read to make hints: each segment once, and the next opening reads as a whole what has none.
func (s *Store) hintRate() float64 {
	return max(hintHaste, s.mergeHaste()) * float64(s.opts.Merge.BytesPerSecond)
}

// spaceWatch is what comes of looking at the occupancy as the active segment grows. appender.mu guards it, but for stall.
type spaceWatch struct {
	sealAt int64         // size at which the active segment is sealed
	owed   time.Duration // that writers did not wait yet
	stall  stall
}

// sealsBefore tells whether the active segment must be sealed before so many bytes are written at an offset of it.
func (s *Store) sealsBefore(at, bytes int64) bool {
	return at+bytes > s.space.sealAt && at > segmentHeaderBytes
}

// watchSpace looks at the occupancy now and then. appender.mu is held.
func (s *Store) watchSpace() {
	w, a := &s.space, &s.appender
	size := a.active.size.Load()
	written := size - a.watched
	if written < s.opts.SegmentBytes/looksPerSegment {
		return
	}
	a.watched = size
	o := s.occupancyOf(s.liveSegments(), a.active.id) // the lock of the disk is held while a manifest is written
	w.sealAt = s.opts.SegmentBytes
	if 4*o.dead >= o.live {
		w.sealAt = s.segmentTarget(o)
	}
	over := s.stallDebt(o)
	if over <= 0 || !s.stalls() {
		w.owed = 0
		return
	}
	fastest := maxMergeHaste * float64(s.opts.Merge.BytesPerSecond)
	w.owed += time.Duration(min(over, 2) * stallSlope * float64(written) / fastest * float64(time.Second))
	if w.owed >= minStall {
		w.stall.begin(min(w.owed, maxStall))
		w.owed = 0
	}
}

// stalls tells whether waiting helps: whether merges go on. A replicated store does not wait here, where consensus would wait
// with it.
func (s *Store) stalls() bool {
	return !s.opts.Replicated && !s.opts.Merge.Disabled && s.opts.Merge.Window.contains(s.opts.Now())
}

// endStall lets writers go on when a merge has freed enough.
func (s *Store) endStall() {
	if s.stallDebt(s.occupancy()) <= 0 {
		s.space.stall.end()
	}
}

// stallDebt is the debt beyond stallFrom. Nobody waits because of what the frames of new records take: half of the debt is
// dead records at least.
func (s *Store) stallDebt(o occupancy) float64 {
	return min(s.debt(o), 2*s.ofTrigger(o, o.dueRecords)) - stallFrom
}
