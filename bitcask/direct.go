package bitcask

import (
	"encoding/binary"
	"fmt"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
)

// direct writes single records of a store that does not sync each write. Nothing
// is to be gained from sharing a group there, so a put encodes its frame, copies it
// into the active segment and shows it, without a request, an entry or anything else
// on the heap. The bytes are those that a batch of one record has.
//
// appender.mu guards it.
type direct struct {
	frame []byte
	// points are spare: a commit point is published by its address, so each needs
	// its own, and a slab of them costs one allocation.
	points []commitPoint
}

// pointSlab many commit points are allocated at once, 4 KiB.
const pointSlab = 64

// writesDirect tells whether a single record of this store can go the short way.
func (s *Store) writesDirect() bool { return s.mapsWrites() }

// writeOne appends one record and makes it visible. The key was checked.
func (s *Store) writeOne(flags recordFlags, key, value []byte, expireAt int64) error {
	if err := s.checkValue(len(value)); err != nil {
		return err
	}
	s.appender.mu.Lock()
	defer s.appender.mu.Unlock()
	err := s.writeOneLocked(flags, key, value, expireAt)
	s.makeRoomAfter(err)
	return err
}

func (s *Store) writeOneLocked(flags recordFlags, key, value []byte, expireAt int64) error {
	a := &s.appender
	if err := s.writable(); err != nil {
		return err
	}
	if err := s.roomForWrites(); err != nil {
		return err
	}
	size := recordHeaderBytes + len(key) + len(value)
	if expireAt != 0 {
		size += 8
	}
	need := frameBytes(batchHeaderBytes + size)
	if s.sealsBefore(a.active.size.Load(), need) {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	at := a.active.size.Load()
	if err := s.reserve(at + need); err != nil {
		return err
	}
	s.populateAhead(at + need)
	index := s.nextIndex()
	h := s.published.Load().keys.Prefetch(key) // what the encoding leaves time for
	a.active.mapping.prefetch(at, at+need)
	crc := s.direct.encode(s, index, at, flags, key, value, expireAt)
	if err := s.writeActive(s.direct.frame, at); err != nil {
		return s.undoWrite(at, fmt.Errorf("write segment %d at %d: %w", a.active.id, at, err))
	}
	if cap(s.direct.frame) > maxWriteBytes {
		s.direct.frame = nil // one large value must not hold its memory for ever
	}
	a.active.size.Store(at + need)
	a.crc = crc
	s.show(index, at, flags, h, key, expireAt, size)
	s.writeBackSoon()
	s.watchSpace()
	s.succeedWrite()
	return nil
}

// encode makes the frame of a batch of one record, and returns its CRC.
func (d *direct) encode(s *Store, index uint64, at int64, flags recordFlags, key, value []byte, expireAt int64) uint32 {
	a := &s.appender
	const payloadAt = frameHeaderBytes + batchHeaderBytes
	b := append(d.frame[:0], make([]byte, payloadAt)...)
	b[frameHeaderBytes] = batchFormat
	binary.LittleEndian.PutUint32(b[frameHeaderBytes+4:], 1)
	b = appendRecord(b, flags, key, value, expireAt, 0)
	h := frameHeader{
		length: uint32(len(b) - frameHeaderBytes), index: index, kind: KindData, count: 1,
		applied: s.committer.point.Load().index, synced: uint64(a.active.synced.Load()),
	}
	d.frame = h.sealFrame(b, a.active.seed, at, a.crc)
	return h.crc
}

// show makes the record of an entry visible.
func (s *Store) show(index uint64, at int64, flags recordFlags, h keydir.Hash, key []byte, expireAt int64, size int) {
	seg := s.appender.active
	if seg.first == 0 {
		s.beginLog(seg, index)
	}
	it := keydir.Item{
		Position: keydir.Position{Segment: seg.id, Offset: uint32(at) + frameHeaderBytes + batchHeaderBytes, Size: uint32(size)},
		Version:  index, ExpireAt: expireAt,
	}
	point := s.direct.point()

	s.committer.mu.Lock()
	defer s.committer.mu.Unlock()
	*point = *s.committer.point.Load()
	point.index, point.term = index, 0
	point.segment, point.end = seg.id, seg.size.Load()
	s.showOne(seg, flags, h, key, &it)
	s.committer.point.Store(point)
}

// beginLog enters the first entry of a segment. Those after it are not entered one by one: the commit point tells
// the last (lastLocked).
func (s *Store) beginLog(seg *segment, index uint64) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	seg.first = index
	if s.log.first == 0 {
		s.log.first = index
	}
}

// showOne changes the keydir for one record. That is one step for every reader, so that it needs no lock
// beside the committer's, which keeps the keydir from being replaced.
func (s *Store) showOne(seg *segment, flags recordFlags, h keydir.Hash, key []byte, it *keydir.Item) {
	keys := s.published.Load().keys
	var old keydir.Item
	var existed bool
	if flags&flagDelete != 0 {
		old, existed = keys.Delete(key)
		seg.tombstoneBytes.Add(int64(it.Size))
	} else {
		existed = keys.Replace(h, key, it, &old)
		seg.addLive(int64(it.Size))
	}
	if !existed {
		return
	}
	// The set of now: a merge may have moved the old record after the keydir was published.
	if was := s.published.Load().segments[old.Segment]; was != nil {
		was.addLive(-int64(old.Size))
	}
}

func (d *direct) point() *commitPoint {
	if len(d.points) == 0 {
		d.points = make([]commitPoint, pointSlab)
	}
	p := &d.points[0]
	d.points = d.points[1:]
	return p
}
