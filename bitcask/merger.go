package bitcask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
)

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

	out    *segment
	hint   *hintWriter
	crc    uint32
	frame  []byte // room for a header, then the records of the open frame
	count  uint32
	writes writeOut
	read   []readRecord // and not copied yet
	moved  []movedKey   // what out holds
	keys   keyArena     // of moved
	// expired leave the keydir with install, not before: a merge that is given up must find them again.
	expired []expiredKey
	budget  pace
}

// movedKey is a record that was copied. It has no pointer, and all of them together one piece of memory: a million
// small objects would keep the garbage collector busy while the foreground waits for it.
type movedKey struct {
	from         keydir.Position
	offset, size uint32 // in the output
	key          keyRef
}

// readRecord is one record of the inputs.
type readRecord struct {
	pendingRecord
	value []byte // its CRC was checked with the frame
	hash  keydir.Hash
}

// keyArena keeps copies of keys in large pieces.
type keyArena [][]byte

// keyRef is a key's place in an arena.
type keyRef struct {
	chunk, at uint32
	length    uint16
}

const keyChunkBytes = 256 << 10

func (a *keyArena) add(key []byte) keyRef {
	n := len(*a) - 1
	if n < 0 || len((*a)[n])+len(key) > cap((*a)[n]) {
		*a = append(*a, make([]byte, 0, keyChunkBytes))
		n++
	}
	chunk := &(*a)[n]
	ref := keyRef{uint32(n), uint32(len(*chunk)), uint16(len(key))}
	*chunk = append(*chunk, key...)
	return ref
}

func (a keyArena) get(r keyRef) []byte { return a[r.chunk][r.at:][:r.length] }

type expiredKey struct {
	key []byte
	at  keydir.Position
	seg *segment
}

const (
	mergeFrameBytes = 256 << 10
	// mergeStepBytes are read before their records are copied.
	mergeStepBytes   = 32 << 10
	mergeStepRecords = 1 << 10 // of a frame that has more
	// mergeLookahead is how many records are sought in the keydir before the first of them is looked at: about as many
	// as a processor waits for at a time.
	mergeLookahead = 16
	// moveCostBytes is what could be read while a key of the keydir is pointed at its copy, about.
	moveCostBytes = 128
)

