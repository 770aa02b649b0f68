package bitcask

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// nudge wakes the background goroutine; it looks for itself what there is to do.
func (s *Store) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// maintain writes hints for sealed segments and merges, one thing at a time.
func (s *Store) maintain() {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		case <-retry.C:
		}
		if err := s.maintainOnce(); err != nil && s.ctx.Err() == nil {
			s.logger.Error("background maintenance failed", "dir", s.path, "error", err)
		}
		retry.Reset(time.Minute) // expiry, pins and the time of day change without a nudge
	}
}

func (s *Store) maintainOnce() error {
	var leftOut, noReserve error
	if s.full.Load() {
		var err error
		if leftOut, err = s.mergeOnFullDisk(s.ctx, 10); err != nil {
			return errors.Join(leftOut, err)
		}
	}
	for s.ctx.Err() == nil && s.poison.Load() == nil {
		more, err := s.maintainNext()
		switch {
		case isLeftOut(err):
			leftOut = errors.Join(leftOut, err)
		case err != nil:
			return errors.Join(leftOut, err)
		}
		noReserve = s.keepReserve() // each time: under load there is always more
		if !more {
			break
		}
	}
	return errors.Join(leftOut, noReserve)
}

// maintainNext makes one hint or does one merge, and tells whether there was anything to do. Hints come first, for the next
// opening is waiting for them; but not while merges cannot keep up: what is mostly dead will need none.
func (s *Store) maintainNext() (more bool, err error) {
	steps := []func() (bool, error){s.hintNext, s.mergeNext}
	if s.mergeHaste() > 1 {
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if more, err := step(); more || err != nil {
			return more, err
		}
	}
	return false, nil
}

func (s *Store) mergeNext() (more bool, err error) {
	if !s.opts.Merge.Window.contains(s.opts.Now()) {
		return false, nil
	}
	inputs := s.pickMerge()
	if len(inputs) == 0 {
		return false, nil
	}
	err = s.mergeSegments(s.ctx, inputs)
	s.endStall()
	return true, err
}

// buildHints makes the missing hints of segments that are sealed and committed by now. What cannot be read gets none, and is
// reported at the end.
func (s *Store) buildHints(ctx context.Context) error {
	var leftOut error
	for _, seg := range sortedSegments(s.liveSegments()) {
		if _, err := s.hintFor(ctx, seg); isLeftOut(err) {
			leftOut = errors.Join(leftOut, err)
		} else if err != nil {
			return errors.Join(leftOut, err)
		}
	}
	return leftOut
}

// hintNext makes the oldest missing hint.
func (s *Store) hintNext() (made bool, err error) {
	for _, seg := range sortedSegments(s.liveSegments()) {
		if made, err := s.hintFor(s.ctx, seg); made || err != nil {
			return made, err
		}
	}
	return false, nil
}

// hintFor makes the hint of a segment that needs one. One that cannot be read is reported, and left out.
func (s *Store) hintFor(ctx context.Context, seg *segment) (made bool, err error) {
	if seg.hinted.Load() || seg.leftOut() || !s.committed(seg) {
		return false, nil
	}
	s.merging.Lock() // one writer of a hint; nothing is adopted or merged away meanwhile
	defer s.merging.Unlock()
	if seg.hinted.Load() || s.liveSegments()[seg.id] != seg {
		return false, nil
	}
	if err := s.writable(); err != nil {
		return false, err
	}
	budget := newPace(s.hintRate)
	err = seg.leaveOut(s.buildHintPaced(s.path, seg, func(n int64) error { return budget.spend(ctx, n) }))
	switch {
	case isLeftOut(err):
		return true, err
	case err != nil:
		return false, s.failWrite(fmt.Errorf("write a hint: %w", err))
	}
	return true, nil
}

// committed tells whether seg is sealed and all of it is committed.
func (s *Store) committed(seg *segment) bool {
	active := s.activeID()
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	return seg.id != active && s.committedLocked(seg)
}

// committedLocked is for a sealed segment, and the holder of log.mu.
func (s *Store) committedLocked(seg *segment) bool {
	return seg.kind == mergedSegment || seg.last <= s.committer.point.Load().index
}

func (s *Store) activeID() uint32 {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	return s.disk.manifest.Active
}

// mergeables are the segments that may be rewritten, oldest first: sealed, committed, and not needed as log any more.
func (s *Store) mergeables() []*segment {
	segments := sortedSegments(s.liveSegments())
	active := s.activeID() // afterwards: a segment that is not in the set yet cannot be taken for a sealed one
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	return slices.DeleteFunc(segments, func(seg *segment) bool { return !s.mergeableLocked(seg, active) })
}

// mergeableLocked is for the holder of log.mu.
func (s *Store) mergeableLocked(seg *segment, active uint32) bool {
	return seg.id != active && !seg.leftOut() && s.committedLocked(seg) &&
		(seg.kind == mergedSegment || !s.opts.Replicated || seg.last <= s.log.forgotten.Load())
}

