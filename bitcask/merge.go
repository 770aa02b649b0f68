package bitcask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
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
		err := s.buildHint(s.path, seg)
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

// merger copies the live records of some segments into one new segment.
type merger struct {
	store  *Store
	ctx    context.Context
	inputs []*segment
	isIn   map[uint32]bool // by id
	// oldestElse is the lowest version that a segment outside the merge may hold:
	// tombstones above it must be kept.
	oldestElse uint64
	now        int64

	out   *segment
	hint  *hintWriter
	crc   uint32
	frame []byte // records of the open frame
	count uint32
	moved []hintKey // what out holds, keys copied
	// expired leave the keydir with install, not before: a merge that is given up must find them again.
	expired []expiredKey
	budget  pace
}

type expiredKey struct {
	key []byte
	it  keydir.Item
	seg *segment
}

const mergeFrameBytes = 256 << 10

// mergeSegments replaces inputs by one segment with their live records. Order:
// output synced, its hint synced, the directory synced, the log synced (an old
// record is dead only because of a newer one), the manifest edit, then the keydir;
// the inputs go when nobody reads them. Nothing is deleted on an error (I7).
func (s *Store) mergeSegments(ctx context.Context, inputs []*segment) (err error) {
	s.merging.Lock()
	defer s.merging.Unlock()
	m := &merger{store: s, ctx: ctx, inputs: inputs, isIn: map[uint32]bool{}, oldestElse: math.MaxUint64, now: s.mergeTime()}
	m.budget = pace{bytesPerSecond: s.opts.Merge.BytesPerSecond, began: time.Now()}
	set, active := s.liveSegments(), s.activeID()
	for _, seg := range inputs {
		if set[seg.id] != seg {
			return nil // adopted away meanwhile
		}
		m.isIn[seg.id] = true
	}
	s.log.mu.RLock()
	for _, seg := range set {
		if !m.isIn[seg.id] && seg.id != active { // all in the active one is newer
			m.oldestElse = min(m.oldestElse, max(1, seg.first))
		}
	}
	s.log.mu.RUnlock()
	if err := m.copyLive(); err != nil {
		m.abort()
		return s.failWrite(fmt.Errorf("merge: %w", err))
	}
	if err := m.install(); err != nil {
		return fmt.Errorf("merge: %w", err)
	}
	s.syncs.merges.Add(1)
	return nil
}

func (m *merger) copyLive() error {
	for _, seg := range m.inputs {
		err := m.copySegment(seg)
		if errors.Is(err, ErrCorrupt) {
			seg.damaged.Store(true) // kept as it is, and not tried again (I7)
		}
		if err != nil {
			return err
		}
	}
	if m.out != nil { // otherwise nothing in them was live
		if err := m.finishOutput(); err != nil {
			return err
		}
	}
	return m.store.Sync()
}

func (m *merger) finishOutput() error {
	if err := m.flushFrame(); err != nil {
		return err
	}
	size := m.out.size.Load()
	if err := m.out.file.Sync(); err != nil {
		return &syncError{fmt.Errorf("sync segment %d: %w", m.out.id, err)}
	}
	hint := m.hint
	m.hint = nil // finished or given up, but closed
	if err := hint.finish(size); err != nil {
		return err
	}
	m.out.hinted.Store(true)
	if err := m.store.fs.SyncDir(m.store.path); err != nil {
		return &syncError{fmt.Errorf("sync the directory of segment %d: %w", m.out.id, err)}
	}
	m.store.syncs.mergedBytes.Add(size)
	return nil
}

func (m *merger) copySegment(seg *segment) error {
	r := seg.frames()
	for {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		f, err := r.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p, err := parseFrame(seg, &f)
		if err != nil {
			return &CorruptError{File: seg.name, Offset: f.offset, Reason: err.Error()}
		}
		for i := range p.records {
			if err := m.copyRecord(seg, &f, &p.records[i]); err != nil {
				return err
			}
		}
		if err := m.budget.spend(m.ctx, f.size()); err != nil {
			return err
		}
	}
}

// copyRecord keeps a record that the keydir points at, and a tombstone that may
// still shadow something. An expired record acts as a tombstone.
func (m *merger) copyRecord(seg *segment, f *frame, r *pendingRecord) error {
	if r.flags&flagClear != 0 {
		return nil // the manifest carries the last clear
	}
	keys := m.store.visible.keys
	it, exists := keys.Get(r.key)
	tombstone := r.flags&flagDelete != 0
	if !tombstone {
		if !exists || it.Segment != seg.id || it.Offset != r.offset {
			return nil
		}
		if !(Item{ExpireAt: r.expireAt}).Expired(m.now) {
			value := f.data[int(r.offset)-int(f.offset)-frameHeaderBytes:][:r.size]
			rec, err := parseRecord(value)
			if err != nil {
				return &CorruptError{File: seg.name, Offset: int64(r.offset), Reason: err.Error()}
			}
			return m.add(r, rec.value, 0)
		}
		m.expired = append(m.expired, expiredKey{slices.Clone(r.key), it, seg})
	}
	if r.version < m.store.committer.point.Load().cleared || r.version <= m.oldestElse {
		return nil // nothing is left that it could shadow
	}
	if exists && it.Version > r.version {
		return nil // the newer record shadows what this one would
	}
	return m.add(r, nil, flagDelete)
}

