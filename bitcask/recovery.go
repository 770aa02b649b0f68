package bitcask

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
	"github.com/raftcask/raftcask/internal/vfs"
)

func joinPath(dir, name string) string { return filepath.Join(dir, name) }

// recover brings the store to what the directory holds: it makes a new store, or
// loads the one that is there.
func (s *Store) recover() error {
	s.visible.keys = keydir.New(s.opts.HashSeed)
	s.visible.segments = map[uint32]*segment{}
	s.disk.pinned = map[uint32]*segment{}
	s.committer.point.Store(&commitPoint{})
	m, err := readManifest(s.fs, s.path)
	if err != nil {
		return err
	}
	if m == nil {
		return s.create()
	}
	// A process killed before it could sync the directory leaves a manifest that is
	// found, but not durable. Whatever is written or removed under it from here
	// on would be lost with it.
	if err := s.fs.SyncDir(s.path); err != nil {
		return &syncError{fmt.Errorf("sync %s: %w", s.path, err)}
	}
	// The same goes for the directory's own name, where we may: it can be long
	// established, in a parent that is closed to us.
	if err := s.syncParents(); err != nil && !errors.Is(err, iofs.ErrPermission) {
		return err
	}
	s.disk.manifest = *m
	return s.load()
}

// create makes an empty store. Segments with content but no manifest are somebody's
// data, not ours to write over (I7).
func (s *Store) create() error {
	names, err := s.fs.List(s.path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".seg") {
			continue
		}
		if size, err := fileSize(s.fs, joinPath(s.path, name)); err != nil || size > segmentHeaderBytes {
			return &CorruptError{File: joinPath(s.path, manifestName), Reason: fmt.Sprintf("it is missing, but %s holds data", name)}
		}
	}
	m := manifest{Format: manifestFormat, StoreID: newUID(), NextID: 2, Active: 1}
	active, err := createSegment(s.fs, s.path, 1, logSegment, m.StoreID)
	if err != nil {
		return err
	}
	s.visible.segments[active.id] = active
	m.Segments = []segmentMeta{{ID: active.id, UID: active.uid, Kind: logSegment, Synced: segmentHeaderBytes}}
	if err := writeManifest(s.fs, s.path, &m); err != nil {
		return err
	}
	if err := s.syncParents(); err != nil {
		return err
	}
	s.disk.manifest = m
	s.appender.begin(active)
	return nil
}

// syncParents makes the name of a new directory durable, and the names of those
// above it, which Open may have made too. Directories beyond the parent may belong
// to others, and are synced as far as that is allowed.
func (s *Store) syncParents() error {
	dir := filepath.Dir(filepath.Clean(s.path))
	if err := s.fs.SyncDir(dir); err != nil {
		return &syncError{fmt.Errorf("sync %s: %w", dir, err)}
	}
	for up := filepath.Dir(dir); up != dir; dir, up = up, filepath.Dir(up) {
		_ = s.fs.SyncDir(up)
	}
	return nil
}

func fileSize(fs vfs.FS, name string) (int64, error) {
	f, err := fs.OpenRead(name)
	if err != nil {
		return 0, err
	}
	size, err := f.Size()
	return size, errors.Join(err, f.Close())
}

// load opens what the manifest names, and fills the keydir and the log's index.
func (s *Store) load() error {
	m := &s.disk.manifest
	for _, sm := range m.Segments {
		seg, err := openSegment(s.fs, s.path, sm)
		if err != nil {
			return err
		}
		s.visible.segments[seg.id] = seg
	}
	if err := s.pinCheckpoints(m.Checkpoints); err != nil {
		return err
	}
	if err := s.removeGarbage(); err != nil {
		return err
	}
	s.log.forgotten.Store(m.Forgotten)
	l := &loader{store: s, point: commitPoint{index: m.AppliedIndex, term: m.AppliedTerm, cleared: m.Cleared, time: m.Time}}
	if err := l.load(); err != nil {
		return err
	}
	return s.syncRecovered()
}

