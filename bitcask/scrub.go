package bitcask

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"slices"
	"sync"
	"time"
)

// ScrubPolicy says how sealed segments are read again in the background. Disks lose bytes that
// nobody reads (Bairavasundaram et al., SIGMETRICS'07: 3 % of disks within 32 months), and most
// are found by scrubs, while another copy still exists.
type ScrubPolicy struct {
	// Disabled turns the background scrub off. Store.Scrub still works.
	Disabled bool
	// BytesPerSecond limits how fast it reads; default 4 MiB/s: 345 GB a day, and at most
	// some percent of what a slow disk can do. More finds damage sooner and takes
	// more from the foreground.
	BytesPerSecond int64
	// Interval from one pass's beginning to the next's; default 24 h. The first begins ten
	// minutes after Open, or after Interval if that is shorter: a store that was just opened has other
	// things to read.
	Interval time.Duration
}

const (
	defaultScrubBytesPerSecond = 4 * mib
	defaultScrubInterval       = 24 * time.Hour
	firstScrubAfter            = 10 * time.Minute
)

func (p *ScrubPolicy) setDefaults() {
	setDefault(&p.BytesPerSecond, int64(defaultScrubBytesPerSecond))
	setDefault(&p.Interval, defaultScrubInterval)
}

// ScrubReport is what one pass found.
type ScrubReport struct {
	Segments int   // that were read
	Bytes    int64 // of them
	Damage   []Damage
	// RebuiltHints are hints that were damaged or missing and were made again.
	RebuiltHints []Damage
}

// ScrubStats sums up the passes since Open.
type ScrubStats struct {
	Passes       uint64
	Bytes        int64
	RebuiltHints uint64
	LastPass     time.Time // the end of the last whole pass, zero for none
	Damage       []Damage  // that is known now; the segments are kept and not merged
}

// scrubState is what Stats shows.
type scrubState struct {
	mu     sync.Mutex
	stats  ScrubStats          // Damage unused
	damage map[uint32][]Damage // by segment
}

func (st *scrubState) snapshot() ScrubStats {
	st.mu.Lock()
	defer st.mu.Unlock()
	out := st.stats
	for _, id := range slices.Sorted(maps.Keys(st.damage)) {
		out.Damage = append(out.Damage, st.damage[id]...)
	}
	return out
}

// note keeps the result for one segment.
func (st *scrubState) note(id uint32, bytes int64, damage []Damage) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.stats.Bytes += bytes
	delete(st.damage, id)
	if len(damage) > 0 {
		if st.damage == nil {
			st.damage = map[uint32][]Damage{}
		}
		st.damage[id] = damage
	}
}

// endPass forgets segments that are gone.
func (st *scrubState) endPass(now time.Time, kept func(id uint32) bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.stats.Passes++
	st.stats.LastPass = now
	maps.DeleteFunc(st.damage, func(id uint32, _ []Damage) bool { return !kept(id) })
}

// scrubEvery runs the background passes.
func (s *Store) scrubEvery() {
	policy := &s.opts.Scrub
	next := time.NewTimer(min(firstScrubAfter, policy.Interval))
	defer next.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-next.C:
		}
		began := time.Now()
		budget := newPace(func() float64 { return float64(policy.BytesPerSecond) })
		_, err := s.scrubPass(s.ctx, func(n int64) error { return budget.spend(s.ctx, n) })
		if err != nil && s.ctx.Err() == nil {
			s.logger.Error("scrub failed", "dir", s.path, "error", err)
		}
		next.Reset(max(0, policy.Interval-time.Since(began)))
	}
}

// Scrub runs one pass now, as fast as the disk allows: it reads every sealed segment, those of
// saved checkpoints included, and the hints of the live ones, and checks every CRC. Damaged hints are made
// again. A damaged segment is reported with file and offset, stays, and is merged no more; its other
// values go on being served. Readers, writers and merges go on meanwhile.
func (s *Store) Scrub(ctx context.Context) (report ScrubReport, err error) {
	err = s.inForeground(ctx, func(ctx context.Context) error {
		report, err = s.scrubPass(ctx, func(int64) error { return ctx.Err() })
		return err
	})
	return report, err
}

