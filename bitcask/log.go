package bitcask

import (
	"errors"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// Entry is one entry of the log. Index and term are the caller's (Raft's); the
// engine knows only that indexes rise by one.
type Entry struct {
	Index, Term uint64
	Kind        Kind
	Data        []byte // an encoded Batch for KindData
	Ext         []byte // opaque, kept beside Data
}

// appender owns the active segment. mu is held across write and sync: there is
// one log, so one writer at a time is what the disk can use.
type appender struct {
	mu        sync.Mutex
	active    *segment
	crc       uint32 // of the last frame: the chain goes on from it
	allocated int64  // the active file's length
	buf       []byte
	// syncing is held while the active file is synced: of two syncs at once the kernel tells only
	// one about a failure.
	syncing sync.Mutex
	// How far the active segment was asked to be written back, was written back, its map was asked to be touched, and the
	// occupancy was looked at.
	asked, writtenBack, populated, watched int64
}

// logIndex finds entries on disk. A store that is not replicated leaves places
// empty: nobody asks it for entries.
type logIndex struct {
	mu        sync.RWMutex
	places    []segmentPlaces // ascending
	first     uint64          // first entry needed; 0 when the log is empty
	last      uint64          // last entry that was entered (lastLocked); kept when the log is emptied by ForgetBefore
	forgotten atomic.Uint64   // entries up to here are not needed as log
	// generation grows when entries are dropped or replaced: copies of them that a
	// caller keeps are stale then.
	generation atomic.Uint64
}

type segmentPlaces struct {
	segment *segment
	first   uint64 // index of places[0]
	places  []place
}

// place of an entry's frame: its offset in units of frameAlign, and the CRC
// of the frame before it, which the frame's own chains from.
type place struct {
	offset uint32
	prev   uint32
}

// preallocateBytes at a time: a write inside the allocated part does not change
// the file's size, which makes fdatasync cheaper (0.20 ms, not 0.24, measured in
// BASELINE.md); a new store stays small on disk.
const preallocateBytes = 16 * mib

// maxWriteBytes bounds the buffer that one write is gathered in.
const maxWriteBytes = 4 * mib

// Append writes entries to the log and returns when they are durable. They stay
// invisible until Commit. Indexes must follow the last one; the first entry of an
// empty log may have any index above the applied one. Data is referenced until the
// entry is committed. After an error none of the entries counts as appended; one
// that is ErrIncomplete left some of them in the log: truncate them before a retry.
func (s *Store) Append(entries []Entry) error {
	if !s.opts.Replicated {
		return fmt.Errorf("bitcask: Append needs Options.Replicated")
	}
	s.appender.mu.Lock()
	defer s.appender.mu.Unlock()
	before := s.LastIndex()
	err := s.appendLocked(entries)
	s.makeRoomAfter(err)
	if after := s.LastIndex(); err != nil && after != before {
		return fmt.Errorf("%w: entries %d to %d of %d are in the log: %w", ErrIncomplete, entries[0].Index, after, entries[len(entries)-1].Index, err)
	}
	return err
}

// makeRoomAfter lets the background merge what it can after a write found no room.
func (s *Store) makeRoomAfter(err error) {
	if errors.Is(err, ErrNoSpace) {
		s.nudge()
	}
}

func (s *Store) appendLocked(entries []Entry) error {
	if err := s.writable(); err != nil {
		return err
	}
	if err := s.checkSequence(entries); err != nil {
		return err
	}
	if err := s.roomForWrites(); err != nil {
		return err
	}
	a := &s.appender
	a.buf = a.buf[:0]
	var run []*pendingEntry // encoded in a.buf
	crc := a.crc
	for i := range entries {
		e := &entries[i]
		if e.Kind > MaxKind || len(e.Data)+len(e.Ext) > maxFrameBytes {
			return fmt.Errorf("%w: entry %d of kind %d has %d bytes", ErrTooLarge, e.Index, e.Kind, len(e.Data)+len(e.Ext))
		}
		need := frameBytes(len(e.Data) + len(e.Ext))
		at := a.active.size.Load() + int64(len(a.buf))
		rotate := s.sealsBefore(at, need)
		if rotate || (len(run) > 0 && int64(len(a.buf))+need > maxWriteBytes) {
			if err := s.flush(run, crc); err != nil {
				return err
			}
			run = run[:0:0]
			if rotate {
				if err := s.rotate(); err != nil {
					return err
				}
			}
			at, crc = a.active.size.Load(), a.crc
		}
		p, err := parseEntry(a.active, at, e)
		if err != nil {
			return fmt.Errorf("append entry %d: %w", e.Index, err)
		}
		h := frameHeader{index: e.Index, term: e.Term, kind: e.Kind, count: p.count, applied: s.committer.point.Load().index, synced: uint64(a.active.synced.Load())}
		p.prev = crc
		a.buf = appendFrame(a.buf, &h, a.active.seed, at, crc, e.Data, e.Ext)
		p.end = at + need
		crc = h.crc
		run = append(run, p)
	}
	if err := s.flush(run, crc); err != nil {
		return err
	}
	if cap(a.buf) > maxWriteBytes {
		a.buf = nil // one large value must not hold its memory for ever
	}
	return nil
}

// checkSequence holds I4 for the log: no gap, no overlap.
func (s *Store) checkSequence(entries []Entry) error {
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	next, empty := s.lastLocked()+1, s.log.first == 0
	for i := range entries {
		index := entries[i].Index
		if i == 0 && empty && index > s.committer.point.Load().index {
			next = index
		}
		if index != next {
			return fmt.Errorf("bitcask: append: entry %d does not follow %d", index, next-1)
		}
		next++
	}
	return nil
}

// flush writes the gathered frames, syncs them if the durability asks for it, and
// enters them in the log. After an error the segment ends where it did before.
func (s *Store) flush(run []*pendingEntry, crc uint32) error {
	a := &s.appender
	if len(run) == 0 {
		return nil
	}
	start := a.active.size.Load()
	end := start + int64(len(a.buf))
	if err := s.reserve(end); err != nil {
		return err
	}
	if err := s.writeActive(a.buf, start); err != nil {
		return s.undoWrite(start, fmt.Errorf("write segment %d at %d: %w", a.active.id, start, err))
	}
	a.active.size.Store(end)
	a.crc = crc
	a.buf = a.buf[:0]
	if s.opts.Durability == Always {
		if err := s.syncActiveLocked(); err != nil {
			return err
		}
	}
	s.enter(run)
	s.writeBackSoon()
	s.watchSpace()
	s.succeedWrite()
	return nil
}

// reserve makes room for bytes up to end, a stretch at a time.
func (s *Store) reserve(end int64) error {
	a := &s.appender
	if end <= a.allocated {
		return nil
	}
	want := max(end, min(a.allocated+preallocateBytes, s.opts.SegmentBytes))
	err := a.active.file.Preallocate(want)
	if isNoSpace(err) && want > end {
		want = end // the last few megabytes of a disk are worth having too
		err = a.active.file.Preallocate(want)
	}
	if err != nil {
		return s.undoWrite(a.active.size.Load(), fmt.Errorf("allocate %d bytes for segment %d: %w", want, a.active.id, err))
	}
	a.allocated = want
	return nil
}

// undoWrite cuts a failed write off again: the next frame must follow the last
// good one.
func (s *Store) undoWrite(end int64, cause error) error {
	a := &s.appender
	a.buf = a.buf[:0]
	if err := a.active.file.Truncate(end); err != nil {
		// Half a frame stays in the way of every later one.
		return s.failWrite(&syncError{fmt.Errorf("%w; cutting it off failed too: %w", cause, err)})
	}
	a.allocated = end
	return s.failWrite(cause)
}

func (s *Store) syncActiveLocked() error {
	a := &s.appender
	end := a.active.size.Load()
	synced := a.active.synced.Load()
	if synced >= end {
		return nil
	}
	if err := s.syncSegment(a.active, synced, end); err != nil {
		return err
	}
	a.active.synced.Store(end)
	return nil
}

// syncSegment syncs the segment that is, or a moment ago was, the active one. It was synced up to from, and was
// written up to end.
func (s *Store) syncSegment(seg *segment, from, end int64) error {
	s.appender.syncing.Lock()
	defer s.appender.syncing.Unlock()
	if cause := s.poison.Load(); cause != nil {
		return *cause
	}
	if s.mapsWrites() {
		seg.mapping.detach(from, end)
	}
	began := time.Now()
	if err := seg.file.Sync(); err != nil {
		return s.failWrite(&syncError{fmt.Errorf("sync segment %d: %w", seg.id, err)})
	}
	s.syncs.observe(time.Since(began))
	return nil
}

// enter makes written entries part of the log.
func (s *Store) enter(run []*pendingEntry) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	for _, p := range run {
		s.enterLocked(p)
	}
	s.committer.push(run)
}