// pinCheckpoints takes a reference for every segment that a checkpoint names.
func (s *Store) pinCheckpoints(checkpoints []checkpointMeta) error {
	for _, c := range checkpoints {
		for _, sm := range c.Segments {
			if s.disk.pinned[sm.ID] != nil {
				continue
			}
			seg := s.visible.segments[sm.ID]
			if seg != nil {
				seg.acquire()
			} else {
				var err error
				if seg, err = openSegment(s.fs, s.path, sm); err != nil {
					return fmt.Errorf("checkpoint %q: %w", c.Name, err)
				}
			}
			s.disk.pinned[sm.ID] = seg
		}
	}
	return nil
}

// removeGarbage removes files of ours that the manifest does not name: a crash
// left them before they counted, or after they ceased to.
func (s *Store) removeGarbage() error {
	names, err := s.fs.List(s.path)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, set := range []map[uint32]*segment{s.visible.segments, s.disk.pinned} {
		for id := range set {
			known[filepath.Base(segmentName(s.path, id))] = true
			known[filepath.Base(hintName(s.path, id))] = true
		}
	}
	for _, name := range names {
		path := joinPath(s.path, name)
		switch ext := filepath.Ext(name); {
		case known[name]:
		case strings.HasPrefix(name, stagingPrefix):
			err = vfs.RemoveAll(s.fs, path)
		case ext == ".seg" || ext == ".hint" || ext == ".tmp":
			err = s.fs.Remove(path)
		}
		if err != nil {
			return fmt.Errorf("remove left-over file %s: %w", path, err)
		}
	}
	return nil
}

// loader fills an empty store from its segments.
type loader struct {
	store *Store
	mu    sync.Mutex  // guards point and hints while keys are loaded
	point commitPoint // the highest committed entry that is known
	hints map[uint32]*hintReader
	// without a hint: sealed segments that are committed to their ends.
	without []*segment
	tail    []*segment // log segments that may hold uncommitted entries, in order; the active one is the last
	queue   []*pendingEntry
}

func (l *loader) load() (err error) {
	s := l.store
	l.hints = map[uint32]*hintReader{}
	defer func() {
		for _, h := range l.hints {
			h.close()
		}
	}()
	l.openHints()
	if s.opts.Replicated {
		for _, seg := range l.tail {
			if err := l.scanTail(seg, l.enqueue); err != nil {
				return err
			}
		}
		l.learnFromQueue()
	}
	if err := l.fillKeydir(); err != nil {
		return err
	}
	if err := l.fillLog(); err != nil {
		return err
	}
	return l.commitTail()
}

// openHints finds the hint of each sealed segment. A hint proves that its log segment is committed to the end; in a store
// that is not replicated everything is.
func (l *loader) openHints() {
	s := l.store
	var without []*segment
	for _, seg := range sortedSegments(s.visible.segments) {
		if seg.id == s.disk.manifest.Active {
			l.tail = append(l.tail, seg)
			continue
		}
		h, err := openHint(s.fs, s.path, seg)
		if err != nil {
			without = append(without, seg)
			continue
		}
		l.learn(seg, h)
	}
	for _, seg := range without {
		if seg.kind == logSegment && seg.last > l.point.index && s.opts.Replicated {
			l.tail = append(l.tail, seg)
		} else {
			l.without = append(l.without, seg)
		}
	}
	slices.SortFunc(l.tail, func(a, b *segment) int { return cmp.Compare(a.id, b.id) })
}

func sortedSegments(set map[uint32]*segment) []*segment {
	list := make([]*segment, 0, len(set))
	for _, seg := range set {
		list = append(list, seg)
	}
	slices.SortFunc(list, func(a, b *segment) int { return cmp.Compare(a.id, b.id) })
	return list
}

