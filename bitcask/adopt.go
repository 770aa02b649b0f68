package bitcask

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"path/filepath"
	"slices"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
	"github.com/raftcask/raftcask/internal/vfs"
)

const stagingPrefix = "incoming-"

// Staging receives a checkpoint's stream into a directory beside the live files. It
// is an io.Writer for the stream's bytes; then Verify, then Store.Adopt. Whatever
// happens before Adopt, the store is as it was.
type Staging struct {
	store    *Store
	dir      string
	head     []byte // the stream's header until it is whole
	header   *streamHeader
	sections []section
	file     vfs.File // of the open section
	left     int64    // bytes of the open section
	at       int64
	sum      uint32
	sumLeft  []byte // bytes of the open section's CRC so far
	received int64

	segments map[uint32]*segment // verified
	hints    map[uint32]*hintReader
	broken   error
}

// section is a file that the stream carries.
type section struct {
	name string
	size int64
}

// Receive opens a staging directory.
func (s *Store) Receive() (*Staging, error) {
	if err := s.writable(); err != nil {
		return nil, err
	}
	st := &Staging{store: s, dir: joinPath(s.path, fmt.Sprintf("%s%08d", stagingPrefix, s.newSegmentID()))}
	if err := s.fs.MkdirAll(st.dir); err != nil {
		return nil, fmt.Errorf("bitcask: make %s: %w", st.dir, err)
	}
	return st, nil
}

// Write takes the next bytes of the stream.
func (st *Staging) Write(p []byte) (int, error) {
	if st.broken != nil {
		return 0, st.broken
	}
	n, err := st.write(p)
	st.received += int64(n)
	if err != nil {
		st.broken = fmt.Errorf("bitcask: receive a checkpoint, after %d bytes: %w", st.received, err)
	}
	return n, st.broken
}