// add puts a record into the output's open frame.
func (m *merger) add(r *pendingRecord, value []byte, deleted recordFlags) error {
	if m.out == nil {
		if err := m.begin(); err != nil {
			return err
		}
	}
	if len(m.frame) > 0 && len(m.frame)+len(value) > mergeFrameBytes {
		if err := m.flushFrame(); err != nil {
			return err
		}
	}
	flags, expireAt := flagVersion|deleted, r.expireAt
	if deleted != 0 {
		expireAt = 0
	}
	if expireAt != 0 {
		flags |= flagExpiry
	}
	at := m.out.size.Load() + frameHeaderBytes + int64(len(m.frame))
	before := len(m.frame)
	m.frame = appendRecord(m.frame, flags, r.key, value, expireAt, r.version)
	m.count++
	k := hintKey{flags: deleted, offset: uint32(at), size: uint32(len(m.frame) - before), version: r.version, expireAt: expireAt, key: r.key}
	if m.out.first == 0 || r.version < m.out.first {
		m.out.first = r.version
	}
	m.out.last = max(m.out.last, r.version)
	if deleted != 0 {
		m.out.tombstoneBytes.Add(int64(k.size))
	} else {
		moved := k
		moved.key = slices.Clone(k.key)
		m.moved = append(m.moved, moved)
	}
	return m.hint.addKey(k)
}

func (m *merger) begin() error {
	s := m.store
	out, err := createSegment(s.fs, s.path, s.newSegmentID(), mergedSegment, s.storeID())
	if err != nil {
		return err
	}
	out.retired.Store(true) // until the manifest names it
	m.out, m.crc = out, out.seed
	m.hint, err = newHintWriter(s.fs, s.path, out)
	return err
}

func (m *merger) flushFrame() error {
	if len(m.frame) == 0 {
		return nil
	}
	at := m.out.size.Load()
	h := frameHeader{kind: kindMerged, count: m.count, index: m.out.last, synced: segmentHeaderBytes}
	b := appendFrame(nil, &h, m.out.seed, at, m.crc, m.frame, nil)
	if _, err := m.out.file.WriteAt(b, at); err != nil {
		return fmt.Errorf("write segment %d: %w", m.out.id, err)
	}
	m.out.size.Store(at + int64(len(b)))
	m.crc, m.frame, m.count = h.crc, m.frame[:0], 0
	return nil
}

// install makes the output live and the inputs history.
func (m *merger) install() error {
	s := m.store
	err := s.edit(func(ed *manifest) {
		ed.Segments = slices.DeleteFunc(ed.Segments, func(sm segmentMeta) bool { return m.isIn[sm.ID] })
		if m.out != nil {
			ed.Segments = append(ed.Segments, describe(m.out))
		}
	})
	if err != nil {
		if m.out != nil {
			m.out.retired.Store(s.poison.Load() == nil) // poisoned: the manifest may name it
		}
		m.abort()
		return err
	}
	if m.out != nil {
		m.out.retired.Store(false)
		s.setSegments(func(set map[uint32]*segment) { set[m.out.id] = m.out })
		if m.out.last < s.committer.point.Load().cleared {
			m.out.tombstoneBytes.Store(0) // a clear overtook the merge
		}
		m.swapKeys()
	}
	for _, e := range m.expired {
		if s.visible.keys.DeleteIf(e.key, e.it.Position) {
			e.seg.addLive(-int64(e.it.Size))
		}
	}
	s.setSegments(func(set map[uint32]*segment) {
		for id := range m.isIn {
			delete(set, id)
		}
	})
	s.retire(m.inputs)
	return nil
}

// retire drops the live set's references to segments that the manifest no longer
// counts as live. Saved checkpoints may still name them.
func (s *Store) retire(segments []*segment) {
	s.readers.wait() // for those who found a record there before
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	for _, seg := range segments {
		if s.disk.pinned[seg.id] != seg {
			seg.retired.Store(true)
		}
		seg.release(s.fs, s.path)
	}
}

// mergeTime judges expiry in a merge. A replica goes by the time that the log
// carries: its own clock may run ahead of the leader's, for whom the key lives.
func (s *Store) mergeTime() int64 {
	if s.opts.Replicated {
		return s.committer.point.Load().time
	}
	return s.Now()
}

// swapKeys points the keydir at the copies. A key that was written meanwhile keeps
// its newer place; its copy is dead from the start.
func (m *merger) swapKeys() {
	s := m.store
	for i := range m.moved {
		k := &m.moved[i]
		it, ok := s.visible.keys.Get(k.key)
		if !ok || it.Version != k.version || !m.isIn[it.Segment] {
			continue
		}
		to := it
		to.Position = keydir.Position{Segment: m.out.id, Offset: k.offset, Size: k.size}
		if s.visible.keys.Swap(k.key, it.Position, to) {
			m.out.addLive(int64(k.size))
		}
	}
}

// abort drops an output that the manifest does not name.
func (m *merger) abort() {
	if m.hint != nil {
		m.hint.abort()
		m.hint = nil
	}
	if m.out != nil {
		m.out.release(m.store.fs, m.store.path)
		m.out = nil
	}
}

// pace spreads work over time.
type pace struct {
	bytesPerSecond int64
	began          time.Time
	spent          int64
}

// spend waits until the budget has caught up with n more bytes.
func (p *pace) spend(ctx context.Context, n int64) error {
	p.spent += n
	ahead := time.Duration(float64(p.spent)/float64(p.bytesPerSecond)*float64(time.Second)) - time.Since(p.began)
	if ahead < 5*time.Millisecond {
		return nil
	}
	timer := time.NewTimer(ahead)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
