package bitcask

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
)

// keyLoader fills a keydir from hints, several segments at a time: the highest
// version of a key wins, so the order does not matter.
type keyLoader struct {
	store    *Store
	dir      string // of the segments
	keys     *keydir.Keydir
	segments map[uint32]*segment
	cleared  uint64 // records with a lower version are gone

	mu    sync.Mutex
	hints map[uint32]*hintReader // by segment; guarded by mu while load runs

	// more is loaded beside the hints, each by a worker of its own.
	more []func(*keyBatch) error

	loaded, segmentsLoaded atomic.Int64
}

// load runs Options.OpenWorkers. A damaged hint is made again.
func (l *keyLoader) load() error {
	jobs := append([]func(*keyBatch) error(nil), l.more...) // they take longest
	var keys, keyBytes int
	byKeys := func(a, b uint32) int { return cmp.Compare(l.hints[b].keys, l.hints[a].keys) }
	for _, id := range slices.SortedFunc(maps.Keys(l.hints), byKeys) { // the last ones end together
		h := l.hints[id]
		keys += int(h.keys)
		keyBytes += int(h.fileSize) - int(h.keys)*hintKeyBytes - int(h.places)*hintPlaceBytes
		jobs = append(jobs, func(b *keyBatch) error { return l.loadSegment(b, l.segments[id], h) })
	}
	l.keys.Expect(keys, keyBytes)
	end := l.report(len(jobs), keys)
	defer end()
	err := inParallel(l.store.opts.OpenWorkers, jobs, func() *keyBatch { return &keyBatch{loader: l, batch: l.keys.NewBatch()} })
	l.keys.DropTombstones()
	return err
}

// inParallel runs jobs, each worker with a batch of its own, until they are done or one fails.
func inParallel(parallel int, jobs []func(*keyBatch) error, newBatch func() *keyBatch) error {
	var (
		next    atomic.Int64
		workers sync.WaitGroup
		failed  atomic.Pointer[error]
	)
	for range min(parallel, len(jobs)) {
		workers.Go(func() {
			b := newBatch()
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) {
					return
				}
				if err := jobs[i](b); err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				b.put()
			}
		})
	}
	workers.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// report tells how far a load has come, while that takes seconds. The caller ends it.
func (l *keyLoader) report(segments, keys int) (end func()) {
	ticker, done := time.NewTicker(time.Second), make(chan struct{})
	var reporter sync.WaitGroup
	reporter.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				l.store.logger.Info("opening: loading keys", "dir", l.dir, slog.Int64("records", l.loaded.Load()), "records_in_hints", keys,
					slog.Int64("segments", l.segmentsLoaded.Load()), "segments_in_all", segments)
			}
		}
	})
	return func() {
		ticker.Stop()
		close(done)
		reporter.Wait()
	}
}

// loadSegment loads the hint of a segment. One that breaks off half-way is made anew; loading what it did hold
// once more is harmless: the same versions are at the same places.
func (l *keyLoader) loadSegment(b *keyBatch, seg *segment, h *hintReader) error {
	err := l.loadHint(b, seg, h)
	if err == nil {
		return nil
	}
	l.store.logger.Warn("a hint is damaged: making it again from its segment", "error", err)
	h.close()
	if h, err = l.store.remakeHint(l.dir, seg); err != nil {
		return err
	}
	seg.hinted.Store(!h.inMemory)
	l.mu.Lock()
	l.hints[seg.id] = h
	l.mu.Unlock()
	return l.loadHint(b, seg, h)
}

func (l *keyLoader) loadHint(b *keyBatch, seg *segment, h *hintReader) error {
	var tombstones int64
	err := h.each(func(k hintKey) { tombstones += b.add(seg, k) }, nil)
	seg.tombstoneBytes.Store(tombstones)
	l.segmentsLoaded.Add(1)
	return err
}

// keyBatch is one worker's way into the keydir.
type keyBatch struct {
	loader *keyLoader
	batch  *keydir.Batch
}

// add takes a record of a segment, and returns its bytes if it is a tombstone that counts.
func (b *keyBatch) add(seg *segment, k hintKey) (tombstoneBytes int64) {
	if k.version < b.loader.cleared {
		return 0
	}
	deleted := k.flags&flagDelete != 0
	if deleted {
		tombstoneBytes = int64(k.size)
	}
	it := keydir.Item{
		Position: keydir.Position{Segment: seg.id, Offset: k.offset, Size: k.size},
		Version:  k.version, ExpireAt: k.expireAt, Tombstone: deleted,
	}
	if !b.batch.Add(k.key, it) {
		b.put()
	}
	return tombstoneBytes
}

// put empties the batch into the keydir, and keeps the accounts of the segments.
func (b *keyBatch) put() {
	n := 0
	b.batch.PutIfNewer(func(it, old keydir.Item, existed, stored bool) {
		n++
		if !stored || (existed && old.Position == it.Position) {
			return
		}
		if existed && !old.Tombstone {
			b.loader.segments[old.Segment].addLive(-int64(old.Size))
		}
		if !it.Tombstone {
			b.loader.segments[it.Segment].addLive(int64(it.Size))
		}
	})
	b.loader.loaded.Add(int64(n))
}
