package bitcask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/raftcask/raftcask/internal/vfs"
)

// A backup is a directory in the form of a store: segments, and a MANIFEST that names them, which is
// replaced last and as a whole. It says of itself that it is a backup by a saved checkpoint of the name
// backupName. So Verify, Dump, Salvage and OpenReadOnly work on a backup as they do on a store.
//
// New segments are copied into a directory of their own first. What a broken backup left there is
// used by the next one, as far as its CRCs are right.

const (
	backupName    = "backup"
	backupStaging = stagingPrefix + backupName
)

// BackupReport says what a backup holds and what it took.
type BackupReport struct {
	Index          uint64 `json:"index"` // of the last entry in it
	Segments       int    `json:"segments"`
	Bytes          int64  `json:"bytes"`           // of them
	CopiedSegments int    `json:"copied_segments"` // the others were there already
	CopiedBytes    int64  `json:"copied_bytes"`
}

// Backup brings the directory dst to the state that the store has now, while reads, writes and merges
// go on. dst is empty or missing (a full backup), or holds an older backup of this store that nobody has written to: then
// only segments are copied that are not there yet by id, length and CRC, each of which is read to know.
// The older backup is whole until the new one is, whatever happens; one that broke off is never taken for a whole
// one. Damage in the store fails the backup, with file and offset: see Salvage.
func (s *Store) Backup(ctx context.Context, dst string) (BackupReport, error) {
	c, err := s.Checkpoint()
	if err != nil {
		return BackupReport{}, err
	}
	defer c.Release()
	if !s.readOnly() {
		// In a store that does not sync every write its end may be in memory. A power loss would
		// let other entries take its place, under the same segment id.
		if err := s.Sync(); err != nil {
			return BackupReport{}, err
		}
	}
	b := &backup{ctx: ctx, fs: writableFS(s.fs), dst: dst, source: c, storeID: s.storeID()}
	if err := b.run(); err != nil {
		return b.report, fmt.Errorf("bitcask: back up %s into %s: %w", s.path, dst, err)
	}
	return b.report, nil
}

func (s *Store) storeID() uid {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	return s.disk.manifest.StoreID
}

// backup is one run.
type backup struct {
	ctx     context.Context
	fs      vfs.FS
	dst     string
	staging string
	source  *Checkpoint
	storeID uid
	old     *manifest // of the backup before, nil for none
	nextID  uint32
	report  BackupReport
}

// run: the order of its steps is what makes it safe.
func (b *backup) run() (err error) {
	b.staging = joinPath(b.dst, backupStaging)
	if err := b.fs.MkdirAll(b.dst); err != nil {
		return err
	}
	if err := b.readOld(); err != nil { // before a lock file is put where it does not belong
		return err
	}
	lock, err := b.fs.Lock(joinPath(b.dst, lockName), "a backup of "+b.source.store.path)
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := b.readOld(); err != nil {
		return err
	}
	if err := removeUnnamed(b.fs, b.dst, b.old, backupStaging); err != nil { // also gives ids free again
		return err
	}
	metas, err := b.gather()
	if err != nil {
		return err
	}
	m, err := b.moveIn(metas)
	if err != nil {
		return err
	}
	if err := writeManifest(b.fs, b.dst, m); err != nil { // from here on the new one is the backup
		return err
	}
	if err := syncParentsOf(b.fs, b.dst); err != nil {
		return err
	}
	return removeUnnamed(b.fs, b.dst, m, "")
}

// readOld finds the backup that is there, and refuses what is something else.
func (b *backup) readOld() error {
	m, err := readManifest(b.fs, b.dst)
	if err != nil {
		return err
	}
	b.nextID = 1
	if m == nil {
		names, err := b.fs.List(b.dst)
		if err != nil {
			return err
		}
		if slices.Contains(names, backupStaging) {
			return nil // a first backup that broke off
		}
		for _, name := range names {
			if name != lockName {
				return fmt.Errorf("%w, and holds no backup: there is %s", ErrNotEmpty, name)
			}
		}
		return nil
	}
	if backupIn(m) == nil {
		return fmt.Errorf("%w: it holds a store that is no backup", ErrNotEmpty)
	}
	if m.StoreID != b.storeID {
		return fmt.Errorf("%w: it holds the backup of another store, %s", ErrNotEmpty, m.StoreID)
	}
	if written, err := b.writtenSince(m); err != nil {
		return err
	} else if written {
		return fmt.Errorf("%w: it holds a backup that was opened as a store and written to since, which would be lost; back up into another directory", ErrNotEmpty)
	}
	if c := backupIn(m); c.AppliedIndex > b.source.meta.AppliedIndex {
		return fmt.Errorf("the backup there is newer: it ends at index %d, the store at %d", c.AppliedIndex, b.source.meta.AppliedIndex)
	}
	b.old, b.nextID = m, m.NextID
	return nil
}

