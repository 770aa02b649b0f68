package bitcask

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
)

// committer owns the entries that are on disk and not yet visible, and the
// point up to which the log is committed.
type committer struct {
	mu      sync.RWMutex // Commit holds it to write, in index order; Freeze to read
	queue   sync.Mutex   // guards pending
	pending []*pendingEntry
	point   atomic.Pointer[commitPoint]
}

// commitPoint says what is visible. It only grows (I4), and is replaced whole.
type commitPoint struct {
	index, term uint64
	cleared     uint64 // records with a lower version are gone
	time        int64  // highest leader time so far, ms since 1970
	// Where the log stood: the frame of the entry ends at end of segment. A
	// checkpoint ends here. segment is 0 when no log segment holds the entry.
	segment uint32
	end     int64
}

// pendingEntry is an entry between Append and Commit, already parsed, so that
// Commit neither parses nor reads.
type pendingEntry struct {
	index, term uint64
	segment     *segment
	start, end  int64 // of its frame
	prev        uint32
	count       uint32 // records in the frame
	time        int64
	records     []pendingRecord
}

// pendingRecord is one effect. key aliases the entry's data.
type pendingRecord struct {
	flags        recordFlags
	key          []byte
	offset, size uint32 // in the segment
	expireAt     int64
	version      uint64 // the entry's index; in a merged segment the record's own
}

// parseEntry checks an entry and finds its records, for a frame at offset at of
// seg. An entry whose batch names another term is void: it holds no live record,
// here and wherever frames are read again (primary order, DESIGN §2).
func parseEntry(seg *segment, at int64, e *Entry) (*pendingEntry, error) {
	p := new(pendingEntry)
	if err := p.parseEntry(seg, at, e); err != nil {
		return nil, err
	}
	return p, nil
}

// parseEntry reuses the memory of p's records.
func (p *pendingEntry) parseEntry(seg *segment, at int64, e *Entry) error {
	*p = pendingEntry{index: e.Index, term: e.Term, segment: seg, start: at, records: p.records[:0]}
	if e.Kind != KindData {
		return nil
	}
	term, ok := BatchTerm(e.Data)
	if !ok {
		return fmt.Errorf("its data is no batch of format %d", batchFormat)
	}
	p.count = batchCount(e.Data)
	if int(p.count) > len(e.Data)/recordHeaderBytes {
		return fmt.Errorf("a batch of %d bytes cannot hold %d records", len(e.Data), p.count)
	}
	void := term != 0 && term != e.Term
	if !void {
		if cap(p.records) < int(p.count) {
			p.records = make([]pendingRecord, 0, p.count)
		}
		p.time = batchTime(e.Data)
	}
	base := at + frameHeaderBytes
	return eachRecord(e.Data, func(off int, r record) {
		if void {
			return
		}
		p.records = append(p.records, pendingRecord{
			flags: r.flags, key: r.key, offset: uint32(base + int64(off)), size: uint32(r.size),
			expireAt: r.expireAt, version: e.Index,
		})
	})
}

// parseFrame is parseEntry for a frame that was read back, of either kind of segment.
func parseFrame(seg *segment, f *frame) (*pendingEntry, error) {
	p := new(pendingEntry)
	if err := p.parseFrame(seg, f); err != nil {
		return nil, err
	}
	return p, nil
}

// parseFrame reuses the memory of p's records.
func (p *pendingEntry) parseFrame(seg *segment, f *frame) error {
	if (f.kind == kindMerged) != (seg.kind == mergedSegment) {
		return fmt.Errorf("a frame of kind %d does not belong into a segment of kind %d", f.kind, seg.kind)
	}
	if f.kind != kindMerged {
		err := p.parseEntry(seg, f.offset, &Entry{Index: f.index, Term: f.term, Kind: f.kind, Data: f.data, Ext: f.ext})
		p.end = f.end()
		return err
	}
	*p = pendingEntry{index: f.index, segment: seg, start: f.offset, end: f.end(), count: f.count, records: p.records[:0]}
	for off := 0; off < len(f.data); {
		r, err := parseRecord(f.data[off:])
		if err != nil {
			return err
		}
		p.records = append(p.records, pendingRecord{
			flags: r.flags &^ flagVersion, key: r.key, offset: uint32(f.offset+frameHeaderBytes) + uint32(off), size: uint32(r.size),
			expireAt: r.expireAt, version: r.version,
		})
		off += r.size
	}
	if len(p.records) != int(f.count) {
		return fmt.Errorf("the frame has %d records, should have %d", len(p.records), f.count)
	}
	return nil
}

