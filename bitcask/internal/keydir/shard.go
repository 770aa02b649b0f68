package keydir

import (
	"bytes"
	"sync"

	"github.com/raftcask/raftcask/bitcask/internal/offheap"
	"github.com/raftcask/raftcask/bitcask/internal/prefetch"
)

// An arena is compacted when more than 1/garbageDen of it is garbage: each byte of garbage
// then costs seven bytes of copying.
const garbageDen = 8

// shard is the part of the keys whose hashes share their top bits.
type shard struct {
	mu       sync.RWMutex // guards all below
	slots    table        // that of holding, here to spare gets a cache miss
	holding  *holding     // nil when there is no key
	used     int          // occupied slots
	closed   bool
	keys     int      // records that are not tombstones
	expiring int      // those of them that have an expiry
	_        [40]byte // two cache lines of its own
}

// holding is the memory of a shard: a table, and the arena that it leads to. The mutex of the shard guards
// it. While refs > 1 it does not change: views read it without a lock.
type holding struct {
	slots table
	block offheap.Block // of slots
	arena arena
	refs  int // the shard while this is its own, and each view that pins it
}

func (h *holding) record(s *slot) record { return h.arena.at(s.addr) }

func (h *holding) free(pool *offheap.Pool) {
	pool.Free(h.block)
	h.arena.free(pool)
}

func (h *holding) clone(pool *offheap.Pool) *holding {
	c := &holding{refs: 1}
	c.slots, c.block = makeTable(pool, len(h.slots))
	copy(c.slots, h.slots)
	c.arena = h.arena.clone(pool)
	return c
}

// find returns the slot of a key, or the empty one where it would go.
func (s *shard) find(h uint64, key []byte) (i int, ok bool) {
	if len(s.slots) == 0 {
		return 0, false
	}
	hash := slotHash(h)
	for i = s.slots.home(hash); ; i = s.slots.next(i) {
		at := &s.slots[i]
		if at.addr == 0 {
			return i, false
		}
		if at.hash == hash && bytes.Equal(s.holding.record(at).key(), key) {
			return i, true
		}
	}
}

// candidate returns the first slot that has a hash. Whether it is the key's is for the caller to find out.
func (s *shard) candidate(h uint64) (at slot, ok bool) {
	if len(s.slots) == 0 {
		return slot{}, false
	}
	hash := slotHash(h)
	for i := s.slots.home(hash); ; i = s.slots.next(i) {
		at := &s.slots[i]
		if at.addr == 0 {
			return slot{}, false
		}
		if at.hash == hash {
			return *at, true
		}
	}
}

// position is where slot i says that the key is on disk.
func (s *shard) position(i int) Position {
	var it Item
	s.load(i, &it)
	return it.Position
}

// load sets it to what slot i leads to.
func (s *shard) load(i int, it *Item) {
	at := &s.slots[i]
	at.load(s.holding.record(at), it)
}

// holds tells whether a slot with the hash h leads to this place on disk.
func (s *shard) holds(h uint64, segment, offset uint32) bool {
	if len(s.slots) == 0 {
		return false
	}
	hash := slotHash(h)
	for i := s.slots.home(hash); ; i = s.slots.next(i) {
		at := &s.slots[i]
		if at.addr == 0 {
			return false
		}
		if at.hash == hash && at.segment == segment && at.offset == offset {
			return true
		}
	}
}

// seek asks for the slots where the search for a hash begins.
func (s *shard) seek(h uint64) {
	if len(s.slots) > 0 {
		home := s.slots.home(slotHash(h))
		prefetch.Slice(s.slots[home:min(home+searchSlots, len(s.slots))])
	}
}

// prefetch asks for what a put of a new key will need: the slots where the search begins, and the end of the arena.
func (s *shard) prefetch(h uint64, keyLen int) {
	if len(s.slots) == 0 {
		return
	}
	s.seek(h)
	chunks := s.holding.arena.chunks
	c := &chunks[len(chunks)-1]
	if n := recordBytes(keyLen, false); c.used+n <= len(c.block.Mem) {
		prefetch.Bytes(c.block.Mem[c.used : c.used+n])
	}
}

// replace stores an item under the key that is in slot i.
func (s *shard) replace(d *Keydir, i int, h uint64, key []byte, it *Item) {
	s.own(d)
	at := &s.slots[i]
	r := s.holding.record(at)
	if r.expires() != (it.ExpireAt != 0) { // the record has no room for an expiry, or one too many
		s.remove(d, i)
		s.insert(d, h, key, it)
		s.collect(d)
		return
	}
	s.count(r, -1)
	at.setItem(r, it)
	s.count(r, 1)
}

