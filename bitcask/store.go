package bitcask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
	"github.com/raftcask/raftcask/internal/vfs"
)

// Store is an open Bitcask. Its methods are safe for concurrent use.
//
// Locks are taken in this order, and none is skipped over backwards:
// merging, appender.mu, spare.mu, committer.mu, disk.mu, log.mu, visible.
type Store struct {
	path   string
	opts   Options
	fs     vfs.FS
	lock   io.Closer
	logger *slog.Logger

	appender  appender
	committer committer
	log       logIndex
	disk      diskState
	commits   groupCommit
	spare     spareRoom
	space     spaceWatch
	direct    direct

	// visible guards what readers see. Commit holds it for the memory work of one
	// entry, so a reader sees an entry whole or not at all (I3).
	visible struct {
		sync.RWMutex
		keys     *keydir.Keydir
		segments map[uint32]*segment // live set; replaced, never changed
	}
	// published is visible for gets, which do not take its lock (readers.go).
	published atomic.Pointer[shown]
	// batches counts twice each entry of several records: it is odd while one is half visible. Changed under visible.
	batches atomic.Uint64
	readers readers

	poison atomic.Pointer[error] // the failed sync
	full   atomic.Bool           // the last write met ErrNoSpace
	closed atomic.Bool

	// merging is held by what reads or replaces sealed segments as a whole: one
	// merge at a time (tombstones rely on it), building hints, adoption. First in order.
	merging sync.Mutex
	// foreground is held to read by what a caller runs that Close waits for: merges, scrubs, truncations, checkpoints saved and
	// adopted. Before merging in order.
	foreground sync.RWMutex

	stop     context.CancelFunc
	ctx      context.Context      // ends at Close
	wake     chan struct{}        // for the background goroutine, capacity 1
	writeNow chan struct{}        // for writeBehind, capacity 1
	noteNow  chan struct{}        // for noteCommits, capacity 1
	populate chan populateRequest // for populatePages, capacity 1
	workers  sync.WaitGroup
	syncs    syncStats
	scrub    scrubState
}

// diskState is the manifest as it was last written.
type diskState struct {
	mu       sync.Mutex
	manifest manifest
	// pinned holds the segments of saved checkpoints by id.
	pinned map[uint32]*segment
}

// Open opens the store in dir, and creates it when dir is empty or missing. One
// Store at a time may have a directory: others get ErrLocked. Damage that no
// crash can have caused is ErrCorrupt; no segment is changed or removed then, only
// what a crash left beside them, and hints that were missing are made.
func Open(dir string, options *Options) (_ *Store, err error) {
	opts, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{path: dir, opts: opts, fs: opts.FS, logger: opts.Logger, wake: make(chan struct{}, 1), writeNow: make(chan struct{}, 1), noteNow: make(chan struct{}, 1), populate: make(chan populateRequest, 1)}
	s.space.sealAt = opts.SegmentBytes
	s.ctx, s.stop = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			s.stop()
			s.releaseAll()
			if s.lock != nil {
				_ = s.lock.Close()
			}
		}
	}()
	if err := s.fs.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("bitcask: open %s: %w", dir, err)
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	if err := s.recover(); err != nil {
		if isNoSpace(err) {
			return nil, fmt.Errorf("%w: open %s: %w", ErrNoSpace, dir, err)
		}
		return nil, fmt.Errorf("bitcask: open %s: %w", dir, err)
	}
	s.commits.store = s
	s.publishLocked() // nobody else is there yet
	s.mapActive()
	s.start()
	return s, nil
}

func (s *Store) takeLock() error {
	host, _ := os.Hostname() // only for the message
	lock, err := s.fs.Lock(joinPath(s.path, lockName), fmt.Sprintf("process %d on host %q", os.Getpid(), host))
	var locked *vfs.LockedError
	if errors.As(err, &locked) {
		return fmt.Errorf("%w: %s is held by %s; stop it, or use another directory", ErrLocked, s.path, locked.Holder)
	}
	if err != nil {
		return fmt.Errorf("bitcask: lock %s: %w", s.path, err)
	}
	s.lock = lock
	return nil
}

// start runs the background goroutines; Close waits for them.
func (s *Store) start() {
	if !s.opts.Merge.Disabled {
		s.workers.Go(s.maintain)
	}
	if s.opts.Durability != Always {
		s.workers.Go(s.writeBehind)
	}
	if s.mapsWrites() {
		s.workers.Go(s.populatePages)
	}
	if s.opts.Replicated && !s.opts.noCommitNotes {
		s.workers.Go(s.noteCommits)
	}
	if !s.opts.Scrub.Disabled {
		s.workers.Go(s.scrubEvery)
	}
}

// writeBehind serves writers that do not wait for the disk: it syncs at the interval, and writes back when much was written.
func (s *Store) writeBehind() {
	var interval <-chan time.Time
	if s.opts.Durability == Interval {
		ticker := time.NewTicker(s.opts.SyncInterval)
		defer ticker.Stop()
		interval = ticker.C
	}
	for {
		work := s.Sync
		select {
		case <-s.ctx.Done():
			return
		case <-interval:
		case <-s.writeNow:
			work = s.writeBack
		}
		if err := work(); err != nil && !errors.Is(err, ErrClosed) {
			s.logger.Error("background sync failed", "dir", s.path, "error", err)
		}
	}
}

// inForeground runs maintenance for a caller. Close ends its context, and waits for it.
func (s *Store) inForeground(ctx context.Context, work func(context.Context) error) error {
	s.foreground.RLock()
	defer s.foreground.RUnlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	err := work(ctx)
	if err != nil && s.closed.Load() {
		return ErrClosed
	}
	return err
}

