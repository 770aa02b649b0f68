package bitcask

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
)

// Item is what the keydir knows of a key's value.
type Item struct {
	Version  uint64 // index of the entry that wrote it
	ExpireAt int64  // ms since 1970, 0 for never
	ValueLen int    // bytes
}

// Get returns a copy of the value of key, ErrNotFound when it has none or it has expired.
func (s *Store) Get(key []byte) ([]byte, error) {
	value, err := s.GetInto(key, nil)
	if err != nil {
		return nil, err
	}
	return value, nil
}

// GetInto is Get into the caller's memory: it appends the value to buf and returns the
// extended slice. With room in buf it allocates nothing. After an error buf is returned as it was.
func (s *Store) GetInto(key, buf []byte) ([]byte, error) {
	l := s.readers.enter()
	defer l.leave()
	if value, sure, err := s.probe(key, buf); sure {
		return value, err
	}
	value, it, err := s.read(key, buf)
	if err == nil && it.Expired(s.Now()) {
		err = ErrNotFound
	}
	if err != nil {
		return buf, err
	}
	return value, nil
}

// Expired tells whether a value has ended at a time in ms since 1970.
func (it Item) Expired(now int64) bool { return it.ExpireAt != 0 && it.ExpireAt <= now }

// Lookup answers from memory alone. It does not judge expiry.
func (s *Store) Lookup(key []byte) (Item, bool) {
	l := s.readers.enter()
	defer l.leave()
	it, seg, err := s.find(key)
	if err != nil {
		return Item{}, false
	}
	return itemOf(seg, key, it), true
}

// itemOf translates what the keydir knows of a key whose record is in seg.
func itemOf(seg *segment, key []byte, it keydir.Item) Item {
	merged := seg != nil && seg.kind == mergedSegment
	return Item{Version: it.Version, ExpireAt: it.ExpireAt, ValueLen: valueLen(it.Size, len(key), it.ExpireAt, merged)}
}

// Read appends the value of key to buf with one read of the disk. It does not
// judge expiry. Damage is ErrCorrupt, never ErrNotFound.
func (s *Store) Read(key, buf []byte) ([]byte, Item, error) {
	l := s.readers.enter()
	defer l.leave()
	return s.read(key, buf)
}

// read is Read for who is in a lane.
func (s *Store) read(key, buf []byte) ([]byte, Item, error) {
	it, seg, err := s.find(key)
	if err != nil {
		return buf, Item{}, err
	}
	value, err := readValue(seg, it, key, buf)
	return value, itemOf(seg, key, it), err
}

// find looks a key up for a reader who is in a lane. The segment stays open until the reader leaves. An entry of several records is
// seen whole (I3): a look that meets one is repeated when it is shown.
func (s *Store) find(key []byte) (keydir.Item, *segment, error) {
	batches := s.batches.Load()
	it, seg, err := s.look(key)
	if batches&1 == 0 && s.batches.Load() == batches {
		return it, seg, err
	}
	s.visible.RLock()
	defer s.visible.RUnlock()
	return s.look(key)
}

func (s *Store) look(key []byte) (keydir.Item, *segment, error) {
	for {
		c := s.published.Load()
		if c.segments == nil {
			return keydir.Item{}, nil, ErrClosed
		}
		it, ok := c.keys.Get(key)
		// Segments that came before the key was looked up are in the set by now. One that has left it, or a
		// keydir that was replaced, means that the key is elsewhere by now.
		now := s.published.Load()
		if now.keys != c.keys {
			continue
		}
		if !ok {
			return it, nil, ErrNotFound
		}
		if seg := now.segments[it.Segment]; seg != nil {
			return it, seg, nil
		}
	}
}

// readValue reads the record that it points at, checks it, and appends its value to buf.
func readValue(seg *segment, it keydir.Item, key, buf []byte) ([]byte, error) {
	pos := it.Position
	if mem := seg.mapped(); int64(pos.Offset)+int64(pos.Size) <= int64(len(mem)) {
		return readMapped(seg, mem, it, key, buf)
	}
	start := len(buf)
	buf = slices.Grow(buf, int(pos.Size))
	b := buf[start : start+int(pos.Size)]
	if _, err := seg.file.ReadAt(b, int64(pos.Offset)); err != nil {
		return buf[:start], fmt.Errorf("bitcask: read %s at offset %d: %w", seg.name, pos.Offset, err)
	}
	r, err := parseRecord(b)
	if err == nil && !bytes.Equal(r.key, key) {
		err = fmt.Errorf("it is the record of another key")
	}
	if err != nil {
		return buf[:start], &CorruptError{File: seg.name, Offset: int64(pos.Offset), Reason: err.Error()}
	}
	n := copy(b, r.value)
	return buf[:start+n], nil
}

// Freeze holds commits back until thaw is called, so that several reads see one
// state. Hold it for the length of one command; it may be taken by many at once,
// and must not be nested.
func (s *Store) Freeze() (thaw func()) {
	s.committer.mu.RLock()
	return s.committer.mu.RUnlock
}

// Len is the number of keys, expired ones that were not removed yet included.
func (s *Store) Len() int {
	s.visible.RLock()
	defer s.visible.RUnlock()
	if s.visible.segments == nil {
		return 0
	}
	return s.visible.keys.Len()
}

// ScanKeys walks the keys by hash: it calls fn for about count keys from cursor
// on (0 begins), and returns the cursor to go on with, 0 at the end. A key that is
// there during the whole walk is given at least once. key is valid during fn,
// which must not call the store. Expired keys are included.
func (s *Store) ScanKeys(cursor uint64, count int, fn func(key []byte, it Item)) (next uint64) {
	s.visible.RLock()
	defer s.visible.RUnlock()
	if s.visible.segments == nil {
		return 0
	}
	return s.visible.keys.Scan(cursor, count, func(key []byte, it keydir.Item) {
		fn(key, itemOf(s.visible.segments[it.Segment], key, it))
	})
}