// insert adds a key that is not there.
func (s *shard) insert(d *Keydir, h uint64, key []byte, it *Item) {
	s.own(d)
	if s.holding == nil {
		s.holding = &holding{refs: 1, arena: arena{expect: int(d.expectBytes.Load())}}
	}
	if s.slots.full(s.used + 1) {
		s.resize(d, max(s.used+1, int(d.expectKeys.Load())))
	}
	a := &s.holding.arena
	n := recordBytes(len(key), it.ExpireAt != 0)
	addr := a.address(n)
	if addr >= 1<<32 {
		panic("keydir: the keys of one shard exceed 4 GiB") // 4 TiB of keys in all
	}
	r := a.append(&d.pool, n)
	i := s.slots.place(slot{hash: slotHash(h), addr: uint32(addr)})
	s.slots[i].setItem(r, it)
	r.setKey(key)
	s.used++
	s.count(r, 1)
}

// remove deletes the key that is in slot i. Garbage stays: collect follows.
func (s *shard) remove(d *Keydir, i int) {
	s.own(d)
	r := s.holding.record(&s.slots[i])
	s.count(r, -1)
	s.holding.arena.garbage += r.bytes()
	s.used--
	s.slots.vacate(i)
}

// count keeps s.keys and s.expiring when a record appears (1) or goes away (-1).
func (s *shard) count(r record, delta int) {
	if r.tombstone() {
		return
	}
	s.keys += delta
	if r.expires() {
		s.expiring += delta
	}
}

// own makes sure that no view sees the coming change.
func (s *shard) own(d *Keydir) {
	if s.holding == nil || s.holding.refs == 1 {
		return
	}
	shared := s.holding
	s.hold(shared.clone(&d.pool))
	shared.refs--
}

// hold makes h the shard's own.
func (s *shard) hold(h *holding) { s.holding, s.slots = h, h.slots }

// collect gives memory back when enough of it is garbage. The arena is the shard's own.
func (s *shard) collect(d *Keydir) {
	if s.holding == nil {
		return
	}
	if a := &s.holding.arena; a.garbage*garbageDen > a.bytes {
		s.compact(d)
	}
}

// compact copies what slots lead to into memory of the size that it needs.
func (s *shard) compact(d *Keydir) {
	if s.used == 0 {
		s.reset(d)
		return
	}
	old := s.holding
	h := &holding{refs: 1, arena: arena{expect: old.arena.bytes - old.arena.garbage}}
	h.slots, h.block = makeTable(&d.pool, sizeFor(s.used))
	for i := range old.slots {
		at := old.slots[i]
		if at.addr == 0 {
			continue
		}
		r := old.record(&at)
		r = r[:r.bytes()]
		at.addr = uint32(h.arena.address(len(r)))
		copy(h.arena.append(&d.pool, len(r)), r)
		h.slots.place(at)
	}
	s.hold(h)
	s.unref(d, old)
}

// resize makes a table for n keys.
func (s *shard) resize(d *Keydir, n int) {
	h := s.holding
	old, block := h.slots, h.block
	h.slots, h.block = makeTable(&d.pool, sizeFor(n))
	h.slots.fill(old)
	d.pool.Free(block)
	s.slots = h.slots
}

// reset empties the shard. Views keep what they have pinned.
func (s *shard) reset(d *Keydir) {
	if h := s.detach(); h != nil {
		s.unref(d, h)
	}
}

// detach empties the shard and leaves it to the caller to drop the reference to what was in it.
func (s *shard) detach() *holding {
	h := s.holding
	s.holding, s.slots, s.used = nil, nil, 0
	s.keys = 0
	s.expiring = 0
	return h
}

// unref drops one reference to what is or was the shard's.
func (s *shard) unref(d *Keydir, h *holding) {
	h.refs--
	if h.refs == 0 {
		h.free(&d.pool)
	}
}

// pinLocked returns what the shard holds now, for reading without a lock. Nil when that is nothing.
func (s *shard) pinLocked() *holding {
	if s.holding != nil {
		s.holding.refs++
	}
	return s.holding
}

func (s *shard) unpin(d *Keydir, h *holding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unref(d, h)
}

// dropTombstones removes all of them at once, and gives memory back that was made for more keys than came.
func (s *shard) dropTombstones(d *Keydir) {
	if s.used == s.keys {
		if h := s.holding; h != nil && sizeFor(s.used) < len(s.slots)*3/4 {
			s.compact(d)
		}
		return
	}
	s.own(d)
	h := s.holding
	for i := range h.slots {
		if at := &h.slots[i]; at.addr != 0 {
			if r := h.record(at); r.tombstone() {
				h.arena.garbage += r.bytes()
				s.used--
				at.addr = 0 // a hole: what lies behind it is not reachable before the table is made again
			}
		}
	}
	if s.used == 0 {
		s.reset(d)
		return
	}
	s.resize(d, s.used)
	s.collect(d)
}

// hash spreads keys alike on every node with the same seed.
func (d *Keydir) hash(key []byte) uint64 {
	digest := d.digest // a copy on the stack: seeding again would cost a few ns
	_, _ = digest.Write(key)
	return digest.Sum64()
}