// pickMerge chooses the inputs of the next background merge, none if no segment passes a
// trigger. Their live records fit one output segment, and the output is
// smaller than they are: a segment that cannot shrink is not picked.
func (s *Store) pickMerge() []*segment {
	policy, o := &s.opts.Merge, s.occupancy()
	target := s.segmentTarget(o)
	smallBytes := min(policy.SmallFileBytes, target/4) // four fit one output, which is not small for ever
	triggered, threshold := false, policy.FragmentationThreshold
	if s.debt(o) >= 1 {
		triggered, threshold = true, min(threshold, int(100*o.due/o.mergeable)) // no fewer than the average: there are such segments
	}
	var candidates, small []mergeCandidate
	for _, seg := range s.mergeables() {
		c := mergeCandidate{seg, seg.size.Load() - segmentHeaderBytes, seg.deadBytes() + s.droppableTombstones(seg)}
		if c.percent() >= policy.FragmentationTrigger || c.dead >= policy.DeadBytesTrigger {
			triggered = true
		}
		switch {
		case c.size < smallBytes:
			small = append(small, c)
		case c.percent() >= threshold || c.dead >= policy.DeadBytesThreshold:
			candidates = append(candidates, c)
		}
	}
	if !triggered {
		if len(small) < 4 {
			return nil
		}
		candidates = nil
	}
	slices.SortStableFunc(candidates, func(a, b mergeCandidate) int { return cmp.Compare(b.deadShare(), a.deadShare()) }) // emptiest first
	slices.SortStableFunc(small, func(a, b mergeCandidate) int { return cmp.Compare(a.size-a.dead, b.size-b.dead) })
	var inputs []*segment
	var left, dead int64
	for _, c := range append(candidates, small...) {
		if len(inputs) > 0 && left+c.size-c.dead > target {
			continue
		}
		left += c.size - c.dead
		dead += c.dead
		inputs = append(inputs, c.segment)
	}
	if len(inputs) == 1 && dead == 0 {
		return nil
	}
	return inputs
}

type mergeCandidate struct {
	*segment
	size, dead int64
}

func (c *mergeCandidate) deadShare() float64 { return float64(c.dead) / float64(max(1, c.size)) }
func (c *mergeCandidate) percent() int       { return int(c.dead * 100 / max(1, c.size)) }

// droppableTombstones are those of a segment older than all others: nothing is
// left that they could shadow.
func (s *Store) droppableTombstones(seg *segment) int64 {
	segments := s.liveSegments()
	active := s.activeID() // all in it is newer
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	for _, other := range segments {
		if other != seg && other.id != active && other.first < seg.last {
			return 0
		}
	}
	return seg.tombstoneBytes.Load()
}

// Merge rewrites every sealed segment that holds dead bytes, whatever the policy.
// It seals the active segment first. Readers and writers go on meanwhile. On a full
// disk it works in the room of the reserve, and writes are refused meanwhile. A segment
// that cannot be read stays as it is: the error names it when the others are merged.
func (s *Store) Merge(ctx context.Context) error {
	return s.inForeground(ctx, func(ctx context.Context) error {
		for _, seg := range s.liveSegments() {
			seg.tryAgain.Store(nil) // now, for that is what the caller asks for
		}
		leftOut, err := s.mergeAll(ctx)
		if errors.Is(err, ErrNoSpace) {
			var more error
			more, err = s.mergeOnFullDisk(ctx, 0)
			leftOut = errors.Join(leftOut, more)
		}
		if err == nil {
			err = s.keepReserve()
		}
		return errors.Join(leftOut, err)
	})
}

// mergeAll returns what it had to leave out, and what it could not go on after.
func (s *Store) mergeAll(ctx context.Context) (leftOut, err error) {
	s.appender.mu.Lock()
	err = s.writable()
	if err == nil && s.appender.active.size.Load() > segmentHeaderBytes {
		err = s.rotate()
	}
	s.appender.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, inputs := range s.mergePlan() {
		unread, err := s.mergeReadable(ctx, inputs)
		leftOut = errors.Join(leftOut, unread)
		if err != nil {
			return leftOut, err
		}
	}
	return leftOut, s.buildHints(ctx) // of what was not merged
}

// mergeReadable merges inputs without those that prove to be unreadable.
func (s *Store) mergeReadable(ctx context.Context, inputs []*segment) (leftOut, err error) {
	for len(inputs) > 0 {
		err := s.mergeSegments(ctx, inputs)
		if !isLeftOut(err) {
			return leftOut, err
		}
		leftOut = errors.Join(leftOut, err)
		inputs = slices.DeleteFunc(inputs, (*segment).leftOut)
	}
	return leftOut, nil
}

// mergePlan groups all segments that hold anything dead, so that the live records
// of a group fit one segment.
func (s *Store) mergePlan() [][]*segment {
	var plan [][]*segment
	var group []*segment
	var live int64
	target := s.segmentTarget(s.occupancy())
	for _, seg := range s.mergeables() {
		if seg.deadBytes()+seg.tombstoneBytes.Load() == 0 {
			continue
		}
		size := seg.size.Load() - segmentHeaderBytes - seg.deadBytes()
		if len(group) > 0 && live+size > target {
			plan, group, live = append(plan, group), nil, 0
		}
		group, live = append(group, seg), live+size
	}
	if len(group) > 0 {
		plan = append(plan, group)
	}
	return plan
}