func (st *Staging) write(p []byte) (n int, err error) {
	for len(p) > 0 {
		var took int
		switch {
		case st.header == nil:
			took, err = st.takeHeader(p)
		case st.left > 0:
			took, err = st.takeBytes(p)
		case st.file != nil:
			took, err = st.takeSum(p)
		case len(st.sections) > 0:
			err = st.openSection()
		default:
			err = fmt.Errorf("there are %d bytes after its end", len(p))
		}
		n += took
		p = p[took:]
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// takeHeader gathers the header. Its length is checked before it is trusted.
func (st *Staging) takeHeader(p []byte) (int, error) {
	want := streamFixedBytes
	if len(st.head) >= streamFixedBytes {
		want += int(binary.LittleEndian.Uint32(st.head[12:])) + 4
	}
	took := min(len(p), want-len(st.head))
	st.head = append(st.head, p[:took]...)
	if len(st.head) < want {
		return took, nil
	}
	if want == streamFixedBytes {
		if string(st.head[:8]) != streamMagic || binary.LittleEndian.Uint32(st.head[8:]) != streamFormat {
			return took, fmt.Errorf("it is no checkpoint of format %d", streamFormat)
		}
		if n := binary.LittleEndian.Uint32(st.head[12:]); n > maxStreamHeader {
			return took, fmt.Errorf("its header claims %d bytes", n)
		}
		return took, nil
	}
	header, err := decodeStreamHeader(st.head)
	if err != nil {
		return took, err
	}
	for i := range header.Checkpoint.Segments {
		m := &header.Checkpoint.Segments[i]
		m.ID = st.store.newSegmentID() // ours from here on
		st.sections = append(st.sections, section{segmentName(st.dir, m.ID), m.Size})
		if n := header.HintBytes[i]; n > 0 {
			st.sections = append(st.sections, section{hintName(st.dir, m.ID), n})
		}
	}
	st.header, st.head = header, nil
	return took, nil
}

func (st *Staging) openSection() error {
	next := st.sections[0]
	file, err := st.store.fs.Create(next.name)
	if err != nil {
		return err
	}
	st.sections = st.sections[1:]
	st.file, st.left, st.at, st.sum, st.sumLeft = file, next.size, 0, 0, nil
	return nil
}

func (st *Staging) takeBytes(p []byte) (int, error) {
	p = p[:min(int64(len(p)), st.left)]
	n, err := st.file.WriteAt(p, st.at)
	st.sum = crc32.Update(st.sum, castagnoli, p[:n])
	st.at += int64(n)
	st.left -= int64(n)
	return n, err
}

// takeSum ends a section: its bytes are on disk and as they were sent.
func (st *Staging) takeSum(p []byte) (int, error) {
	took := min(len(p), 4-len(st.sumLeft))
	st.sumLeft = append(st.sumLeft, p[:took]...)
	if len(st.sumLeft) < 4 {
		return took, nil
	}
	if got := binary.LittleEndian.Uint32(st.sumLeft); got != st.sum {
		return took, fmt.Errorf("a file arrived with checksum %08x, was sent with %08x", st.sum, got)
	}
	err := st.file.Sync()
	err = errors.Join(err, st.file.Close())
	st.file = nil
	return took, err
}

// Verify checks every frame of what arrived and completes its hints. The staging
// is ready to be adopted when it returns nil.
func (st *Staging) Verify() error {
	switch {
	case st.broken != nil:
		return st.broken
	case st.header == nil || len(st.sections) > 0 || st.file != nil:
		return fmt.Errorf("bitcask: receive a checkpoint: the stream ended after %d bytes, before its end", st.received)
	}
	st.segments, st.hints = map[uint32]*segment{}, map[uint32]*hintReader{}
	for _, m := range st.header.Checkpoint.Segments {
		if err := st.verifySegment(m); err != nil {
			return fmt.Errorf("bitcask: verify a received checkpoint: %w", err)
		}
	}
	return st.store.fs.SyncDir(st.dir)
}

func (st *Staging) verifySegment(m segmentMeta) error {
	s := st.store
	seg, err := openSegment(s.fs, st.dir, m)
	if err != nil {
		return err
	}
	st.segments[seg.id] = seg
	limit := st.header.Checkpoint.AppliedIndex
	err = scanSegment(seg, func(f frame, _ uint32, p *pendingEntry) error {
		if p.index > limit {
			return &CorruptError{File: seg.name, Offset: f.offset, Reason: fmt.Sprintf("entry %d lies beyond the checkpoint's index %d", p.index, limit)}
		}
		return nil
	})
	if err != nil {
		return err
	}
	h, err := openHint(s.fs, st.dir, seg)
	if err != nil {
		if err := s.buildHint(st.dir, seg); err != nil {
			return err
		}
		if h, err = openHint(s.fs, st.dir, seg); err != nil {
			return err
		}
	}
	st.hints[seg.id] = h
	seg.hinted.Store(true)
	seg.cleared = h.cleared
	return nil
}

// Index and term that the received checkpoint ends at; valid after Verify.
func (st *Staging) Index() (index, term uint64) {
	return st.header.Checkpoint.AppliedIndex, st.header.Checkpoint.AppliedTerm
}

// Abort throws the staging away. It does nothing after a successful Adopt.
func (st *Staging) Abort() {
	if st.broken == nil {
		st.broken = errors.New("bitcask: receive a checkpoint: given up")
	}
	if st.file != nil {
		_ = st.file.Close()
		st.file = nil
	}
	st.closeHints()
	for _, seg := range st.segments {
		seg.release(st.store.fs, st.dir)
	}
	st.segments = nil
	_ = vfs.RemoveAll(st.store.fs, st.dir) // else the next Open does it
}

func (st *Staging) closeHints() {
	for _, h := range st.hints {
		h.close()
	}
	st.hints = nil
}

// Adopt replaces the whole contents of the store, log included, by a verified
// staging, and saves it as a checkpoint of that name. It is all or nothing: until
// the manifest is switched the old contents stand, also after a crash. The log is
// empty afterwards, and goes on above the checkpoint's index.
func (s *Store) Adopt(st *Staging, name string, info []byte) error {
	if st.segments == nil {
		return errors.New("bitcask: adopt: the staging was not verified")
	}
	keys := keydir.New(s.opts.HashSeed)
	kl := keyLoader{store: s, dir: st.dir, keys: keys, segments: st.segments, hints: st.hints, cleared: st.header.Checkpoint.Cleared}
	if err := kl.load(); err != nil {
		keys.Close()
		return fmt.Errorf("bitcask: adopt: %w", err)
	}
	s.foreground.RLock() // Close waits until the old contents are gone
	defer s.foreground.RUnlock()
	old, err := s.replaceContents(st, keys, name, info)
	if err != nil {
		keys.Close()
		return fmt.Errorf("bitcask: adopt: %w", err)
	}
	s.readers.wait() // for those who still read the old contents
	s.releaseEach(old.segments)
	old.keys.Close()
	st.closeHints()
	st.segments = nil
	_ = vfs.RemoveAll(s.fs, st.dir) // empty by now; else the next Open does it
	s.nudge()
	return nil
}

// oldContents are what a store held before others took their place.
type oldContents struct {
	keys     *keydir.Keydir
	segments []*segment
}

func (s *Store) replaceContents(st *Staging, keys *keydir.Keydir, name string, info []byte) (old oldContents, err error) {
	s.merging.Lock() // a merge works on the contents that go
	defer s.merging.Unlock()
	s.appender.mu.Lock()
	defer s.appender.mu.Unlock()
	s.committer.mu.Lock()
	defer s.committer.mu.Unlock()
	meta := st.header.Checkpoint
	if err := s.writable(); err != nil {
		return old, err
	}
	if applied, _ := s.Applied(); meta.AppliedIndex < applied {
		return old, fmt.Errorf("the checkpoint ends at index %d, the store is at %d already", meta.AppliedIndex, applied)
	}
	if err := st.moveFiles(); err != nil {
		return old, s.failWrite(err)
	}
	active, err := createSegment(s.fs, s.path, s.newSegmentID(), logSegment, s.storeID())
	if err != nil {
		return old, s.failWrite(err)
	}
	meta.Name, meta.Info = name, slices.Clone(info)
	point := commitPoint{index: meta.AppliedIndex, term: meta.AppliedTerm, cleared: meta.Cleared, time: meta.Time}
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	err = s.editLocked(func(m *manifest) {
		m.AppliedIndex, m.AppliedTerm, m.Cleared, m.Time = point.index, point.term, point.cleared, point.time
		m.Forgotten = point.index
		m.Segments = append(slices.Clone(meta.Segments), segmentMeta{ID: active.id, UID: active.uid, Kind: logSegment, Synced: segmentHeaderBytes})
		m.Active = active.id
		m.Checkpoints = []checkpointMeta{meta}
	})
	if err != nil {
		active.retired.Store(s.poison.Load() == nil)
		active.release(s.fs, s.path)
		return old, err
	}
	return s.switchTo(st, keys, active, point), nil
}

// moveFiles brings the files under their final names. Until the manifest names
// them they are garbage there.
func (st *Staging) moveFiles() error {
	s := st.store
	for _, seg := range sortedSegments(st.segments) {
		for _, from := range []string{hintName(st.dir, seg.id), segmentName(st.dir, seg.id)} {
			if err := s.fs.Rename(from, joinPath(s.path, filepath.Base(from))); err != nil {
				return fmt.Errorf("move %s into place: %w", from, err)
			}
		}
		seg.name = segmentName(s.path, seg.id)
	}
	if err := s.fs.SyncDir(s.path); err != nil {
		return &syncError{fmt.Errorf("sync %s: %w", s.path, err)}
	}
	return nil
}

// switchTo makes the adopted contents the visible ones, and returns those before. The manifest has the new ones already.
func (s *Store) switchTo(st *Staging, keys *keydir.Keydir, active *segment, point commitPoint) (old oldContents) {
	s.log.mu.Lock()
	s.log.first, s.log.last, s.log.places = 0, point.index, nil
	s.log.forgotten.Store(point.index)
	s.log.generation.Add(1)
	s.log.mu.Unlock()
	s.committer.queue.Lock()
	s.committer.pending = nil
	s.committer.queue.Unlock()

	s.visible.Lock()
	old.keys = s.visible.keys
	for _, seg := range s.visible.segments {
		seg.retired.Store(true)
		old.segments = append(old.segments, seg)
	}
	s.visible.keys = keys
	s.visible.segments = maps.Clone(st.segments)
	s.visible.segments[active.id] = active
	s.committer.point.Store(&point)
	s.publishLocked()
	s.visible.Unlock()
	s.appender.begin(active)
	s.mapActive()
	pins := make(map[uint32]*segment, len(st.segments))
	for id, seg := range st.segments {
		seg.acquire()
		pins[id] = seg
	}
	old.segments = append(old.segments, s.replacePinsLocked(pins)...)
	return old
}