func (s *Store) enterLocked(p *pendingEntry) {
	seg := p.segment
	if seg.first == 0 {
		seg.first = p.index
	}
	seg.last = p.index
	if s.log.first == 0 {
		s.log.first = p.index
	}
	s.log.last = p.index
	if s.opts.Replicated {
		s.addPlaceLocked(seg, p.index, place{offset: uint32(p.start / frameAlign), prev: p.prev})
	}
}

func (s *Store) addPlaceLocked(seg *segment, index uint64, at place) {
	n := len(s.log.places)
	if n == 0 || s.log.places[n-1].segment != seg {
		s.log.places = append(s.log.places, segmentPlaces{segment: seg, first: index})
		n++
	}
	sp := &s.log.places[n-1]
	sp.places = append(sp.places, at)
}

// rotate seals the active segment and begins the next. The old one is synced,
// name and all, before the new one receives a byte: what survives a crash is
// a prefix of the log (I2).
func (s *Store) rotate() error {
	a := &s.appender
	old := a.active
	a.allocated = old.size.Load() // first: a cut can happen and report an error, and a map writes nothing behind the end
	if err := old.file.Truncate(a.allocated); err != nil {
		return s.failWrite(fmt.Errorf("seal segment %d: %w", old.id, err))
	}
	a.active.synced.Store(min(a.active.synced.Load(), segmentHeaderBytes)) // the cut needs a sync too
	if err := s.syncActiveLocked(); err != nil {
		return err
	}
	next, err := createSegment(s.fs, s.path, s.newSegmentID(), logSegment, s.storeID())
	if err != nil {
		return s.failWrite(err)
	}
	s.settle(old)
	err = s.edit(func(m *manifest) {
		sealed := describe(old)
		sealed.Size = old.size.Load()
		for i := range m.Segments {
			if m.Segments[i].ID == old.id {
				m.Segments[i] = sealed
			}
		}
		m.Segments = append(m.Segments, segmentMeta{ID: next.id, UID: next.uid, Kind: logSegment, Synced: segmentHeaderBytes})
		m.Active = next.id
	})
	if err != nil {
		next.retired.Store(s.poison.Load() == nil) // poisoned: the manifest may name it
		next.release(s.fs, s.path)
		return err
	}
	s.setSegments(func(set map[uint32]*segment) { set[next.id] = next })
	old.mapping.seal()
	a.begin(next)
	s.mapActive()
	s.nudge()
	return nil
}