// learn takes what a hint says of its segment as a whole.
func (l *loader) learn(seg *segment, h *hintReader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hints[seg.id] = h
	seg.hinted.Store(!h.inMemory)
	seg.cleared = h.cleared
	l.point.cleared = max(l.point.cleared, h.cleared)
	l.point.time = max(l.point.time, h.time)
	if seg.kind == logSegment && seg.last >= l.point.index {
		l.point.index, l.point.term = seg.last, h.lastTerm
		l.point.segment, l.point.end = seg.id, seg.size.Load()
	}
}

// scanTail reads a log segment that may hold uncommitted entries. Only the
// active one may end in a torn write. An entry is valid during the call of onEntry.
func (l *loader) scanTail(seg *segment, onEntry func(f *frame, p *pendingEntry)) error {
	s := l.store
	active := seg.id == s.disk.manifest.Active
	r := seg.frames()
	if active {
		size, err := seg.file.Size()
		if err != nil {
			return fmt.Errorf("size of %s: %w", seg.name, err)
		}
		r.limit = size
	}
	p := new(pendingEntry)
	promised := syncedUpTo(&s.disk.manifest, seg.id)
	for {
		prev := r.crc
		f, err := r.next()
		var damage *CorruptError
		if errors.Is(err, io.EOF) {
			break
		}
		if active && errors.As(err, &damage) {
			if err := s.judgeTail(seg, r, damage); err != nil {
				return err
			}
			break
		}
		if err != nil {
			return err
		}
		if s.opts.Replicated {
			p, f.data = new(pendingEntry), slices.Clone(f.data) // the queue outlives the reader's buffer
		}
		if err := p.parseFrame(seg, &f); err != nil {
			return &CorruptError{File: seg.name, Offset: f.offset, Reason: err.Error()}
		}
		p.prev = prev
		onEntry(&f, p)
		if seg.first == 0 {
			seg.first = f.index
		}
		seg.last = f.index
		promised = max(promised, int64(f.synced))
	}
	if active {
		seg.size.Store(r.offset)
		seg.synced.Store(min(promised, r.offset))
		s.appender.active, s.appender.crc, s.appender.allocated, s.appender.watched = seg, r.crc, r.limit, r.offset
	}
	return nil
}

// enqueue keeps an entry of a replicated store for Commit.
func (l *loader) enqueue(f *frame, p *pendingEntry) {
	l.point.index = max(l.point.index, f.applied)
	l.queue = append(l.queue, p)
}

// learnFromQueue finds what the committed entries of the queue clear: that is not loaded.
func (l *loader) learnFromQueue() {
	for _, p := range l.queue {
		if p.index > l.point.index {
			break
		}
		for i := range p.records {
			if p.records[i].flags&flagClear != 0 {
				l.point.cleared = max(l.point.cleared, p.index)
			}
		}
	}
}

// loadTail loads the active segment of a store that is not replicated: what was appended is committed, and its records go
// where those of the hints go.
func (l *loader) loadTail(b *keyBatch) error {
	seg := l.tail[0]
	var point commitPoint
	var tombstones int64
	err := l.scanTail(seg, func(f *frame, p *pendingEntry) {
		point.index, point.term, point.time = p.index, p.term, max(point.time, p.time)
		point.segment, point.end = seg.id, p.end
		for i := range p.records {
			r := &p.records[i]
			if r.flags&flagClear != 0 {
				point.cleared = p.index
				continue
			}
			tombstones += b.add(seg, hintKey{flags: r.flags & flagDelete, offset: r.offset, size: r.size, version: r.version, expireAt: r.expireAt, key: r.key})
		}
	})
	if err != nil || point.index == 0 {
		return err
	}
	seg.tombstoneBytes.Store(tombstones)
	seg.cleared = point.cleared
	l.mu.Lock()
	defer l.mu.Unlock()
	point.cleared, point.time = max(point.cleared, l.point.cleared), max(point.time, l.point.time)
	if point.index < l.point.index { // without Always, the newest entries may be lost
		point.index, point.term = l.point.index, l.point.term
	}
	l.point = point
	return nil
}

