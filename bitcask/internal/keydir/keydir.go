// Package keydir is the index of a Bitcask: for every key, where its record lies on disk.
//
//	d := keydir.New(seed)
//	defer d.Close()
//	d.Put(key, keydir.Item{Position: pos, Version: index})
//	it, ok := d.Get(key)
//
// It is built for many small keys. A key costs its length plus 14 bytes of record plus 18.3 to 22.9
// bytes of hash table (up to 9 more among the first half a million keys), outside the Go heap: the garbage collector sees nothing of it, and what is
// deleted goes back to the operating system, but for a quarter of what is in use, 16 MiB at most. Get, Put and Delete allocate nothing.
//
//	Keydir ── 1024 shards, by the top 10 bits of the key's hash, each with a lock
//	  shard ── table: slots of 16 bytes (hash, address, place on disk), linear probing, ordered by hash
//	    └───── arena: the records, one after another in chunks of at most 64 KiB
//
// A shard grows, shrinks and compacts by itself, so a pause is that of one shard: at ten million keys
// about ten thousand keys.
//
// Views are copy-on-write: opening one pins the memory of each shard, and the first change of a
// pinned shard copies it.
//
// All methods are safe for concurrent use. No goroutines are started here. When the system has no
// memory left, methods that need some panic. Keys of more than 65535 bytes and versions of more
// than 56 bits are bugs of the caller, and panic too.
package keydir

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/raftcask/raftcask/bitcask/internal/offheap"
)

const (
	shardBits = 10
	shards    = 1 << shardBits
)

// Position is the place of a record on disk.
type Position struct {
	Segment uint32
	Offset  uint32
	Size    uint32 // of the whole record on disk
}

// Item is what the index knows of a key.
type Item struct {
	Position
	Version   uint64 // less than 2^56
	ExpireAt  int64  // ms since 1970; 0: never
	Tombstone bool   // only while loading: the key was deleted at this version
}

// Keydir maps keys to items. Make one with New.
type Keydir struct {
	digest xxhash.Digest // seeded; never written to
	pool   offheap.Pool
	shards []shard
	// What a shard is expected to hold when it gets its first key: set by Expect, until DropTombstones.
	expectKeys, expectBytes atomic.Int64
	// all is held while all shard locks are taken, so that only one goroutine collects them.
	all sync.Mutex
}

// New returns an empty Keydir. Two with the same seed hand out and understand the same Scan cursors.
func New(seed uint64) *Keydir {
	d := &Keydir{shards: make([]shard, shards)}
	d.digest.ResetWithSeed(seed)
	return d
}

// shard returns the shard of a hash.
func (d *Keydir) shard(h uint64) *shard { return &d.shards[h>>(64-shardBits)] }

// Get returns the item of a key.
func (d *Keydir) Get(key []byte) (it Item, ok bool) {
	h := d.hash(key)
	s := d.shard(h)
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, ok := s.find(h, key)
	if !ok {
		return it, false
	}
	s.load(i, &it)
	return it, true
}

// Candidate returns where the record of a key is on disk, if the key is there at all: a key that is not there can
// share its 32 bits of hash with another. The record on disk tells. It costs one cache miss less than Get.
func (d *Keydir) Candidate(key []byte) (segment, offset uint32, ok bool) {
	h := d.hash(key)
	s := d.shard(h)
	s.mu.RLock()
	defer s.mu.RUnlock()
	at, ok := s.candidate(h)
	return at.segment, at.offset, ok
}

// Put stores an item whatever was there before, and tells what that was.
func (d *Keydir) Put(key []byte, it Item) (old Item, replaced bool) {
	replaced, _ = d.update(key, &it, &old, false)
	return old, replaced
}

// Replace is Put after Prefetch, for where nanoseconds count: an Item is too large for registers, and copying one waits for
// all that was written before. old changes only if there was one.
func (d *Keydir) Replace(h Hash, key []byte, it, old *Item) (replaced bool) {
	d.check(key, it)
	s := d.shard(uint64(h))
	s.mu.Lock()
	defer s.mu.Unlock()
	replaced, _ = s.updateLocked(d, uint64(h), key, it, old, false)
	return replaced
}

// Hash is a key's hash, for those who need it twice. It is good for all Keydirs of one seed.
type Hash uint64

// Prefetch begins to load what a Replace of a new key will need, and returns at once: a caller who has something else to
// do before that saves waiting for memory.
func (d *Keydir) Prefetch(key []byte) Hash {
	h := d.hash(key)
	s := d.shard(h)
	s.mu.RLock()
	s.prefetch(h, len(key))
	s.mu.RUnlock()
	return Hash(h)
}

// PutIfNewer stores an item unless one with a higher version is there. It is for loading, where
// records come in any order.
func (d *Keydir) PutIfNewer(key []byte, it Item) (old Item, existed, stored bool) {
	existed, stored = d.update(key, &it, &old, true)
	return old, existed, stored
}

// Seek begins to load what Holds will look at, and returns at once: of some twenty keys that are sought before the first
// is asked for, nobody waits for memory.
func (d *Keydir) Seek(key []byte) Hash {
	h := d.hash(key)
	s := d.shard(h)
	s.mu.RLock()
	s.seek(h)
	s.mu.RUnlock()
	return Hash(h)
}