// begin makes an empty segment the active one.
func (a *appender) begin(seg *segment) {
	a.active, a.crc, a.allocated = seg, seg.seed, segmentHeaderBytes
	a.asked, a.writtenBack, a.populated, a.watched = 0, 0, 0, 0
}

// settle enters the last entry of a segment that was the active one, if nobody did.
func (s *Store) settle(seg *segment) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	if point := s.committer.point.Load(); point.segment == seg.id {
		seg.last = max(seg.last, point.index)
	}
}

// describe is the manifest's view of a sealed segment.
func describe(seg *segment) segmentMeta {
	return segmentMeta{ID: seg.id, UID: seg.uid, Kind: seg.kind, Size: seg.size.Load(), First: seg.first, Last: seg.last}
}

// Sync makes everything that was written before it durable, whatever the Durability. Writers
// go on meanwhile.
func (s *Store) Sync() error {
	a := &s.appender
	a.mu.Lock()
	if err := s.writable(); err != nil {
		a.mu.Unlock()
		return err
	}
	seg := a.active
	synced, end := seg.synced.Load(), seg.size.Load()
	if synced >= end {
		a.mu.Unlock()
		return nil
	}
	seg.acquire()
	a.mu.Unlock()
	defer seg.release(s.fs, s.path)
	if err := s.syncSegment(seg, synced, end); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.active == seg { // else the rotation synced it
		seg.synced.Store(max(seg.synced.Load(), end))
	}
	return nil
}

const (
	// writeBackBytes is how much of the active segment may be neither synced nor on its way to the disk: a rotation waits for
	// it, and so do the writers.
	writeBackBytes = 4 * mib
	// maxUnsyncedBytes is how much of it may be unsynced: beyond, damage in what a killed process left could pass for a torn tail.
	maxUnsyncedBytes = 64 * mib
)

// writeBackSoon asks for that in the background. A store that syncs every write never has that much.
func (s *Store) writeBackSoon() {
	a := &s.appender
	size := a.active.size.Load()
	if size-a.asked < writeBackBytes || s.opts.Durability == Always {
		return
	}
	a.asked = size
	select {
	case s.writeNow <- struct{}{}:
	default: // it is asked for already
	}
}