// mergeSegments replaces inputs by one segment with their live records. Order:
// output synced, its hint synced, the directory synced, the log synced (an old
// record is dead only because of a newer one), the manifest edit, then the keydir;
// the inputs go when nobody reads them. Nothing is deleted on an error (I7).
func (s *Store) mergeSegments(ctx context.Context, inputs []*segment) (err error) {
	s.merging.Lock()
	defer s.merging.Unlock()
	m := &merger{store: s, ctx: ctx, inputs: inputs, isIn: map[uint32]bool{}, oldestElse: math.MaxUint64, now: s.mergeTime()}
	m.budget = newPace(s.mergeRate)
	set, active := s.liveSegments(), s.activeID()
	for _, seg := range inputs {
		if set[seg.id] != seg {
			return nil // adopted away meanwhile
		}
		if seg.id == active {
			return fmt.Errorf("merge: segment %d is the active one", seg.id)
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
		if err := m.copySegment(seg); err != nil {
			return seg.leaveOut(err)
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
	if err := m.syncOutput(); err != nil {
		return err
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
	r.ahead = mergeReadBytes
	p := new(pendingEntry)
	for {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		n, err := m.copyStep(seg, r, p)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := m.budget.spend(m.ctx, n); err != nil {
			return err
		}
	}
}

// copyStep reads frames, at least one, and no more than are valid together, and copies what lives in them. n is how many bytes
// it read.
func (m *merger) copyStep(seg *segment, r *frameReader, p *pendingEntry) (n int64, err error) {
	for n == 0 || (n < mergeStepBytes && r.buffered()) {
		f, err := r.next()
		if err != nil {
			return n, err
		}
		if err := p.parseFrame(seg, &f); err != nil {
			return n, &CorruptError{File: seg.name, Offset: f.offset, Reason: err.Error()}
		}
		for _, rec := range p.records {
			end := int(rec.offset) - int(f.offset) - frameHeaderBytes + int(rec.size)
			value := f.data[:end][end-valueLen(rec.size, len(rec.key), rec.expireAt, seg.kind == mergedSegment):]
			if m.read = append(m.read, readRecord{pendingRecord: rec, value: value}); len(m.read) == mergeStepRecords {
				if err := m.copyRead(seg); err != nil {
					return n, err
				}
			}
		}
		n += f.size()
	}
	return n, m.copyRead(seg)
}

// copyRead looks a few records ahead: most of what a merge does would else be to wait for the keydir's memory.
func (m *merger) copyRead(seg *segment) error {
	keys := m.store.visible.keys
	defer func() { m.read = m.read[:0] }()
	sought := 0
	for i := range m.read {
		for ; sought < min(i+mergeLookahead, len(m.read)); sought++ {
			m.read[sought].hash = keys.Seek(m.read[sought].key)
		}
		if err := m.copyRecord(seg, &m.read[i]); err != nil {
			return err
		}
	}
	return nil
}

// copyRecord keeps a record that the keydir points at, and a tombstone that may
// still shadow something. An expired record acts as a tombstone.
func (m *merger) copyRecord(seg *segment, r *readRecord) error {
	if r.flags&flagClear != 0 {
		return nil // the manifest carries the last clear
	}
	keys := m.store.visible.keys
	from := keydir.Position{Segment: seg.id, Offset: r.offset, Size: r.size}
	if r.flags&flagDelete == 0 {
		if !keys.Holds(r.hash, from.Segment, from.Offset) {
			return nil
		}
		if !(Item{ExpireAt: r.expireAt}).Expired(m.now) {
			return m.add(r, from, 0)
		}
		m.expired = append(m.expired, expiredKey{slices.Clone(r.key), from, seg})
	}
	if r.version < m.store.committer.point.Load().cleared || r.version <= m.oldestElse {
		return nil // nothing is left that it could shadow
	}
	if it, exists := keys.Get(r.key); exists && it.Version > r.version {
		return nil // the newer record shadows what this one would
	}
	return m.add(r, from, flagDelete)
}

// add puts a record into the output's open frame, or a tombstone of its key.
func (m *merger) add(r *readRecord, from keydir.Position, deleted recordFlags) error {
	value := r.value
	if deleted != 0 {
		value = nil
	}
	if m.out == nil {
		if err := m.begin(); err != nil {
			return err
		}
	}
	if m.count > 0 && len(m.frame)-frameHeaderBytes+len(value) > mergeFrameBytes {
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
	before := len(m.frame)
	at := m.out.size.Load() + int64(before)
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
		m.moved = append(m.moved, movedKey{from: from, offset: k.offset, size: k.size, key: m.keys.add(k.key)})
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
	m.out, m.crc, m.writes = out, out.seed, writeOut{file: out.file}
	m.frame = append(m.frame, make([]byte, frameHeaderBytes)...)
	var live int64
	for _, seg := range m.inputs {
		live += seg.liveRecords.Load()
	}
	m.moved = make([]movedKey, 0, live)
	m.hint, err = newHintWriter(s.fs, s.path, out)
	return err
}

func (m *merger) flushFrame() error {
	if m.count == 0 {
		return nil
	}
	at := m.out.size.Load()
	h := frameHeader{length: uint32(len(m.frame) - frameHeaderBytes), kind: kindMerged, count: m.count, index: m.out.last, synced: segmentHeaderBytes}
	m.frame = h.sealFrame(m.frame, m.out.seed, at, m.crc)
	if _, err := m.out.file.WriteAt(m.frame, at); err != nil {
		return fmt.Errorf("write segment %d: %w", m.out.id, err)
	}
	m.out.size.Store(at + int64(len(m.frame)))
	m.crc, m.frame, m.count = h.crc, m.frame[:frameHeaderBytes], 0
	if err := m.writes.upTo(m.out.size.Load()); err != nil {
		return fmt.Errorf("write segment %d: %w", m.out.id, err)
	}
	return nil
}

func (m *merger) syncOutput() error {
	if err := m.out.file.Sync(); err != nil {
		return &syncError{fmt.Errorf("sync segment %d: %w", m.out.id, err)}
	}
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
	rate := s.mergeRate() // now: what is being installed is no debt any more
	m.budget.rate = func() float64 { return rate }
	for _, seg := range m.inputs {
		seg.installing.Store(true)
	}
	if m.out != nil {
		m.out.installing.Store(true)
		defer m.out.installing.Store(false)
		m.out.retired.Store(false)
		s.setSegments(func(set map[uint32]*segment) { set[m.out.id] = m.out })
		if m.out.last < s.committer.point.Load().cleared {
			m.out.tombstoneBytes.Store(0) // a clear overtook the merge
		}
		m.moveKeys()
	}
	for _, e := range m.expired {
		if s.visible.keys.DeleteIf(e.key, e.at) {
			e.seg.addLive(-int64(e.at.Size))
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
	for _, seg := range segments {
		if s.disk.pinned[seg.id] != seg {
			seg.retired.Store(true)
		}
	}
	s.disk.mu.Unlock()
	s.releaseEach(segments)
}

// releaseEach is better called without a lock that writers may wait for: removing a file of hundreds of megabytes takes some
// ten milliseconds.
func (s *Store) releaseEach(segments []*segment) {
	for _, seg := range segments {
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

// moveKeys points the keydir at the copies. A key that was written meanwhile keeps
// its newer place; its copy is dead from the start.
func (m *merger) moveKeys() {
	keys := m.store.visible.keys
	sought := 0
	for i := range m.moved {
		for ; sought < min(i+mergeLookahead, len(m.moved)); sought++ {
			keys.Seek(m.keys.get(m.moved[sought].key))
		}
		k := &m.moved[i]
		if keys.Move(m.keys.get(k.key), k.from, keydir.Position{Segment: m.out.id, Offset: k.offset, Size: k.size}) {
			m.out.addLive(int64(k.size))
		}
		_ = m.budget.spend(m.ctx, moveCostBytes) // no waiting any more when the context has ended
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