func (s *Store) scrubPass(ctx context.Context, spend func(int64) error) (ScrubReport, error) {
	var report ScrubReport
	segments, err := s.holdSealed()
	if err != nil {
		return report, err
	}
	defer func() {
		for _, seg := range segments {
			seg.release(s.fs, s.path)
		}
	}()
	for _, seg := range segments {
		if err := ctx.Err(); err != nil {
			return report, context.Cause(ctx)
		}
		damage, err := scrubSegment(seg, spend)
		if err != nil {
			return report, err
		}
		report.Segments++
		report.Bytes += seg.size.Load()
		var hintDamage *Damage
		if len(damage) == 0 && seg.hinted.Load() {
			if hintDamage, err = s.scrubHint(seg); err != nil {
				return report, err
			}
		}
		switch {
		case hintDamage != nil && s.readOnly():
			damage = append(damage, *hintDamage)
		case hintDamage != nil:
			report.RebuiltHints = append(report.RebuiltHints, *hintDamage)
		}
		for _, d := range damage {
			s.logger.Error("damage on disk: the file is kept", "file", d.File, "offset", d.Offset, "bytes", d.Bytes, "reason", d.Reason)
		}
		seg.damaged.Store(len(damage) > 0)
		s.scrub.note(seg.id, seg.size.Load(), damage)
		report.Damage = append(report.Damage, damage...)
	}
	s.scrub.endPass(time.Now(), s.holds)
	return report, nil
}

// holdSealed takes a reference on every sealed, committed segment: those no longer change.
func (s *Store) holdSealed() ([]*segment, error) {
	if s.closed.Load() {
		return nil, ErrClosed
	}
	var list []*segment
	s.disk.mu.Lock()
	pinned := maps.Clone(s.disk.pinned)
	for _, seg := range pinned {
		seg.acquire()
	}
	s.disk.mu.Unlock()
	s.visible.RLock()
	live := s.visible.segments
	for _, seg := range live {
		seg.acquire()
	}
	s.visible.RUnlock()
	for _, seg := range sortedSegments(live) {
		if s.committed(seg) {
			list = append(list, seg)
		} else {
			seg.release(s.fs, s.path)
		}
	}
	for _, seg := range sortedSegments(pinned) {
		if live[seg.id] == nil {
			list = append(list, seg)
		} else {
			seg.release(s.fs, s.path)
		}
	}
	return list, nil
}

// holds tells whether a segment is still one of the store's.
func (s *Store) holds(id uint32) bool {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	return s.disk.pinned[id] != nil || s.liveSegments()[id] != nil
}

// scrubSegment reads a whole segment, header included. The error is the budget's.
func scrubSegment(seg *segment, spend func(int64) error) (damage []Damage, err error) {
	if d := checkSegmentHeader(seg); d != nil {
		damage = append(damage, *d)
	}
	w := walker{
		seg: seg, limit: seg.size.Load(), spend: spend,
		frame:  func(*frame, *pendingEntry) error { return nil },
		damage: func(d Damage, _ *pendingEntry) error { damage = append(damage, d); return nil },
	}
	_, err = w.walk()
	return damage, err
}

func checkSegmentHeader(seg *segment) *Damage {
	var b [segmentHeaderBytes]byte
	if _, err := seg.file.ReadAt(b[:], 0); err != nil {
		return &Damage{File: seg.name, Reason: "its header cannot be read: " + err.Error()}
	}
	kind, id, _, err := decodeSegmentHeader(b[:])
	if err == nil && (kind != seg.kind || id != seg.uid) {
		err = fmt.Errorf("it is segment %s, should be %s", id, seg.uid)
	}
	if err != nil {
		return &Damage{File: seg.name, Bytes: segmentHeaderBytes, Reason: err.Error()}
	}
	return nil
}

// scrubHint checks a hint and makes it again if it is damaged. It returns what was wrong.
func (s *Store) scrubHint(seg *segment) (*Damage, error) {
	s.merging.Lock() // one writer of a hint; the segment is not merged away meanwhile
	defer s.merging.Unlock()
	if s.liveSegments()[seg.id] != seg {
		return nil, nil // its hint went with it, or is nobody's business
	}
	d := s.checkHint(seg)
	if d == nil || s.readOnly() {
		return d, nil
	}
	if err := s.writable(); err != nil {
		return d, err
	}
	s.logger.Warn("a hint is damaged: making it again from its segment", "file", d.File, "offset", d.Offset, "reason", d.Reason)
	if err := s.buildHint(s.path, seg); err != nil {
		return d, s.failWrite(fmt.Errorf("write a hint: %w", err))
	}
	s.scrub.mu.Lock()
	s.scrub.stats.RebuiltHints++
	s.scrub.mu.Unlock()
	return d, nil
}

func (s *Store) checkHint(seg *segment) *Damage {
	d, err := checkHint(s.fs, s.path, seg, nil, false)
	if errors.Is(err, iofs.ErrNotExist) {
		return &Damage{File: hintName(s.path, seg.id), Reason: "it is missing"}
	}
	return d
}