// writeBack has the disk begin with the full pages that were written. It syncs instead when too much is unsynced, or the system
// does not do that.
func (s *Store) writeBack() error {
	a := &s.appender
	a.mu.Lock()
	seg := a.active
	synced, end := seg.synced.Load(), seg.size.Load()
	mapper, ok := seg.file.(vfs.Mapper)
	if !ok || !seg.mapping.writable || end-synced > maxUnsyncedBytes {
		a.mu.Unlock()
		return s.Sync()
	}
	from, to := max(a.writtenBack, synced)/vfs.PageBytes*vfs.PageBytes, end/vfs.PageBytes*vfs.PageBytes
	if from >= to {
		a.mu.Unlock()
		return nil
	}
	a.writtenBack = to
	seg.acquire()
	a.mu.Unlock()
	defer seg.release(s.fs, s.path)
	seg.mapping.detach(from, to)
	err := mapper.WriteBack(from, to)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return s.Sync()
	case err != nil:
		return s.failWrite(&syncError{fmt.Errorf("write back segment %d: %w", seg.id, err)})
	}
	return nil
}

// FirstIndex of the log, 0 when it is empty.
func (s *Store) FirstIndex() uint64 {
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	return s.log.first
}

// LastIndex of the log, 0 when it is empty.
func (s *Store) LastIndex() uint64 {
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	if s.log.first == 0 {
		return 0
	}
	return s.lastLocked()
}

// Uncommitted counts the entries at the end of the log that are not known to be committed. In a store that OpenReadOnly opened
// they are not shown.
func (s *Store) Uncommitted() uint64 {
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	committed := s.committer.point.Load().index // first: it may grow
	return s.lastLocked() - committed
}

// lastLocked is the last entry's index. What show makes visible is not entered one by one. The caller holds log.mu or
// appender.mu.
func (s *Store) lastLocked() uint64 { return max(s.log.last, s.committer.point.Load().index) }

// LogGeneration changes whenever entries were dropped from the log's new end, or the
// whole log was replaced. A cache of entries is valid for one generation.
func (s *Store) LogGeneration() uint64 { return s.log.generation.Load() }

// Entry reads one entry back, ErrNoEntry when the log does not hold it.
func (s *Store) Entry(index uint64) (Entry, error) {
	seg, at, end, err := s.locate(index)
	if err != nil {
		return Entry{}, err
	}
	defer seg.release(s.fs, s.path)
	offset := int64(at.offset) * frameAlign
	r := newFrameReader(seg.file, seg.name, seg.seed, end)
	r.offset, r.crc = offset, at.prev
	r.buf = make([]byte, 0, end-offset)
	f, err := r.next()
	if err != nil {
		return Entry{}, fmt.Errorf("read log entry %d: %w", index, err)
	}
	if f.index != index {
		return Entry{}, &CorruptError{File: seg.name, Offset: offset, Reason: fmt.Sprintf("it holds entry %d, not %d", f.index, index)}
	}
	return Entry{Index: f.index, Term: f.term, Kind: f.kind, Data: f.data, Ext: f.ext}, nil
}

// locate takes a reference on the segment of an entry. end is where its frame ends.
func (s *Store) locate(index uint64) (seg *segment, at place, end int64, err error) {
	if s.closed.Load() {
		return nil, place{}, 0, ErrClosed
	}
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	l := &s.log
	if l.first == 0 || index < l.first || index > l.last {
		return nil, place{}, 0, fmt.Errorf("%w: %d", ErrNoEntry, index)
	}
	n := sort.Search(len(l.places), func(i int) bool { return l.places[i].first > index }) - 1
	if n < 0 || index-l.places[n].first >= uint64(len(l.places[n].places)) {
		return nil, place{}, 0, fmt.Errorf("%w: %d", ErrNoEntry, index)
	}
	sp := &l.places[n]
	i := index - sp.first
	end = sp.segment.size.Load()
	if i+1 < uint64(len(sp.places)) {
		end = int64(sp.places[i+1].offset) * frameAlign
	}
	sp.segment.acquire()
	return sp.segment, sp.places[i], end, nil
}

// ForgetBefore declares that entries below index are no longer needed as log.
// Their records stay; merges may now rewrite their segments. It does nothing in a store that is not replicated.
func (s *Store) ForgetBefore(index uint64) {
	if !s.opts.Replicated {
		return
	}
	s.log.mu.Lock()
	if index > 0 {
		s.forgetLocked(index - 1)
	}
	s.log.mu.Unlock()
	s.nudge()
}

func (s *Store) forgetLocked(last uint64) {
	l := &s.log
	l.forgotten.Store(max(l.forgotten.Load(), last))
	for len(l.places) > 0 && l.places[0].first+uint64(len(l.places[0].places)) <= last+1 {
		l.places = l.places[1:]
	}
	switch {
	case l.first == 0 || last < l.first:
	case last >= l.last:
		l.first, l.places = 0, nil
	default:
		l.first = last + 1
	}
}