// writtenSince tells whether there are entries in a backup that were not there when it was made.
func (b *backup) writtenSince(m *manifest) (bool, error) {
	made := backupIn(m).AppliedIndex
	if m.AppliedIndex > made || slices.ContainsFunc(m.Segments, func(sm segmentMeta) bool { return sm.Last > made }) {
		return true, nil
	}
	// The manifest lags behind the active segment of a store that was killed. A backup's is empty.
	f, err := b.fs.OpenRead(segmentName(b.dst, m.Active))
	if isNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var first [frameHeaderBytes]byte
	_, err = f.ReadAt(first[:], segmentHeaderBytes)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return first != [frameHeaderBytes]byte{}, errors.Join(err, f.Close())
}

// backupIn is what makes a manifest that of a whole backup, nil if it is none.
func backupIn(m *manifest) *checkpointMeta {
	i := slices.IndexFunc(m.Checkpoints, func(c checkpointMeta) bool { return c.Name == backupName })
	if i < 0 {
		return nil
	}
	return &m.Checkpoints[i]
}

// gathered is a segment of the new backup: already in place, or in the staging directory under
// the id that it has in the source.
type gathered struct {
	meta   segmentMeta
	staged string // path, "" when it is in place
}

// gather makes every segment of the checkpoint available, with all its frames checked.
func (b *backup) gather() ([]gathered, error) {
	if err := b.fs.MkdirAll(b.staging); err != nil {
		return nil, err
	}
	if err := b.fs.SyncDir(b.dst); err != nil { // marks what follows as a backup's
		return nil, &syncError{fmt.Errorf("sync %s: %w", b.dst, err)}
	}
	var list []gathered
	for i, seg := range b.source.segments {
		if err := b.ctx.Err(); err != nil {
			return nil, context.Cause(b.ctx)
		}
		meta := b.source.meta.Segments[i]
		g, err := b.gatherOne(seg, meta)
		if err != nil {
			return nil, err
		}
		b.report.Segments++
		b.report.Bytes += meta.Size
		list = append(list, g)
	}
	b.report.Index = b.source.meta.AppliedIndex
	return list, nil
}

func (b *backup) gatherOne(seg *segment, meta segmentMeta) (gathered, error) {
	if have := b.inOld(meta); have != nil && isCopy(b.fs, b.dst, *have, seg) {
		return gathered{meta: *have}, nil
	}
	staged := segmentName(b.staging, meta.ID)
	if isCopy(b.fs, b.staging, meta, seg) {
		return gathered{meta: meta, staged: staged}, syncFile(b.fs, staged) // it may be in memory only
	}
	if err := b.fs.Remove(staged); err != nil && !isNotExist(err) {
		return gathered{}, err
	}
	if err := copyFile(b.ctx, b.fs, staged, seg.file, meta.Size); err != nil {
		return gathered{}, fmt.Errorf("copy %s: %w", seg.name, err)
	}
	if _, _, err := checkCopy(b.fs, b.staging, meta); err != nil {
		// A copy is as good as what was copied.
		if damage := firstDamage(seg, meta.Size); damage != nil {
			return gathered{}, damage
		}
		return gathered{}, err
	}
	b.report.CopiedSegments++
	b.report.CopiedBytes += meta.Size
	return gathered{meta: meta, staged: staged}, nil
}

// inOld is the segment of the backup before with the same content, by uid and length.
func (b *backup) inOld(meta segmentMeta) *segmentMeta {
	if b.old == nil {
		return nil
	}
	for _, have := range backupIn(b.old).Segments {
		if have.UID == meta.UID && have.Size == meta.Size {
			have.First, have.Last = meta.First, meta.Last
			return &have
		}
	}
	return nil
}

// isCopy tells whether a file is an undamaged copy of the start of seg. All its frames are
// read; the CRC of the last one covers them all, and must be the one in the source.
func isCopy(fs vfs.FS, dir string, meta segmentMeta, seg *segment) bool {
	last, seed, err := checkCopy(fs, dir, meta)
	if err != nil || seed != seg.seed {
		return false
	}
	if last.offset == 0 {
		return true // no frames
	}
	var b [frameHeaderBytes]byte
	if _, err := seg.file.ReadAt(b[:], last.offset); err != nil {
		return false
	}
	h, err := parseFrameHeader(b[:], seg.seed, last.offset)
	return err == nil && h.crc == last.crc
}

