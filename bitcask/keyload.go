package bitcask

import (
	"runtime"
	"sync"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
)

// keyLoader fills a keydir from hints, several segments at a time: the highest
// version of a key wins, so the order does not matter.
type keyLoader struct {
	store    *Store
	dir      string // of the segments
	keys     *keydir.Keydir
	segments map[uint32]*segment
	hints    map[uint32]*hintReader // by segment; a damaged one is replaced
	cleared  uint64                 // records with a lower version are gone
}

func (l *keyLoader) load() error {
	work := make(chan *segment)
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		bad     []*segment
	)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seg := range work {
				if err := l.loadHint(seg); err != nil {
					l.store.logger.Warn("a hint is damaged: making it again from its segment", "error", err)
					mu.Lock()
					bad = append(bad, seg)
					mu.Unlock()
				}
			}
		})
	}
	for id := range l.hints {
		work <- l.segments[id]
	}
	close(work)
	workers.Wait()
	for _, seg := range bad {
		if err := l.replaceHint(seg); err != nil {
			return err
		}
	}
	l.keys.DropTombstones()
	return nil
}

// replaceHint makes a hint anew that broke off half-way. Loading what it did hold
// once more is harmless: the same versions are at the same places.
func (l *keyLoader) replaceHint(seg *segment) error {
	l.hints[seg.id].close()
	delete(l.hints, seg.id)
	h, err := l.store.remakeHint(l.dir, seg)
	if err != nil {
		return err
	}
	seg.hinted.Store(!h.inMemory)
	l.hints[seg.id] = h
	return l.loadHint(seg)
}

func (l *keyLoader) loadHint(seg *segment) error {
	var tombstones int64
	defer func() { seg.tombstoneBytes.Store(tombstones) }()
	return l.hints[seg.id].each(func(k hintKey) {
		if k.version < l.cleared {
			return
		}
		if k.flags&flagDelete != 0 {
			tombstones += int64(k.size)
		}
		it := keydir.Item{
			Position: keydir.Position{Segment: seg.id, Offset: k.offset, Size: k.size},
			Version:  k.version, ExpireAt: k.expireAt, Tombstone: k.flags&flagDelete != 0,
		}
		old, existed, stored := l.keys.PutIfNewer(k.key, it)
		if !stored || (existed && old.Position == it.Position) {
			return
		}
		if existed && !old.Tombstone {
			l.segments[old.Segment].addLive(-int64(old.Size))
		}
		if !it.Tombstone {
			seg.addLive(int64(it.Size))
		}
	}, nil)
}
