package bitcask

import (
	"fmt"
	"slices"
)

// Checkpoint is the exact state of a store at one index: the segments that held
// it, the newest one up to the frame of that index. Taking one costs no I/O and
// no copy. Its files stay until Release; a saved one survives a restart and
// pins its files until the next is saved.
type Checkpoint struct {
	store    *Store
	meta     checkpointMeta
	segments []*segment // one reference each
}

// CheckpointInfo names a saved checkpoint.
type CheckpointInfo struct {
	Name        string
	Index, Term uint64
	Info        []byte // as given to Save
}

// Checkpoint captures what is committed now. The caller releases it.
func (s *Store) Checkpoint() (*Checkpoint, error) {
	s.committer.mu.Lock()
	defer s.committer.mu.Unlock()
	s.log.mu.RLock()
	defer s.log.mu.RUnlock()
	s.visible.RLock()
	defer s.visible.RUnlock()
	if s.visible.segments == nil {
		return nil, ErrClosed
	}
	point := s.committer.point.Load()
	c := &Checkpoint{store: s, meta: checkpointMeta{
		AppliedIndex: point.index, AppliedTerm: point.term, Cleared: point.cleared, Time: point.time,
	}}
	for _, seg := range sortedSegments(s.visible.segments) {
		m := describe(seg)
		switch {
		case seg.first == 0 || (seg.kind == logSegment && seg.first > point.index):
			continue // nothing committed in it
		case seg.kind == logSegment && (seg.last > point.index || seg.id == point.segment):
			m.Size, m.Last = point.end, point.index
		}
		seg.acquire()
		c.segments = append(c.segments, seg)
		c.meta.Segments = append(c.meta.Segments, m)
	}
	return c, nil
}

// Index and Term of the last entry in the checkpoint.
func (c *Checkpoint) Index() uint64 { return c.meta.AppliedIndex }

// Term of the last entry in the checkpoint.
func (c *Checkpoint) Term() uint64 { return c.meta.AppliedTerm }

// Release lets go of the files.
func (c *Checkpoint) Release() {
	for _, seg := range c.segments {
		seg.release(c.store.fs, c.store.path)
	}
	c.segments = nil
}

// Save enters the checkpoint into the manifest under a name, with the caller's
// info, in place of the one saved before. It refuses to go backwards.
func (c *Checkpoint) Save(name string, info []byte) error {
	s := c.store
	s.foreground.RLock() // after Close the directory may have another owner
	defer s.foreground.RUnlock()
	// In a store that does not sync every write the checkpoint's end may still
	// be in memory.
	if err := s.Sync(); err != nil {
		return err
	}
	meta := c.meta
	meta.Name, meta.Info = name, slices.Clone(info)
	before, err := c.saveAs(meta)
	s.releaseEach(before)
	return err
}

// saveAs returns the segments of the checkpoint that was saved before, for the caller to release.
func (c *Checkpoint) saveAs(meta checkpointMeta) (before []*segment, err error) {
	s := c.store
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	for _, old := range s.disk.manifest.Checkpoints {
		if old.AppliedIndex > meta.AppliedIndex {
			return nil, fmt.Errorf("bitcask: save checkpoint %q at index %d: %q at index %d is newer", meta.Name, meta.AppliedIndex, old.Name, old.AppliedIndex)
		}
	}
	if err := s.editLocked(func(m *manifest) { m.Checkpoints = []checkpointMeta{meta} }); err != nil {
		return nil, fmt.Errorf("save checkpoint %q: %w", meta.Name, err)
	}
	pins := make(map[uint32]*segment, len(c.segments))
	for _, seg := range c.segments {
		seg.acquire()
		seg.retired.Store(false) // a merge may have retired it since the checkpoint was taken; now the manifest names it
		pins[seg.id] = seg
	}
	return s.replacePinsLocked(pins), nil
}

// replacePinsLocked returns the segments of the checkpoint before, to be released. One that is
// not live either is no longer in the manifest.
func (s *Store) replacePinsLocked(pins map[uint32]*segment) (before []*segment) {
	live := s.liveSegments()
	for id, seg := range s.disk.pinned {
		if pins[id] == nil && live[id] == nil {
			seg.retired.Store(true)
		}
		before = append(before, seg)
	}
	s.disk.pinned = pins
	return before
}

// Checkpoints lists the saved checkpoints.
func (s *Store) Checkpoints() []CheckpointInfo {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	var list []CheckpointInfo
	for _, c := range s.disk.manifest.Checkpoints {
		list = append(list, CheckpointInfo{Name: c.Name, Index: c.AppliedIndex, Term: c.AppliedTerm, Info: slices.Clone(c.Info)})
	}
	return list
}

// OpenCheckpoint gives the saved checkpoint of that name, to be released.
func (s *Store) OpenCheckpoint(name string) (*Checkpoint, error) {
	if s.closed.Load() {
		return nil, ErrClosed
	}
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	for _, meta := range s.disk.manifest.Checkpoints {
		if meta.Name != name {
			continue
		}
		c := &Checkpoint{store: s, meta: meta}
		for _, m := range meta.Segments {
			seg := s.disk.pinned[m.ID]
			seg.acquire()
			c.segments = append(c.segments, seg)
		}
		return c, nil
	}
	return nil, fmt.Errorf("%w: no checkpoint %q", ErrNotFound, name)
}