// judgeTail tells a torn tail from damage, at the first bytes of the active
// segment that are no frame. If the manifest or a later frame promises that these bytes
// were synced, no crash can have torn them: they may be an entry that this node
// voted for, and cutting them off could lose acknowledged data across the
// cluster (Protocol-Aware Recovery, FAST'18).
func (s *Store) judgeTail(seg *segment, r *frameReader, damage *CorruptError) error {
	for _, sm := range s.disk.manifest.Segments {
		if sm.ID == seg.id && r.offset < sm.Synced {
			return damage
		}
	}
	promised, err := promiseBeyond(seg, r.offset, r.limit)
	if err != nil {
		return err
	}
	if promised {
		return damage
	}
	return nil
}

// promiseBeyond looks for the header of a frame after offset which says that
// offset had been synced before it was written.
func promiseBeyond(seg *segment, offset, limit int64) (bool, error) {
	buf := make([]byte, mib+frameHeaderBytes)
	for at := offset; at < limit; at += mib {
		n := min(int64(len(buf)), limit-at)
		if _, err := seg.file.ReadAt(buf[:n], at); err != nil {
			return false, fmt.Errorf("read %s at offset %d: %w", seg.name, at, err)
		}
		for i := int64(0); i < min(mib, n-frameHeaderBytes+1); i += frameAlign {
			b := buf[i:]
			if binary.LittleEndian.Uint64(b[32:]) <= uint64(offset) {
				continue // no promise: a torn frame, or zeros
			}
			if _, err := parseFrameHeader(b[:frameHeaderBytes], seg.seed, at+i); err == nil {
				return true, nil
			}
		}
	}
	return false, nil
}

// fillKeydir loads all keys that are committed for sure. A clear that comes to light meanwhile, in the active segment or
// in one that had no hint, means to begin again without what it clears.
func (l *loader) fillKeydir() error {
	s := l.store
	for {
		kl := &keyLoader{
			store: s, dir: s.path, keys: s.visible.keys, segments: s.visible.segments, hints: maps.Clone(l.hints), cleared: l.point.cleared,
		}
		if !s.opts.Replicated {
			kl.more = append(kl.more, l.loadTail)
		}
		for _, seg := range l.without {
			kl.more = append(kl.more, func(b *keyBatch) error { return l.loadWithout(kl, b, seg) })
		}
		err := kl.load()
		maps.Copy(l.hints, kl.hints) // some were made again
		if err != nil {
			return err
		}
		if l.point.cleared == kl.cleared {
			return nil
		}
		l.without = slices.DeleteFunc(l.without, func(seg *segment) bool { return l.hints[seg.id] != nil })
		s.visible.keys.Close()
		s.visible.keys = keydir.New(s.opts.HashSeed)
		for _, seg := range s.visible.segments {
			seg.liveBytes.Store(0)
			seg.liveRecords.Store(0)
			seg.tombstoneBytes.Store(0)
		}
	}
}

// loadWithout makes the hint of a segment that has none, and loads it. It is written, so that only one opening
// takes the time.
func (l *loader) loadWithout(kl *keyLoader, b *keyBatch, seg *segment) error {
	h, err := l.store.remakeHint(l.store.path, seg)
	if err != nil {
		return err
	}
	l.learn(seg, h)
	return kl.loadHint(b, seg, h)
}

// fillLog indexes the entries that are still needed as log.
func (l *loader) fillLog() error {
	s := l.store
	lg := &s.log
	forgotten := lg.forgotten.Load()
	lg.last = forgotten
	for _, seg := range sortedSegments(s.visible.segments) {
		if seg.kind != logSegment || seg.first == 0 || seg.last <= forgotten {
			continue
		}
		if !s.opts.Replicated {
			if lg.first == 0 {
				lg.first = max(seg.first, forgotten+1)
			}
			lg.last = seg.last
			continue
		}
		h := l.hints[seg.id]
		if h == nil {
			continue
		}
		index := h.firstPlace
		err := h.each(nil, func(at place) {
			if index > forgotten {
				s.noteEntry(seg, index, at)
			}
			index++
		})
		if err != nil {
			return err
		}
	}
	for _, p := range l.queue {
		if p.index > forgotten {
			s.noteEntry(p.segment, p.index, place{offset: uint32(p.start / frameAlign), prev: p.prev})
		}
	}
	return l.checkLog()
}

