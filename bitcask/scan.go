package bitcask

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
)

// Scan calls fn for every live key that begins with prefix, with its value, as they were when Scan was called, in
// the order of the disk, which is no order of the keys. Key and value are valid during fn. An error of fn ends the
// scan and is returned; damage is ErrCorrupt.
//
// It first notes where the values are, which takes about 0.3 s and 16 MB for a million keys, then reads them
// forwards, 256 KiB or one record at a time. Writers are never held up. While the places are noted, a part of the keydir
// (about a thousandth) is copied when it is written to; files that a merge replaces are kept until the end.
func (s *Store) Scan(prefix []byte, fn func(key, value []byte) error) error {
	return s.eachRecord(prefix, func(r *record) error { return fn(r.key, r.value) })
}

// Fold is Scan of all keys, with the expiry of each: ms since 1970, 0 for never.
func (s *Store) Fold(fn func(key, value []byte, expireAt int64) error) error {
	return s.eachRecord(nil, func(r *record) error { return fn(r.key, r.value, r.expireAt) })
}

// Keys calls fn for every live key that begins with prefix, as they were when Keys was called. It reads nothing
// from the disk, and takes no memory but for the parts of the keydir that are written to meanwhile: those
// are copied. The key is valid during fn. An error of fn ends it and is returned.
func (s *Store) Keys(prefix []byte, fn func(key []byte, it Item) error) error {
	sc, err := s.beginScan(false)
	if err != nil {
		return err
	}
	defer sc.end()
	sc.view.Range(prefix, func(key []byte, it keydir.Item) bool {
		if item := itemOf(sc.segments[it.Segment], key, it); !item.Expired(sc.now) {
			err = fn(key, item)
		}
		return err == nil
	})
	return err
}

// eachRecord is the work of Scan and Fold.
func (s *Store) eachRecord(prefix []byte, fn func(r *record) error) error {
	sc, err := s.beginScan(true)
	if err != nil {
		return err
	}
	defer sc.end()
	return sc.each(prefix, func([]byte, keydir.Item) {}, fn)
}

// each gives every live key of the view to note, in no order, and then its record to fn, in that of the disk.
func (sc *scan) each(prefix []byte, note func(key []byte, it keydir.Item), fn func(r *record) error) error {
	var places []scanPlace
	if len(prefix) == 0 {
		places = make([]scanPlace, 0, sc.store.Len())
	}
	sc.view.Range(prefix, func(key []byte, it keydir.Item) bool {
		if !(Item{ExpireAt: it.ExpireAt}).Expired(sc.now) {
			places = append(places, scanPlace{it.Position, crc32.Checksum(key, castagnoli)})
			note(key, it)
		}
		return true
	})
	sc.view.Close() // from here on writers need not copy for us
	slices.SortFunc(places, func(a, b scanPlace) int {
		return cmp.Or(cmp.Compare(a.Segment, b.Segment), cmp.Compare(a.Offset, b.Offset))
	})
	for len(places) > 0 {
		n := readTogether(places)
		if err := sc.read(places[:n], fn); err != nil {
			return err
		}
		places = places[n:]
	}
	return nil
}

// scan is one walk over a view of the keydir.
type scan struct {
	store    *Store
	view     *keydir.View
	segments map[uint32]*segment
	held     bool // one reference each
	point    commitPoint
	now      int64 // expiry is judged by it
	buf      []byte
}

// scanPlace is a record, and what its key must be.
type scanPlace struct {
	keydir.Position
	keySum uint32 // CRC32C
}

func (p *scanPlace) end() int64 { return int64(p.Offset) + int64(p.Size) }

func (s *Store) beginScan(values bool) (*scan, error) {
	thaw := s.Freeze() // no entry may be half visible in the view
	defer thaw()
	s.visible.RLock()
	defer s.visible.RUnlock()
	if s.visible.segments == nil {
		return nil, ErrClosed
	}
	if values {
		for _, seg := range s.visible.segments {
			seg.acquire()
		}
	}
	return &scan{
		store: s, view: s.visible.keys.View(), segments: s.visible.segments, held: values,
		point: *s.committer.point.Load(), now: s.Now(),
	}, nil
}

func (sc *scan) end() {
	sc.view.Close()
	if !sc.held {
		return
	}
	for _, seg := range sc.segments {
		seg.release(sc.store.fs, sc.store.path)
	}
}

const (
	scanReadBytes = 256 << 10
	// scanGapBytes are read over rather than left out: about what a disk reads in the time of one more request.
	scanGapBytes = 16 << 10
)

// readTogether counts the first places that one read is to bring: of one segment, near to each other.
func readTogether(places []scanPlace) int {
	first := &places[0]
	n, end := 1, first.end()
	for ; n < len(places); n++ {
		p := &places[n]
		if p.Segment != first.Segment || int64(p.Offset)-end > scanGapBytes || p.end()-int64(first.Offset) > scanReadBytes {
			break
		}
		end = p.end()
	}
	return n
}

// read gives the records at places to fn. If they cannot be read together, those that can be read come one by one.
func (sc *scan) read(places []scanPlace, fn func(r *record) error) error {
	first, last := &places[0], &places[len(places)-1]
	seg := sc.segments[first.Segment]
	b := growTo(&sc.buf, int(last.end()-int64(first.Offset)))
	if _, err := seg.file.ReadAt(b, int64(first.Offset)); err != nil {
		if len(places) == 1 {
			return fmt.Errorf("bitcask: read %s at offset %d: %w", seg.name, first.Offset, err)
		}
		for i := range places {
			if err := sc.read(places[i:i+1], fn); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range places {
		p := &places[i]
		from := int(p.Offset - first.Offset)
		r, err := parseRecord(b[from : from+int(p.Size)])
		if err == nil && (r.size != int(p.Size) || crc32.Checksum(r.key, castagnoli) != p.keySum) {
			err = fmt.Errorf("it is the record of another key")
		}
		if err != nil {
			return &CorruptError{File: seg.name, Offset: int64(p.Offset), Reason: err.Error()}
		}
		if err := fn(&r); err != nil {
			return err
		}
	}
	return nil
}

// growTo gives n bytes of a buffer that is used again.
func growTo(buf *[]byte, n int) []byte {
	*buf = slices.Grow((*buf)[:0], n)[:n]
	return *buf
}