// checkCopy reads all frames of a file that should be a whole segment of meta.Size bytes.
func checkCopy(fs vfs.FS, dir string, meta segmentMeta) (last frame, seed uint32, err error) {
	seg, err := openSegment(readOnlyFS{fs}, dir, meta)
	if err != nil {
		return frame{}, 0, err
	}
	defer func() { _ = seg.file.Close() }() // only read
	size, err := seg.file.Size()
	if err == nil && size != meta.Size {
		err = &CorruptError{File: seg.name, Offset: meta.Size, Reason: fmt.Sprintf("the file has %d bytes", size)}
	}
	if err == nil {
		err = scanSegment(seg, func(f frame, _ uint32, _ *pendingEntry) error {
			last = f
			return nil
		})
	}
	return last, seg.seed, err
}

// firstDamage names the first bad place in the part of a segment that counts.
func firstDamage(seg *segment, size int64) error {
	var found error
	if d := checkSegmentHeader(seg); d != nil {
		return &CorruptError{File: d.File, Offset: d.Offset, Reason: d.Reason}
	}
	w := &walker{
		seg: seg, limit: size, frame: func(*frame, *pendingEntry) error { return nil },
		damage: func(d Damage, _ *pendingEntry) error {
			found = &CorruptError{File: d.File, Offset: d.Offset, Reason: d.Reason}
			return found
		},
	}
	_, err := w.walk()
	return firstError(found, err)
}

// moveIn brings the new segments under ids of the backup, and makes the manifest that names all.
func (b *backup) moveIn(list []gathered) (*manifest, error) {
	meta := b.source.meta
	meta.Name, meta.Segments = backupName, nil
	for _, g := range list {
		if g.staged != "" {
			g.meta.ID = b.takeID()
			if err := b.fs.Rename(g.staged, segmentName(b.dst, g.meta.ID)); err != nil {
				return nil, err
			}
		}
		meta.Segments = append(meta.Segments, g.meta)
	}
	slices.SortFunc(meta.Segments, func(a, b segmentMeta) int { return int(int64(a.ID) - int64(b.ID)) })
	return finishCopy(b.fs, b.dst, b.storeID, meta, b.takeID, []checkpointMeta{meta})
}

func (b *backup) takeID() uint32 {
	id := b.nextID
	b.nextID++
	return id
}

// finishCopy creates the empty active segment of a copied store, makes all names durable, and returns the manifest to
// be written. The copy's log is empty and goes on after the checkpoint.
func finishCopy(fs vfs.FS, dir string, storeID uid, meta checkpointMeta, takeID func() uint32, saved []checkpointMeta) (*manifest, error) {
	active, err := createSegment(fs, dir, takeID(), logSegment, storeID) // syncs the directory too
	if err != nil {
		return nil, err
	}
	if err := active.file.Close(); err != nil {
		return nil, err
	}
	segments := append(slices.Clone(meta.Segments), segmentMeta{ID: active.id, UID: active.uid, Kind: logSegment, Synced: segmentHeaderBytes})
	m := &manifest{
		Format: manifestFormat, StoreID: storeID, NextID: active.id + 1,
		AppliedIndex: meta.AppliedIndex, AppliedTerm: meta.AppliedTerm, Cleared: meta.Cleared, Time: meta.Time, Forgotten: meta.AppliedIndex,
		Segments: segments, Active: active.id, Checkpoints: saved,
	}
	return m, m.validate()
}

// Restore makes a store in dst from the backup in src. dst must be empty or missing. Every frame is
// checked; damage fails the restore with file and offset. The store in dst is there when Restore returns nil, and not
// before: an Open in between finds data without a manifest, and refuses. src is not changed.
func Restore(ctx context.Context, src, dst string, options *Options) (BackupReport, error) {
	opts, err := options.withDefaults()
	if err != nil {
		return BackupReport{}, err
	}
	r := &restore{ctx: ctx, fs: opts.FS, from: readOnlyFS{opts.FS}, src: src, dst: dst}
	err = r.open()
	defer func() { r.close() }()
	if err == nil {
		err = r.run()
	}
	if err != nil {
		return r.report, fmt.Errorf("bitcask: restore %s into %s: %w", src, dst, err)
	}
	return r.report, nil
}

type restore struct {
	ctx      context.Context
	fs, from vfs.FS
	src, dst string
	storeID  uid
	meta     *checkpointMeta
	segments []*segment // of src, open
	report   BackupReport
}

