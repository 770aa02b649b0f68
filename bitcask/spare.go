package bitcask

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"sync"
	"sync/atomic"
)

// A merge needs room before it gives any back, so a disk that is quite full could
// never be emptied by one. The store therefore keeps some room aside, as a
// preallocated file of zeros: see MergePolicy.ReserveBytes. When the disk is full the file is
// emptied for the time of the merges, and writes are refused until it is whole
// again: they would only eat what the next merge needs.
const reserveName = "RESERVE"

// reserveSlack is for what comes beside the records: headers, what the manifest grows by until
// the reserve is looked at again, and the rounding of the file system.
const reserveSlack = 64 << 10

// spareRoom is the reserve.
type spareRoom struct {
	mu     sync.Mutex
	looked bool  // the file's size is known
	bytes  int64 // that the file has, or had before it was lent
	users  int   // merges that live on it
	lent   atomic.Bool
}

// keepReserve brings the file to the size that the largest merge may need now: twice the largest
// segment, at most Merge.ReserveBytes. Without room for that it stays as it is.
func (s *Store) keepReserve() error {
	r := &s.spare
	want, err := s.reserveWanted()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.looked {
		size, err := fileSize(s.fs, joinPath(s.path, reserveName))
		if err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return fmt.Errorf("bitcask: look at the reserve: %w", err)
		}
		r.looked, r.bytes = true, size
	}
	switch {
	case r.users > 0:
		return nil
	case r.lent.Load():
		s.takeBackLocked()
		return nil
	case want <= r.bytes && r.bytes <= 2*want:
		return nil
	}
	err = s.sizeReserve(want)
	if isNoSpace(err) {
		return nil // what there was is still there
	}
	if err == nil {
		r.bytes = want
	}
	return err
}

// reserveWanted is room for one merge of one segment, with a hint, and for the manifest that puts it in place.
func (s *Store) reserveWanted() (int64, error) {
	if s.opts.Merge.ReserveBytes < 0 {
		return 0, nil
	}
	var sealed, largest int64
	segments := s.liveSegments()
	active := s.activeID()
	for _, seg := range segments {
		if seg.id != active {
			sealed += seg.size.Load()
		}
		largest = max(largest, seg.size.Load()) // on a full disk the active one is sealed and merged too
	}
	if sealed == 0 {
		return 0, nil
	}
	manifest, err := fileSize(s.fs, joinPath(s.path, manifestName))
	if err != nil {
		return 0, fmt.Errorf("bitcask: look at the manifest: %w", err)
	}
	manifest += reserveSlack - manifest%reserveSlack // in steps: it grows by some bytes with each segment
	return min(sealed, 2*largest, s.opts.Merge.ReserveBytes) + manifest + reserveSlack, nil
}

// sizeReserve gives the file its size. Its contents do not matter, so nothing is
// synced: after a power loss it is made again where it is missing.
func (s *Store) sizeReserve(bytes int64) error {
	name := joinPath(s.path, reserveName)
	f, err := s.fs.Open(name)
	if errors.Is(err, iofs.ErrNotExist) && bytes > 0 {
		f, err = s.fs.Create(name)
	}
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bitcask: open the reserve: %w", err)
	}
	size, err := f.Size()
	if err == nil && size > bytes {
		err = f.Truncate(bytes)
	}
	if err == nil && size < bytes {
		err = f.Preallocate(bytes)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("bitcask: size the reserve to %d bytes: %w", bytes, err)
	}
	return nil
}

// lendReserve frees the reserve's room for a merge.
func (s *Store) lendReserve() {
	r := &s.spare
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users++
	r.lent.Store(true) // first: no write may take the room
	if err := s.sizeReserve(0); err != nil {
		s.logger.Warn("the reserve cannot be freed: merging in what room there is", "dir", s.path, "error", err)
	}
}

func (s *Store) returnReserve() {
	r := &s.spare
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users--
	if r.users == 0 {
		s.takeBackLocked()
	}
}

// takeBackLocked makes the reserve whole again if there is room.
func (s *Store) takeBackLocked() bool {
	r := &s.spare
	want, err := s.reserveWanted()
	if err != nil {
		return false
	}
	bytes := min(r.bytes, want) // a merge may have left less to merge
	if err := s.sizeReserve(bytes); err != nil {
		return false
	}
	r.bytes = bytes
	r.lent.Store(false)
	return true
}

// roomForWrites refuses writes while a merge needs what room there is. The first
// write that finds room for the reserve takes it back, and goes on.
func (s *Store) roomForWrites() error {
	r := &s.spare
	if !r.lent.Load() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lent.Load() && (r.users > 0 || !s.takeBackLocked()) {
		return fmt.Errorf("%w: what is left is kept for merges; nothing was applied", ErrNoSpace)
	}
	return nil
}

// mergeOnFullDisk makes room: it rewrites the segments of which at least minDeadPercent
// is dead, one by one, the emptiest first, so that each leaves more room to
// the next. It needs no hints of them: they are about to go. It returns what it had to leave out, and what it could
// not go on after.
func (s *Store) mergeOnFullDisk(ctx context.Context, minDeadPercent int64) (leftOut, err error) {
	worth := func(seg *segment) bool {
		if seg.leftOut() {
			return false
		}
		dead := seg.deadBytes() + s.droppableTombstones(seg)
		return dead > 0 && dead*100 >= minDeadPercent*(seg.size.Load()-segmentHeaderBytes)
	}
	if !slices.ContainsFunc(sortedSegments(s.liveSegments()), worth) {
		return nil, nil
	}
	s.lendReserve()
	defer s.returnReserve()
	s.appender.mu.Lock()
	err = s.writable()
	if err == nil && worth(s.appender.active) {
		err = s.rotate()
	}
	s.appender.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var inputs []*segment
	for _, seg := range s.mergeables() {
		if worth(seg) {
			inputs = append(inputs, seg)
		}
	}
	slices.SortStableFunc(inputs, func(a, b *segment) int {
		return int(min(1, max(-1, a.liveBytes.Load()-b.liveBytes.Load())))
	})
	for _, seg := range inputs {
		err := s.mergeSegments(ctx, []*segment{seg})
		if isLeftOut(err) {
			leftOut = errors.Join(leftOut, err)
		} else if err != nil {
			return leftOut, err // a fuller one would not fit either
		}
	}
	return leftOut, nil
}
