package bitcask

import (
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
	if s.full.Load() {
		if err := s.mergeOnFullDisk(s.ctx, 10); err != nil {
			return err
		}
	}
	if err := s.buildHints(); err != nil {
		return err
	}
	for s.ctx.Err() == nil && s.poison.Load() == nil {
		var inputs []*segment
		if s.opts.Merge.Window.contains(s.opts.Now()) {
			inputs = s.pickMerge()
		}
		if len(inputs) == 0 {
			return s.keepReserve()
		}
		if err := s.mergeSegments(s.ctx, inputs); err != nil {
			return err
		}
	}
	return nil
}

// buildHints makes the missing hints of sealed, committed segments.
func (s *Store) buildHints() error {
	s.merging.Lock() // one writer of a hint; nothing is adopted or merged away meanwhile
	defer s.merging.Unlock()
	var damage error
	for _, seg := range sortedSegments(s.liveSegments()) {
		if seg.hinted.Load() || seg.damaged.Load() || !s.committed(seg) {
			continue
		}
		if err := s.writable(); err != nil {
			return err
		}
		// Faster than merges: without its hint a segment is read as a whole at the next opening, and is not merged.
		budget := pace{bytesPerSecond: 4 * s.opts.Merge.BytesPerSecond, began: time.Now()}
		err := s.buildHintPaced(s.path, seg, func(n int64) error { return budget.spend(s.ctx, n) })
		switch {
		case errors.Is(err, ErrCorrupt):
			seg.damaged.Store(true) // reported once; the others get theirs
			damage = errors.Join(damage, err)
		case err != nil:
			return s.failWrite(fmt.Errorf("write a hint: %w", err))
		}
	}
	return damage
}

// committed tells whether seg is sealed and all of it is committed.
func (s *Store) committed(seg *segment) bool {
	active := s.activeID()
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	return seg.id != active && (seg.kind == mergedSegment || seg.last <= s.committer.point.Load().index)
}

func (s *Store) activeID() uint32 {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	return s.disk.manifest.Active
}

// mergeable tells whether seg may be rewritten: sealed, hinted (so committed),
// and not needed as log any more.
func (s *Store) mergeable(seg *segment, active uint32) bool {
	if seg.id == active || !seg.hinted.Load() || seg.damaged.Load() {
		return false
	}
	return seg.kind == mergedSegment || !s.opts.Replicated || seg.last <= s.log.forgotten.Load()
}

// pickMerge chooses the inputs of the next background merge, none if no segment passes a
// trigger. Their live records fit one output segment, and the output is
// smaller than they are: a segment that cannot shrink is not picked.
func (s *Store) pickMerge() []*segment {
	policy, active := &s.opts.Merge, s.activeID()
	var candidates []*segment
	triggered, small := false, 0
	for _, seg := range sortedSegments(s.liveSegments()) {
		if !s.mergeable(seg, active) {
			continue
		}
		size, dead := seg.size.Load()-segmentHeaderBytes, seg.deadBytes()+s.droppableTombstones(seg)
		percent := int(dead * 100 / max(1, size))
		isSmall := size < policy.SmallFileBytes
		if isSmall {
			small++
		}
		if percent >= policy.FragmentationTrigger || dead >= policy.DeadBytesTrigger {
			triggered = true
		}
		if isSmall || percent >= policy.FragmentationThreshold || dead >= policy.DeadBytesThreshold {
			candidates = append(candidates, seg)
		}
	}
	if !triggered && small < 4 {
		return nil
	}
	slices.SortStableFunc(candidates, func(a, b *segment) int { // emptiest first
		return int(min(1, max(-1, a.liveBytes.Load()-b.liveBytes.Load())))
	})
	var live int64
	for i, seg := range candidates {
		live += seg.size.Load() - segmentHeaderBytes - seg.deadBytes()
		if i > 0 && live > s.opts.SegmentBytes {
			candidates = candidates[:i]
			break
		}
	}
	if len(candidates) == 1 && candidates[0].deadBytes()+s.droppableTombstones(candidates[0]) == 0 {
		return nil
	}
	return candidates
}

// mergeHaste is 1 while there is not much to merge, and up to maxMergeHaste when dead bytes come in faster: a limit that
// lets the disk fill up would be none. So much faster than Merge.BytesPerSecond a merge may be, and so much more it writes
// between two syncs, which on a slow disk would hold it up more than the limit does.
func (s *Store) mergeHaste() int64 {
	active := s.activeID()
	var live, dead int64
	for _, seg := range s.liveSegments() {
		live += seg.liveBytes.Load()
		if s.mergeable(seg, active) {
			dead += seg.deadBytes()
		}
	}
	// One segment of garbage is no reason to hurry, however little is alive.
	debt := float64(dead) / float64(max(live, s.opts.SegmentBytes))
	return int64(min(max(1, 1+(maxMergeHaste-1)*2*(debt-0.75)), maxMergeHaste))
}

// maxMergeHaste is reached when five quarters as much is dead as is alive; haste begins at three quarters, as it costs the
// foreground: a store under uniform overwrites stays below that if its merges keep up.
const maxMergeHaste = 8

// droppableTombstones are those of a segment older than all others: nothing is
// left that they could shadow.
func (s *Store) droppableTombstones(seg *segment) int64 {
	active := s.activeID() // all in it is newer
	for _, other := range s.liveSegments() {
		if other != seg && other.id != active && other.first != 0 && other.first < seg.last {
			return 0
		}
	}
	return seg.tombstoneBytes.Load()
}

// Merge rewrites every sealed segment that holds dead bytes, whatever the policy.
// It seals the active segment first. Readers and writers go on meanwhile. On a full
// disk it works in the room of the reserve, and writes are refused meanwhile.
func (s *Store) Merge(ctx context.Context) error {
	return s.inForeground(ctx, func(ctx context.Context) error {
		err := s.mergeAll(ctx)
		if errors.Is(err, ErrNoSpace) {
			err = s.mergeOnFullDisk(ctx, 0)
		}
		if err != nil {
			return err
		}
		return s.keepReserve()
	})
}

func (s *Store) mergeAll(ctx context.Context) error {
	s.appender.mu.Lock()
	err := s.writable()
	if err == nil && s.appender.active.size.Load() > segmentHeaderBytes {
		err = s.rotate()
	}
	s.appender.mu.Unlock()
	if err != nil {
		return err
	}
	if err := s.buildHints(); err != nil {
		return err
	}
	for _, inputs := range s.mergePlan() {
		if err := s.mergeSegments(ctx, inputs); err != nil {
			return err
		}
	}
	return nil
}

// mergePlan groups all segments that hold anything dead, so that the live records
// of a group fit one segment.
func (s *Store) mergePlan() [][]*segment {
	var plan [][]*segment
	var group []*segment
	var live int64
	active := s.activeID()
	for _, seg := range sortedSegments(s.liveSegments()) {
		if !s.mergeable(seg, active) || seg.deadBytes()+seg.tombstoneBytes.Load() == 0 {
			continue
		}
		size := seg.size.Load() - segmentHeaderBytes - seg.deadBytes()
		if len(group) > 0 && live+size > s.opts.SegmentBytes {
			plan, group, live = append(plan, group), nil, 0
		}
		group, live = append(group, seg), live+size
	}
	if len(group) > 0 {
		plan = append(plan, group)
	}
	return plan
}
