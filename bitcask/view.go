package bitcask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
	"github.com/raftcask/raftcask/internal/vfs"
)

// OpenReadOnly opens what the store in dir holds at this moment, whether another process has it
// open or nobody has: it takes no lock, and changes no file. What it shows stays as it was, also
// while merges replace the files: they are open. All that the writer acknowledged before
// is there, and all that is there is on disk. Of a log that a consensus drives the
// entries known committed are shown.
//
// Get, Scan, Stats, Scrub and Backup work as on any store; writes get ErrReadOnly.
// It costs the memory of a keydir, and a pass over the newest segment.
func OpenReadOnly(dir string, options *Options) (s *Store, err error) {
	opts, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	opts.FS = readOnlyFS{opts.FS}
	err = untilSettled(func() error {
		s, err = openView(dir, opts)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("bitcask: open %s to read: %w", dir, err)
	}
	return s, nil
}

// settleTries bounds untilSettled: each try but the last met another change of the log.
const settleTries = 100

// untilSettled repeats a look at a directory that another process may be writing to, while
// damage seems to move: a log was truncated under the reader. Real damage stays where it is.
func untilSettled(look func() error) error {
	var before *CorruptError
	for try := 1; ; try++ {
		err := look()
		var damage *CorruptError
		if !errors.As(err, &damage) || try == settleTries || (before != nil && *before == *damage) {
			return err
		}
		before = damage
	}
}

// readOnlyFS is a disk that cannot be changed through it: whoever is given one keeps
// the promise that no file is touched.
type readOnlyFS struct{ vfs.FS }

func (r readOnlyFS) Open(name string) (vfs.File, error)   { return r.OpenRead(name) }
func (readOnlyFS) Create(string) (vfs.File, error)        { return nil, ErrReadOnly }
func (readOnlyFS) Remove(string) error                    { return ErrReadOnly }
func (readOnlyFS) Rename(string, string) error            { return ErrReadOnly }
func (readOnlyFS) Link(string, string) error              { return ErrReadOnly }
func (readOnlyFS) MkdirAll(string) error                  { return ErrReadOnly }
func (readOnlyFS) SyncDir(string) error                   { return ErrReadOnly }
func (readOnlyFS) Lock(string, string) (io.Closer, error) { return nil, ErrReadOnly }

func (s *Store) readOnly() bool {
	_, ok := s.fs.(readOnlyFS)
	return ok
}

// writableFS is the disk itself, for what is written elsewhere than in the store.
func writableFS(fs vfs.FS) vfs.FS {
	if r, ok := fs.(readOnlyFS); ok {
		return r.FS
	}
	return fs
}

// openView makes a Store whose keydir is loaded and whose files stay as they are.
func openView(dir string, opts Options) (_ *Store, err error) {
	set, err := openFiles(opts.FS, dir, func(m *manifest) ([]segmentMeta, error) {
		if m == nil {
			return nil, fmt.Errorf("%w: there is no %s", ErrNoStore, manifestName)
		}
		return m.Segments, nil
	})
	if err == nil {
		err = set.complete()
	}
	if err != nil {
		return nil, err
	}
	s, m := newView(dir, opts), set.manifest
	defer func() {
		if err != nil {
			s.stop()
			s.releaseAll()
		}
	}()
	s.disk.manifest = *m
	s.disk.manifest.Checkpoints = nil // their files are not held
	for _, seg := range set.segments {
		s.visible.segments[seg.id] = seg
	}
	v := &viewLoader{store: s, logger: opts.Logger, point: commitPoint{index: m.AppliedIndex, term: m.AppliedTerm, cleared: m.Cleared, time: m.Time}}
	if err := v.load(); err != nil {
		return nil, err
	}
	s.publishLocked() // nobody else is there yet
	return s, nil
}

// viewLoader fills the keydir of a view. It writes no hint: a segment without one is read.
type viewLoader struct {
	store  *Store
	logger *slog.Logger
	point  commitPoint
	hinted []*hintReader
	of     []*segment // of each hint
	bare   []*segment // sealed ones without a hint and the active one, in order
	clears []uint64   // entries of bare segments that clear
	// The last log entry that was found.
	last, lastTerm uint64
}

func (v *viewLoader) load() error {
	defer func() {
		for _, h := range v.hinted {
			h.close()
		}
	}()
	v.openHints()
	for _, seg := range v.bare {
		if err := v.survey(seg); err != nil {
			return err
		}
	}
	if v.lastTerm != 0 && v.last < v.point.index && v.last > v.store.disk.manifest.Forgotten {
		return &CorruptError{File: v.store.path, Reason: fmt.Sprintf("the log ends at entry %d, but %d was committed", v.last, v.point.index)}
	}
	for _, index := range v.clears {
		if index <= v.point.index {
			v.point.cleared = max(v.point.cleared, index)
		}
	}
	for i, h := range v.hinted {
		if err := h.each(func(k hintKey) { v.enter(v.of[i], k) }, nil); err != nil {
			v.logger.Warn("a hint is damaged: reading its segment", "error", err)
			v.bare = append(v.bare, v.of[i]) // entering a record twice does no harm
		}
	}
	for _, seg := range v.bare {
		if err := v.read(seg); err != nil {
			return err
		}
	}
	return v.finish()
}

func (v *viewLoader) openHints() {
	s := v.store
	for _, seg := range sortedSegments(s.visible.segments) {
		if seg.id == s.disk.manifest.Active {
			continue
		}
		h, err := openHint(s.fs, s.path, seg)
		if err != nil {
			v.bare = append(v.bare, seg)
			continue
		}
		v.hinted, v.of = append(v.hinted, h), append(v.of, seg)
		seg.hinted.Store(true)
		seg.cleared = h.cleared
		v.point.cleared, v.point.time = max(v.point.cleared, h.cleared), max(v.point.time, h.time)
		if seg.kind == logSegment {
			v.found(seg.last, h.lastTerm)
			v.advance(seg.last, h.lastTerm, seg, seg.size.Load())
		}
	}
	v.bare = append(v.bare, s.visible.segments[s.disk.manifest.Active])
}

func (v *viewLoader) found(index, term uint64) {
	if index >= v.last {
		v.last, v.lastTerm = index, term
	}
}

// advance moves the end of what is committed.
func (v *viewLoader) advance(index, term uint64, seg *segment, end int64) {
	if index >= v.point.index {
		v.point.index, v.point.term, v.point.segment, v.point.end = index, term, seg.id, end
	}
}

// walker of a segment that has no hint. Damage is an error.
func (v *viewLoader) walker(seg *segment, fn func(f *frame, p *pendingEntry) error) (*walker, error) {
	w := &walker{seg: seg, limit: seg.size.Load(), frame: fn, damage: func(d Damage, _ *pendingEntry) error {
		return &CorruptError{File: d.File, Offset: d.Offset, Reason: d.Reason}
	}}
	if seg.id != v.store.disk.manifest.Active || w.limit > 0 {
		return w, nil
	}
	size, err := seg.file.Size()
	if err != nil {
		return nil, fmt.Errorf("size of %s: %w", seg.name, err)
	}
	w.limit, w.tail, w.synced = size, true, syncedUpTo(&v.store.disk.manifest, seg.id)
	return w, nil
}

// syncedUpTo is the manifest's promise for the active segment.
func syncedUpTo(m *manifest, id uint32) int64 {
	for _, sm := range m.Segments {
		if sm.ID == id {
			return sm.Synced
		}
	}
	return 0
}

// survey finds out how far a log segment is committed, and what it clears.
func (v *viewLoader) survey(seg *segment) error {
	if seg.kind == mergedSegment {
		return nil
	}
	w, err := v.walker(seg, func(f *frame, p *pendingEntry) error {
		v.found(f.index, f.term)
		v.point.index = max(v.point.index, committedBy(f, v.store.opts.Replicated))
		if clears(p) {
			v.clears = append(v.clears, p.index)
		}
		return nil
	})
	if err != nil {
		return err
	}
	end, err := w.walk()
	seg.size.Store(end)
	return err
}

// committedBy is the highest index that a frame proves committed. An entry without a term was written by
// a store that numbers its own: there, appended is committed.
func committedBy(f *frame, replicated bool) uint64 {
	if f.term == 0 && !replicated {
		return f.index
	}
	return f.applied
}

func clears(p *pendingEntry) bool {
	return len(p.records) > 0 && p.records[0].flags&flagClear != 0
}

var errBeyond = errors.New("an entry that is not committed")

// read enters the committed records of a segment.
func (v *viewLoader) read(seg *segment) error {
	end := int64(segmentHeaderBytes)
	seg.tombstoneBytes.Store(0)
	if seg.kind == logSegment {
		seg.first, seg.last = 0, 0
	}
	w := &walker{seg: seg, limit: seg.size.Load(), damage: func(d Damage, _ *pendingEntry) error {
		return &CorruptError{File: d.File, Offset: d.Offset, Reason: d.Reason}
	}}
	w.frame = func(f *frame, p *pendingEntry) error {
		if seg.kind == logSegment {
			if f.index > v.point.index {
				return errBeyond
			}
			if seg.first == 0 {
				seg.first = f.index
			}
			seg.last = f.index
			v.advance(f.index, f.term, seg, f.end())
		}
		end = f.end()
		v.point.time = max(v.point.time, p.time)
		for i := range p.records {
			v.enterRecord(seg, &p.records[i])
		}
		return nil
	}
	if _, err := w.walk(); err != nil && !errors.Is(err, errBeyond) {
		return err
	}
	seg.size.Store(end)
	return nil
}

func (v *viewLoader) enterRecord(seg *segment, r *pendingRecord) {
	if r.flags&flagClear != 0 {
		seg.cleared = r.version
		return
	}
	v.enter(seg, hintKey{flags: r.flags & flagDelete, offset: r.offset, size: r.size, version: r.version, expireAt: r.expireAt, key: r.key})
}

// enter keeps the highest version of a key.
func (v *viewLoader) enter(seg *segment, k hintKey) {
	if k.version < v.point.cleared {
		return
	}
	if k.flags&flagDelete != 0 {
		seg.tombstoneBytes.Add(int64(k.size))
	}
	set := v.store.visible.segments
	it := keydir.Item{
		Position: keydir.Position{Segment: seg.id, Offset: k.offset, Size: k.size},
		Version:  k.version, ExpireAt: k.expireAt, Tombstone: k.flags&flagDelete != 0,
	}
	old, existed, stored := v.store.visible.keys.PutIfNewer(k.key, it)
	if !stored || (existed && old.Position == it.Position) {
		return
	}
	if existed && !old.Tombstone {
		set[old.Segment].addLive(-int64(old.Size))
	}
	if !it.Tombstone {
		seg.addLive(int64(it.Size))
	}
}

// finish makes sure that what was read cannot be undone by a power loss, through our
// own handle: the writer may still be on its way to its sync.
func (v *viewLoader) finish() error {
	s := v.store
	active := s.visible.segments[s.disk.manifest.Active]
	if err := active.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", active.name, err)
	}
	s.visible.keys.DropTombstones()
	s.log.last = max(v.last, v.point.index)
	s.log.forgotten.Store(v.point.index) // entries are not served
	s.committer.point.Store(&v.point)
	return nil
}