// push queues entries that were written. The caller holds the log's lock, which
// keeps the queue in index order.
func (c *committer) push(run []*pendingEntry) {
	c.queue.Lock()
	defer c.queue.Unlock()
	c.pending = append(c.pending, run...)
}

// pop takes the next entry if its index is at most limit.
func (c *committer) pop(limit uint64) *pendingEntry {
	c.queue.Lock()
	defer c.queue.Unlock()
	if len(c.pending) == 0 || c.pending[0].index > limit {
		return nil
	}
	p := c.pending[0]
	c.pending[0] = nil
	c.pending = c.pending[1:]
	if len(c.pending) == 0 {
		c.pending = nil // let the backing array go
	}
	return p
}

// Commit makes the entries up to index visible. It does no I/O: their records
// are where they were appended, and the keydir is pointed at them. Committing an
// index again changes nothing.
func (s *Store) Commit(index uint64) error {
	s.committer.mu.Lock()
	defer s.committer.mu.Unlock()
	if s.closed.Load() {
		return ErrClosed
	}
	if s.readOnly() {
		return ErrReadOnly
	}
	err := s.commitLocked(index)
	s.noteCommitSoon()
	return err
}

func (s *Store) commitLocked(index uint64) error {
	for p := s.committer.pop(index); p != nil; p = s.committer.pop(index) {
		s.apply(p)
	}
	if at := s.committer.point.Load().index; at < index {
		return fmt.Errorf("bitcask: commit %d: the log ends at %d", index, at)
	}
	return nil
}

// apply shows one entry to readers, whole.
func (s *Store) apply(p *pendingEntry) {
	point := *s.committer.point.Load()
	point.index, point.term, point.time = p.index, p.term, max(point.time, p.time)
	point.segment, point.end = p.segment.id, p.end
	s.visible.Lock()
	batch := len(p.records) > 1
	if batch {
		s.batches.Add(1)
	}
	for i := range p.records {
		r := &p.records[i]
		switch {
		case r.flags&flagClear != 0:
			s.clearKeys()
			point.cleared = p.index
			p.segment.cleared = p.index
		case r.flags&flagDelete != 0:
			if old, existed := s.visible.keys.Delete(r.key); existed {
				s.markDead(old)
			}
			p.segment.tombstoneBytes.Add(int64(r.size))
		default:
			it := keydir.Item{
				Position: keydir.Position{Segment: p.segment.id, Offset: r.offset, Size: r.size},
				Version:  r.version, ExpireAt: r.expireAt,
			}
			if old, replaced := s.visible.keys.Put(r.key, it); replaced {
				s.markDead(old)
			}
			p.segment.addLive(int64(r.size))
		}
	}
	s.committer.point.Store(&point)
	if batch {
		s.batches.Add(1)
	}
	s.visible.Unlock()
}

func (s *Store) clearKeys() {
	s.visible.keys.Clear()
	for _, seg := range s.visible.segments {
		seg.liveBytes.Store(0)
		seg.liveRecords.Store(0)
		seg.tombstoneBytes.Store(0) // a clear shadows all that they did
	}
}

// markDead takes a record that the keydir no longer points at off its segment's
// account.
func (s *Store) markDead(old keydir.Item) {
	if seg := s.visible.segments[old.Segment]; seg != nil {
		seg.addLive(-int64(old.Size))
	}
}

func (seg *segment) addLive(bytes int64) {
	seg.liveBytes.Add(bytes)
	if bytes < 0 {
		seg.liveRecords.Add(-1)
	} else {
		seg.liveRecords.Add(1)
	}
}

// Applied is the index and term of the last committed entry.
func (s *Store) Applied() (index, term uint64) {
	point := s.committer.point.Load()
	return point.index, point.term
}
