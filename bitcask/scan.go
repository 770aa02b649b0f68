package bitcask

import (
	"cmp"
	"slices"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
)

// scanChunk keys are looked up, sorted by place and read together: memory stays
// bounded (about 100 bytes and the key for each) and the disk is read forwards.
const scanChunk = 16 << 10

// Scan calls fn for every live key that begins with prefix, with its value, as they
// were when Scan was called; the order is not defined. Writers are not held up: a part
// of the keydir (about a thousandth) is copied when it is first written to
// while a scan that needs it runs. Files that a merge replaces meanwhile are kept until the end.
// Key and value are valid during fn. An error of fn ends the scan and is returned.
func (s *Store) Scan(prefix []byte, fn func(key, value []byte) error) error {
	sc, err := s.beginScan()
	if err != nil {
		return err
	}
	defer sc.end()
	sc.fn = fn
	sc.view.Range(prefix, sc.add)
	sc.flush()
	return sc.err
}

// scan is one walk over a view of the keydir.
type scan struct {
	store    *Store
	view     *keydir.View
	segments map[uint32]*segment // one reference each
	now      int64
	fn       func(key, value []byte) error
	chunk    []scanItem
	keys     []byte // of the chunk
	buf      []byte
	err      error
}

type scanItem struct {
	at       keydir.Position
	from, to int // in scan.keys
}

func (s *Store) beginScan() (*scan, error) {
	thaw := s.Freeze() // no entry may be half visible in the view
	defer thaw()
	s.visible.RLock()
	defer s.visible.RUnlock()
	if s.visible.segments == nil {
		return nil, ErrClosed
	}
	for _, seg := range s.visible.segments {
		seg.acquire()
	}
	now := s.Now()
	return &scan{store: s, view: s.visible.keys.View(), segments: s.visible.segments, now: now}, nil
}

func (sc *scan) end() {
	sc.view.Close()
	for _, seg := range sc.segments {
		seg.release(sc.store.fs, sc.store.path)
	}
}

func (sc *scan) add(key []byte, it keydir.Item) bool {
	if (Item{ExpireAt: it.ExpireAt}).Expired(sc.now) {
		return true
	}
	from := len(sc.keys)
	sc.keys = append(sc.keys, key...)
	sc.chunk = append(sc.chunk, scanItem{it.Position, from, len(sc.keys)})
	if len(sc.chunk) >= scanChunk {
		sc.flush()
	}
	return sc.err == nil
}

// flush reads the gathered records in the order of the disk.
func (sc *scan) flush() {
	slices.SortFunc(sc.chunk, func(a, b scanItem) int {
		return cmp.Or(cmp.Compare(a.at.Segment, b.at.Segment), cmp.Compare(a.at.Offset, b.at.Offset))
	})
	for _, it := range sc.chunk {
		if sc.err != nil {
			break
		}
		key := sc.keys[it.from:it.to]
		var value []byte
		if value, sc.err = readValue(sc.segments[it.at.Segment], it.at, key, sc.buf[:0]); sc.err == nil {
			sc.buf = value
			sc.err = sc.fn(key, value)
		}
	}
	sc.chunk, sc.keys = sc.chunk[:0], sc.keys[:0]
}