// newView is an empty Store over a directory that is only read.
func newView(dir string, opts Options) *Store {
	s := &Store{path: dir, opts: opts, fs: opts.FS, logger: opts.Logger, wake: make(chan struct{}, 1)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.visible.keys = keydir.New(opts.HashSeed)
	s.visible.segments = map[uint32]*segment{}
	s.committer.point.Store(&commitPoint{})
	s.commits.store = s
	return s
}

// fileSet is the segments that a manifest lists, open.
type fileSet struct {
	manifest *manifest
	segments []*segment // in the order of the list
	damage   []Damage   // of files that cannot be opened
	err      error      // the first of them
}

func (set *fileSet) close() {
	for _, seg := range set.segments {
		_ = seg.file.Close() // only read
	}
	set.segments = nil
}

// complete closes a set in which anything is missing, and returns why.
func (set *fileSet) complete() error {
	if set.err != nil {
		set.close()
	}
	return set.err
}

// add takes a file into the set, or what is wrong with it.
func (set *fileSet) add(seg *segment, name string, err error) {
	if err != nil {
		set.damage = append(set.damage, damageOf(name, err))
		set.err = firstError(set.err, err)
		return
	}
	set.segments = append(set.segments, seg)
}

// openFiles opens the segments that list picks from the manifest of dir (nil when there is none), and notes
// those that it cannot.
//
// Another process may be merging: then a file is gone before it is opened, and the manifest is a new one. Files
// that were opened are kept for the next try, since the id of a segment is never given out again. A
// try has only the newest files to open, and so catches up with any merge.
func openFiles(fs vfs.FS, dir string, list func(*manifest) ([]segmentMeta, error)) (*fileSet, error) {
	files := map[uint32]vfs.File{}
	defer func() {
		for _, file := range files {
			_ = file.Close() // only read
		}
	}()
	var seen *manifest
	for {
		m, err := readManifest(fs, dir)
		if err != nil {
			return nil, err
		}
		metas, err := list(m)
		if err != nil {
			return nil, err
		}
		failed := openMissing(fs, dir, metas, files)
		set := &fileSet{manifest: m}
		for _, sm := range metas {
			err := failed[sm.ID]
			var seg *segment
			if err == nil {
				seg, err = checkSegment(files[sm.ID], dir, sm)
			}
			set.add(seg, segmentName(dir, sm.ID), err)
		}
		if set.err == nil || reflect.DeepEqual(m, seen) { // damage that stays is real
			for _, seg := range set.segments {
				delete(files, seg.id) // the segment owns it
			}
			return set, nil
		}
		seen = m
	}
}

// openMissing opens what files does not have yet, and returns an error for each that it cannot open.
func openMissing(fs vfs.FS, dir string, metas []segmentMeta, files map[uint32]vfs.File) map[uint32]error {
	var failed map[uint32]error
	for i := len(metas) - 1; i >= 0; i-- { // the newest first: the next merge may take them
		id := metas[i].ID
		if files[id] != nil {
			continue
		}
		file, err := openSegmentFile(fs, dir, id)
		if err == nil {
			files[id] = file
			continue
		}
		if failed == nil {
			failed = map[uint32]error{}
		}
		failed[id] = err
	}
	return failed
}

func firstError(first, next error) error {
	if first != nil {
		return first
	}
	return next
}

// allFiles picks every segment that a manifest names: the live ones and those of saved checkpoints.
func allFiles(m *manifest) ([]segmentMeta, error) {
	if m == nil {
		return nil, fmt.Errorf("%w: there is no %s", ErrNoStore, manifestName)
	}
	return m.allSegments(), nil
}

// allSegments are the live ones, and those that only checkpoints name, by id.
func (m *manifest) allSegments() []segmentMeta {
	list := slices.Clone(m.Segments)
	for _, c := range m.Checkpoints {
		for _, sm := range c.Segments {
			if !slices.ContainsFunc(list, func(have segmentMeta) bool { return have.ID == sm.ID }) {
				list = append(list, sm)
			}
		}
	}
	slices.SortFunc(list, func(a, b segmentMeta) int { return int(int64(a.ID) - int64(b.ID)) })
	return list
}
