package bitcask

import (
	"fmt"
	"slices"
	"sort"
)

// TruncateAfter drops the uncommitted entries above index: Raft found that another
// leader's entries take their place. The drop is durable on return, so that
// no dropped entry can be found again behind its successor.
func (s *Store) TruncateAfter(index uint64) error {
	s.foreground.RLock() // Close waits until the dropped files are gone
	defer s.foreground.RUnlock()
	dropped, err := s.truncateAfter(index)
	if len(dropped) > 0 {
		s.retire(dropped)
	}
	return err
}

// truncateAfter returns the segments that were dropped, to be retired.
func (s *Store) truncateAfter(index uint64) (dropped []*segment, err error) {
	s.appender.mu.Lock()
	defer s.appender.mu.Unlock()
	s.committer.mu.Lock()
	defer s.committer.mu.Unlock()
	if err := s.writable(); err != nil {
		return nil, err
	}
	if applied, _ := s.Applied(); index < applied {
		return nil, fmt.Errorf("bitcask: truncate after %d: entries up to %d are committed", index, applied)
	}
	seg, at, ok := s.frameAfter(index)
	if !ok {
		return nil, nil // nothing above index
	}
	if dropped, err = s.cutLog(seg, at, index); err != nil {
		return nil, fmt.Errorf("truncate after %d: %w", index, err)
	}
	return dropped, nil
}

// frameAfter finds the first entry above index.
func (s *Store) frameAfter(index uint64) (*segment, place, bool) {
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	l := &s.log
	if l.first == 0 || index >= l.last {
		return nil, place{}, false
	}
	next := max(index+1, l.first)
	n := sort.Search(len(l.places), func(i int) bool { return l.places[i].first > next }) - 1
	sp := &l.places[n]
	return sp.segment, sp.places[next-sp.first], true
}

// cutLog ends the log at a frame of seg, that after index, and begins a new active segment. No file is
// shortened: a truncation that a crash halves leaves some of the old bytes, and
// frames among them would promise that what is missing had been synced. The
// manifest's size says where seg ends, and drops the later segments.
func (s *Store) cutLog(seg *segment, at place, index uint64) (dropped []*segment, err error) {
	a := &s.appender
	end := int64(at.offset) * frameAlign
	next, err := createSegment(s.fs, s.path, s.newSegmentID(), logSegment, s.storeID())
	if err != nil {
		return nil, s.failWrite(err)
	}
	sealed := describe(seg)
	sealed.Size, sealed.Last = end, s.lastBefore(seg, at)
	active := segmentMeta{ID: next.id, UID: next.uid, Kind: logSegment, Synced: segmentHeaderBytes}
	var kept []segmentMeta
	var gone []uint32
	err = s.edit(func(m *manifest) {
		for _, sm := range m.Segments {
			switch {
			case sm.ID == seg.id && end > segmentHeaderBytes:
				kept = append(kept, sealed)
			case sm.ID == seg.id:
			case sm.Kind == mergedSegment || (sm.Last > 0 && sm.Last <= sealed.Last):
				kept = append(kept, sm)
				continue
			default:
				gone = append(gone, sm.ID)
				continue
			}
			if sm.ID == seg.id && end <= segmentHeaderBytes {
				gone = append(gone, sm.ID)
			}
		}
		m.Segments = append(slices.Clone(kept), active)
		m.Active = next.id
	})
	if err != nil {
		next.retired.Store(s.poison.Load() == nil)
		next.release(s.fs, s.path)
		return nil, err
	}
	// Gives the preallocated rest back. A reader that has found a dropped entry can still read it.
	_ = a.active.file.Truncate(a.active.size.Load())
	dropped = s.dropSegments(gone, next)
	s.dropAbove(index, seg, end)
	a.begin(next)
	s.mapActive()
	return dropped, nil
}

// lastBefore is the index of the entry before the one at a place of seg.
func (s *Store) lastBefore(seg *segment, at place) uint64 {
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	for _, sp := range s.log.places {
		if sp.segment != seg {
			continue
		}
		for i := range sp.places {
			if sp.places[i] == at {
				return sp.first + uint64(i) - 1
			}
		}
	}
	return 0
}

// dropSegments takes exactly the segments that the manifest dropped out of the live set, and puts next in. What a
// merge that is being installed has put in or will take out is none of its business.
func (s *Store) dropSegments(gone []uint32, next *segment) (dropped []*segment) {
	s.setSegments(func(set map[uint32]*segment) {
		for _, id := range gone {
			if seg := set[id]; seg != nil {
				dropped = append(dropped, seg)
				delete(set, id)
			}
		}
		set[next.id] = next
	})
	return dropped
}

// dropAbove forgets the dropped entries in memory: cut ends at end now. That is one step: a segment that looks committed as far as
// it goes may be merged, and must not go farther; nor may an entry behind its end be looked up.
func (s *Store) dropAbove(index uint64, cut *segment, end int64) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	l := &s.log
	cut.size.Store(end)
	l.generation.Add(1)
	for n := len(l.places) - 1; n >= 0 && l.places[n].first+uint64(len(l.places[n].places)) > index+1; n-- {
		sp := &l.places[n]
		seg := sp.segment
		if sp.first > index {
			l.places = l.places[:n]
		} else {
			sp.places = sp.places[:index+1-sp.first]
		}
		if seg.first > index {
			seg.first, seg.last = 0, 0
		} else { // entries that were forgotten have no places, but are there
			seg.last = index
		}
	}
	l.last = index
	if index < l.first {
		l.first = 0
	}
	s.committer.dropAbove(index)
}

func (c *committer) dropAbove(index uint64) {
	c.queue.Lock()
	defer c.queue.Unlock()
	for n := len(c.pending); n > 0 && c.pending[n-1].index > index; n-- {
		c.pending = c.pending[:n-1]
	}
}