// Holds tells whether a key of hash h has its record at this place on disk. There is one key at a place, so that the key itself
// need not be looked at.
func (d *Keydir) Holds(h Hash, segment, offset uint32) bool {
	s := d.shard(uint64(h))
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.holds(uint64(h), segment, offset)
}

// Move changes the place of a key's record, if it is from; version and expiry stay.
func (d *Keydir) Move(key []byte, from, to Position) bool {
	h := d.hash(key)
	s := d.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.find(h, key)
	if !ok {
		return false
	}
	var it Item
	if s.load(i, &it); it.Position != from {
		return false
	}
	it.Position = to
	s.replace(d, i, h, key, &it)
	return true
}

// update stores an item, or only if none of a higher version is there. old becomes the present one, if there is one.
func (d *Keydir) update(key []byte, it, old *Item, onlyNewer bool) (existed, stored bool) {
	d.check(key, it)
	h := d.hash(key)
	s := d.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prefetch(h, len(key)) // cache misses at once instead of one after the other
	return s.updateLocked(d, h, key, it, old, onlyNewer)
}

// check panics for what the formats here have no room for.
func (d *Keydir) check(key []byte, it *Item) {
	if len(key) > maxKeyBytes || it.Version > maxVersion {
		panic(fmt.Sprintf("keydir: key of %d bytes, version %d: out of range", len(key), it.Version))
	}
}

func (s *shard) updateLocked(d *Keydir, h uint64, key []byte, it, old *Item, onlyNewer bool) (existed, stored bool) {
	i, existed := s.find(h, key)
	if existed {
		s.load(i, old)
	}
	if s.closed || onlyNewer && existed && it.Version < old.Version {
		return existed, false
	}
	if existed {
		s.replace(d, i, h, key, it)
	} else {
		s.insert(d, h, key, it)
	}
	return existed, true
}

// Delete removes a key and returns what was there.
func (d *Keydir) Delete(key []byte) (old Item, existed bool) {
	return d.deleteIf(key, nil)
}

// DeleteIf removes a key if it is there at exactly the position from.
func (d *Keydir) DeleteIf(key []byte, from Position) bool {
	_, deleted := d.deleteIf(key, &from)
	return deleted
}

func (d *Keydir) deleteIf(key []byte, from *Position) (old Item, deleted bool) {
	h := d.hash(key)
	s := d.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.find(h, key)
	if !ok {
		return Item{}, false
	}
	if from != nil && s.position(i) != *from {
		return Item{}, false
	}
	s.load(i, &old)
	s.remove(d, i)
	s.collect(d)
	return old, true
}

// Len is the number of keys, without tombstones. Changes made meanwhile may be counted or not.
func (d *Keydir) Len() int {
	return d.sum(func(s *shard) int { return s.keys })
}

// Expiring is how many of Len have an expiry.
func (d *Keydir) Expiring() int {
	return d.sum(func(s *shard) int { return s.expiring })
}

func (d *Keydir) sum(count func(s *shard) int) (n int) {
	for i := range d.shards {
		s := &d.shards[i]
		s.mu.RLock()
		n += count(s)
		s.mu.RUnlock()
	}
	return n
}

// Bytes is the memory held outside the Go heap, copies for open views included.
func (d *Keydir) Bytes() int64 { return d.pool.Bytes() }

// Expect tells, before anything is loaded, about how many keys will come and how many bytes they have together: then
// memory need not grow step by step. If fewer come, DropTombstones gives back what was too much.
func (d *Keydir) Expect(keys, keyBytes int) {
	d.expectKeys.Store(int64(keys / shards))
	d.expectBytes.Store(int64((keys*headerBytes + keyBytes) / shards))
}

// DropTombstones ends loading: from now on a deleted key is one that is not there.
func (d *Keydir) DropTombstones() {
	d.expectKeys.Store(0)
	d.expectBytes.Store(0)
	for i := range d.shards {
		s := &d.shards[i]
		s.mu.Lock()
		s.dropTombstones(d)
		s.mu.Unlock()
	}
}

// Clear removes all keys in one step: no reader sees only some of them gone. Open views keep theirs.
func (d *Keydir) Clear() { d.clear(false) }

// Close gives all memory back, that of an open view when the view is closed. Afterwards the
// Keydir is empty and stays so: Put stores nothing.
func (d *Keydir) Close() { d.clear(true) }

func (d *Keydir) clear(closing bool) {
	var unused []*holding
	d.lockAll()
	for i := range d.shards {
		s := &d.shards[i]
		s.closed = s.closed || closing
		h := s.detach()
		if h == nil {
			continue
		}
		if h.refs--; h.refs == 0 {
			unused = append(unused, h)
		}
	}
	d.unlockAll()
	// Giving memory back takes system calls: not while everybody waits.
	for _, h := range unused {
		h.free(&d.pool)
	}
}

// lockAll stops all shards. A thousand free locks take some ten microseconds.
func (d *Keydir) lockAll() {
	d.all.Lock()
	for i := range d.shards {
		d.shards[i].mu.Lock()
	}
}

func (d *Keydir) unlockAll() {
	for i := range d.shards {
		d.shards[i].mu.Unlock()
	}
	d.all.Unlock()
}