// noteEntry is what recovery needs of enterLocked; nobody else is there yet.
func (s *Store) noteEntry(seg *segment, index uint64, at place) {
	if s.log.first == 0 {
		s.log.first = index
	}
	s.log.last = index
	s.addPlaceLocked(seg, index, at)
}

// checkLog refuses a log with a gap, and one that ends before what is known
// to be committed: a replicated store syncs before it commits.
func (l *loader) checkLog() error {
	s := l.store
	if !s.opts.Replicated {
		s.log.last = max(s.log.last, l.point.index)
		return nil
	}
	next := s.log.first
	for _, sp := range s.log.places {
		if sp.first != next {
			return &CorruptError{File: sp.segment.name, Reason: fmt.Sprintf("the log goes on at entry %d, should at %d", sp.first, next)}
		}
		next += uint64(len(sp.places))
	}
	if s.log.first != 0 && s.log.last < l.point.index {
		return &CorruptError{File: s.path, Reason: fmt.Sprintf("the log ends at entry %d, but %d was committed", s.log.last, l.point.index)}
	}
	return nil
}

// commitTail shows the entries of the tail that are known committed, and leaves the
// rest for Commit.
func (l *loader) commitTail() error {
	s := l.store
	limit := l.point.index
	point := l.point
	if n := len(l.queue); n > 0 && l.queue[0].index <= limit {
		point.index = l.queue[0].index - 1 // apply counts up to the limit again
		s.committer.point.Store(&point)
		s.committer.pending = l.queue
		if err := s.commitLocked(min(limit, l.queue[n-1].index)); err != nil {
			return err
		}
		point = *s.committer.point.Load()
		point.index = limit // without Always, the newest entries may be lost
	} else {
		s.committer.pending = l.queue
	}
	s.committer.point.Store(&point)
	return nil
}

// syncRecovered makes what was found durable before it is relied on: a killed
// process may have left it in the page cache only. It also cuts a torn tail off.
func (s *Store) syncRecovered() error {
	a := &s.appender
	end := a.active.size.Load()
	if a.allocated > end {
		if torn := lastByte(a.active.file, end, a.allocated); torn > end {
			s.logger.Info("cutting off what an interrupted write left", "file", a.active.name, "offset", end, "bytes", torn-end)
		}
		if err := a.active.file.Truncate(end); err != nil {
			return fmt.Errorf("cut segment %d at %d: %w", a.active.id, end, err)
		}
		a.allocated = end
	}
	err := s.rewrite(a.active, a.active.synced.Load(), end)
	if err != nil && !isNoSpace(err) {
		return err
	}
	if err := a.active.file.Sync(); err != nil {
		return &syncError{fmt.Errorf("sync segment %d: %w", a.active.id, err)}
	}
	if err != nil { // a file system that copies on write
		s.logger.Warn("disk full: the end of the log is synced as it is, and not relied on", "dir", s.path, "error", err)
		return nil
	}
	a.active.synced.Store(end)
	return nil
}

// rewrite writes what is in a part of a segment over itself. A sync that failed before the restart may have left pages that
// read well, are not on disk, and are not written by the next sync, which takes them for clean (fsyncgate).
func (s *Store) rewrite(seg *segment, from, to int64) error {
	buf := make([]byte, min(mib, max(0, to-from)))
	for at := from; at < to; at += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), to-at)]
		if _, err := seg.file.ReadAt(b, at); err != nil {
			return fmt.Errorf("read %s at offset %d: %w", seg.name, at, err)
		}
		if _, err := seg.file.WriteAt(b, at); err != nil {
			return fmt.Errorf("write %s at offset %d: %w", seg.name, at, err)
		}
	}
	return nil
}