// open opens all files of the backup first: another backup may replace them meanwhile.
func (r *restore) open() error {
	set, err := openFiles(r.from, r.src, func(m *manifest) ([]segmentMeta, error) {
		if m == nil {
			return nil, fmt.Errorf("%w: there is no %s", ErrNoBackup, manifestName)
		}
		if r.meta = backupIn(m); r.meta == nil {
			return nil, fmt.Errorf("%w: it is a store, of which \"backup\" makes one", ErrNoBackup)
		}
		r.storeID = m.StoreID
		return r.meta.Segments, nil
	})
	if err == nil {
		err = set.complete()
	}
	if err != nil {
		return err
	}
	r.segments = set.segments
	return nil
}

func (r *restore) close() {
	for _, seg := range r.segments {
		_ = seg.file.Close() // only read
	}
	r.segments = nil
}

func (r *restore) run() (err error) {
	if err := checkEmpty(r.fs, r.dst); err != nil {
		return err
	}
	if err := r.fs.MkdirAll(r.dst); err != nil {
		return err
	}
	lock, err := r.fs.Lock(joinPath(r.dst, lockName), "a restore from "+r.src)
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	meta := *r.meta
	meta.Segments = nil
	for i, seg := range r.segments {
		sm := r.meta.Segments[i]
		sm.ID = uint32(i + 1)
		if err := r.copySegment(seg, sm); err != nil {
			return err
		}
		meta.Segments = append(meta.Segments, sm)
		r.report.Segments++
		r.report.Bytes += sm.Size
	}
	r.report.Index, r.report.CopiedSegments, r.report.CopiedBytes = meta.AppliedIndex, r.report.Segments, r.report.Bytes
	next := uint32(len(meta.Segments))
	m, err := finishCopy(r.fs, r.dst, r.storeID, meta, func() uint32 { next++; return next }, nil)
	if err != nil {
		return err
	}
	if err := writeManifest(r.fs, r.dst, m); err != nil {
		return err
	}
	return syncParentsOf(r.fs, r.dst)
}

// copySegment copies a segment and makes its hint, which reads every frame of the copy.
func (r *restore) copySegment(from *segment, sm segmentMeta) error {
	if err := copyFile(r.ctx, r.fs, segmentName(r.dst, sm.ID), from.file, sm.Size); err != nil {
		return fmt.Errorf("copy %s: %w", from.name, err)
	}
	seg, err := openSegment(r.fs, r.dst, sm)
	if err != nil {
		return firstError(firstDamage(from, sm.Size), err)
	}
	defer func() { _ = seg.file.Close() }() // synced when it was copied
	w, err := newHintWriter(r.fs, r.dst, seg)
	if err != nil {
		return err
	}
	if err := scanInto(w, seg); err != nil {
		w.abort()
		return firstError(firstDamage(from, sm.Size), err)
	}
	return w.finish(sm.Size)
}

// copyFile writes the first size bytes of src to a new file, synced but for its name.
func copyFile(ctx context.Context, fs vfs.FS, name string, src io.ReaderAt, size int64) (err error) {
	out, err := fs.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	buf := make([]byte, min(mib, size))
	for at := int64(0); at < size; at += int64(len(buf)) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b := buf[:min(int64(len(buf)), size-at)]
		if n, err := src.ReadAt(b, at); n < len(b) {
			return fmt.Errorf("read at offset %d: %w", at, err)
		}
		if _, err := out.WriteAt(b, at); err != nil {
			return err
		}
	}
	if err := out.Sync(); err != nil {
		return &syncError{fmt.Errorf("sync %s: %w", name, err)}
	}
	return nil
}

func syncFile(fs vfs.FS, name string) error {
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	err = f.Sync()
	return errors.Join(err, f.Close())
}

// removeUnnamed removes segments, hints and left-overs that a manifest does not name; m may be nil. keep is
// left alone.
func removeUnnamed(fs vfs.FS, dir string, m *manifest, keep string) error {
	known := map[string]bool{keep: true}
	if m != nil {
		for _, sm := range m.allSegments() {
			known[filepath.Base(segmentName(dir, sm.ID))] = true
			known[filepath.Base(hintName(dir, sm.ID))] = true
		}
	}
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		ext := filepath.Ext(name)
		ours := strings.HasPrefix(name, stagingPrefix) || ext == ".seg" || ext == ".hint" || ext == ".tmp"
		if known[name] || !ours {
			continue
		}
		if err := vfs.RemoveAll(fs, joinPath(dir, name)); err != nil {
			return fmt.Errorf("remove left-over %s: %w", name, err)
		}
	}
	return nil
}

// syncParentsOf makes the name of a directory durable.
func syncParentsOf(fs vfs.FS, dir string) error { return (&Store{fs: fs, path: dir}).syncParents() }