// Close syncs what was written, and releases the directory. It waits for
// readers, background work, and what callers run that removes files or writes the manifest.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return ErrClosed
	}
	s.stop()
	s.workers.Wait()
	s.foreground.Lock()
	defer s.foreground.Unlock()
	if s.readOnly() {
		s.releaseAll()
		return nil
	}
	s.appender.mu.Lock()
	defer s.appender.mu.Unlock()
	err := s.finishActive()
	s.dropPopulate()
	s.releaseAll()
	return errors.Join(err, s.lock.Close())
}

// finishActive cuts the preallocated rest off and records in the manifest how far
// the active segment is synced: from now on any damage before that shows.
func (s *Store) finishActive() error {
	if s.poison.Load() != nil {
		return nil
	}
	active := s.appender.active
	if err := active.file.Truncate(active.size.Load()); err != nil {
		return fmt.Errorf("bitcask: close: cut segment %d: %w", active.id, err)
	}
	if err := s.syncActiveLocked(); err != nil {
		return fmt.Errorf("bitcask: close: %w", err)
	}
	if err := s.edit(func(*manifest) {}); err != nil && !isNoSpace(err) {
		return fmt.Errorf("bitcask: close: %w", err)
	}
	return nil
}

// releaseAll drops the owner's references and the keydir. It also serves an Open
// that failed half-way.
func (s *Store) releaseAll() {
	s.visible.Lock()
	live := s.visible.segments
	s.visible.segments = nil
	s.publishLocked()
	s.visible.Unlock()
	s.readers.wait()
	for _, set := range []map[uint32]*segment{live, s.disk.pinned} {
		for _, seg := range set {
			seg.release(s.fs, s.path)
		}
	}
	s.disk.pinned = nil
	if s.visible.keys != nil {
		s.visible.keys.Close()
	}
}

// edit writes a changed manifest. What the log already proves (applied, time,
// clears, what is forgotten) goes along with every edit.
func (s *Store) edit(change func(m *manifest)) error {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	return s.editLocked(change)
}

func (s *Store) editLocked(change func(m *manifest)) error {
	if err := s.writeEdit(change); err != nil {
		return s.failWrite(err)
	}
	return nil
}

// writeEdit is editLocked for who gives a failure its fate himself.
func (s *Store) writeEdit(change func(m *manifest)) error {
	m := s.disk.manifest
	m.Segments = append([]segmentMeta(nil), m.Segments...)
	m.Checkpoints = append([]checkpointMeta(nil), m.Checkpoints...)
	m.Forgotten = s.log.forgotten.Load() // before the point: nothing is forgotten that is not applied
	point := s.committer.point.Load()
	m.AppliedIndex, m.AppliedTerm, m.Cleared, m.Time = point.index, point.term, point.cleared, point.time
	if active := s.liveSegments()[m.Active]; active != nil { // not yet, while one is being begun
		for i := range m.Segments {
			if m.Segments[i].ID == m.Active {
				m.Segments[i].Synced = active.synced.Load()
			}
		}
	}
	change(&m)
	if err := writeManifest(s.fs, s.path, &m); err != nil {
		return err
	}
	s.disk.manifest = m
	return nil
}

// newSegmentID gives out an id. It counts from the next edit on.
func (s *Store) newSegmentID() uint32 {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	id := s.disk.manifest.NextID
	s.disk.manifest.NextID++
	return id
}

// setSegments replaces the live set.
func (s *Store) setSegments(change func(set map[uint32]*segment)) {
	s.visible.Lock()
	defer s.visible.Unlock()
	set := maps.Clone(s.visible.segments)
	change(set)
	s.visible.segments = set
	s.publishLocked()
}

// liveSegments is the live set as it is now.
func (s *Store) liveSegments() map[uint32]*segment {
	s.visible.RLock()
	defer s.visible.RUnlock()
	return s.visible.segments
}

// writable tells why a write cannot begin.
func (s *Store) writable() error {
	if s.closed.Load() {
		return ErrClosed
	}
	if s.readOnly() {
		return ErrReadOnly
	}
	if cause := s.poison.Load(); cause != nil {
		return *cause
	}
	return nil
}

// failWrite gives a failed disk operation its fate. A failed sync poisons: the
// kernel may have dropped the dirty pages, and a second fsync would report
// success for data that is gone (fsyncgate; Rebello et al., ATC'20).
func (s *Store) failWrite(err error) error {
	var failedSync *syncError
	if errors.As(err, &failedSync) {
		poisoned := fmt.Errorf("%w: %w; restart the process to find out what is on disk", ErrPoisoned, err)
		if s.poison.CompareAndSwap(nil, &poisoned) {
			s.logger.Error("a sync failed: no more writes", "dir", s.path, "error", err)
		}
		return poisoned
	}
	if isNoSpace(err) {
		if !s.full.Swap(true) {
			s.logger.Warn("disk full: refusing writes until there is room", "dir", s.path, "error", err)
		}
		return fmt.Errorf("%w: %w; nothing was applied", ErrNoSpace, err)
	}
	return err
}

func (s *Store) succeedWrite() {
	if s.full.Load() && s.full.Swap(false) {
		s.logger.Info("there is room again: writes resume", "dir", s.path)
	}
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Now is the time that expiry is judged by, ms since 1970: the own clock, but
// never before the time that a committed entry carries.
func (s *Store) Now() int64 {
	return max(s.opts.Now().UnixMilli(), s.committer.point.Load().time)
}
