package keydir

import (
	"bytes"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/raftcask/raftcask/bitcask/internal/offheap"
)

const (
	minSlots = 16
	// A table grows when it would be fuller than maxLoadNum/maxLoadDen. 7/8 means 4.6 to 9.1 bytes
	// of table per key; a miss then looks at 32 slots of 4 bytes at worst on average (Knuth vol. 3, 6.4).
	maxLoadNum, maxLoadDen = 7, 8
	// An arena is compacted when more than 1/garbageDen of it is garbage: each byte of garbage
	// then costs seven bytes of copying.
	garbageDen = 8
	// minAddrBits leaves 16 bits of tag in a slot while the arena is one chunk.
	minAddrBits = chunkLog
	slotBytes   = 4
)

// shard is the part of the keys whose hashes share their top bits: a hash table of slots with
// linear probing, and an arena.
//
// A slot is the address of a record in its low addrBits and, above, a tag: the low bits of
// the key's hash. Almost every record that a lookup touches is therefore the right one. As the arena grows,
// addresses take bits from the tags. An empty slot is 0. The home of a key is given by the top bits
// of its hash (below those of the shard), so a table is ordered by hash, but for displacement:
// that is what Scan relies on.
type shard struct {
	mu       sync.RWMutex // guards all below but keys
	slots    []uint32     // a power of two of them, or none; at least one is empty
	block    offheap.Block
	arena    *arena // nil when there is no record
	used     int    // occupied slots
	shift    uint8  // 64 - log2(len(slots))
	addrBits uint8
	closed   bool
	keys     atomic.Int64 // records that are not tombstones; changed under mu
	expiring atomic.Int64 // those of them that have an expiry
}

// home is the slot where a search for a hash begins.
func (s *shard) home(h uint64) int { return int(h << shardBits >> s.shift) }

func (s *shard) record(slot uint32) record {
	return s.arena.at(slot & (1<<s.addrBits - 1))
}

// find returns the slot of a key, or the empty one where it would go.
func (s *shard) find(h uint64, key []byte) (i int, ok bool) {
	if len(s.slots) == 0 {
		return 0, false
	}
	mask := len(s.slots) - 1
	want := uint32(h) << s.addrBits
	for i = s.home(h); ; i = (i + 1) & mask {
		slot := s.slots[i&mask]
		if slot == 0 {
			return i, false
		}
		if (slot^want)>>s.addrBits == 0 && bytes.Equal(s.record(slot).key(), key) {
			return i, true
		}
	}
}

// replace stores an item under the key that is in slot i.
func (s *shard) replace(d *Keydir, i int, h uint64, key []byte, it Item) {
	s.own(d)
	r := s.record(s.slots[i])
	if r.expires() != (it.ExpireAt != 0) { // the record has no room for an expiry, or one too many
		s.remove(d, i)
		s.insert(d, h, key, it)
		s.collect(d)
		return
	}
	s.count(r, -1)
	r.setItem(it)
	s.count(r, 1)
}

// insert adds a key that is not there.
func (s *shard) insert(d *Keydir, h uint64, key []byte, it Item) {
	s.own(d)
	if (s.used+1)*maxLoadDen > len(s.slots)*maxLoadNum {
		s.rebuild(d, s.used+1)
	}
	if s.arena == nil {
		s.arena = &arena{refs: 1}
	}
	n := recordBytes(len(key), it.ExpireAt != 0)
	addr := s.arena.address(n)
	s.widen(bits.Len64(addr))
	r := s.arena.append(&d.pool, n)
	r.setItem(it)
	r.setKey(key)
	s.place(h, uint32(addr))
	s.used++
	s.count(r, 1)
}

// place fills the first empty slot from the home of a hash.
func (s *shard) place(h uint64, addr uint32) {
	mask := len(s.slots) - 1
	i := s.home(h)
	for s.slots[i] != 0 {
		i = (i + 1) & mask
	}
	s.slots[i] = uint32(h)<<s.addrBits | addr
}

// widen makes the addresses in the slots at least n bits wide, at the cost of the tags.
func (s *shard) widen(n int) {
	if n > 32 {
		panic("keydir: the keys of one shard exceed 4 GiB") // 4 TiB of keys in all
	}
	if n <= int(s.addrBits) {
		return
	}
	for i, slot := range s.slots {
		if slot != 0 {
			s.slots[i] = slot>>s.addrBits<<n | slot&(1<<s.addrBits-1)
		}
	}
	s.addrBits = uint8(n)
}

// remove deletes the key that is in slot i. Garbage stays: collect follows.
func (s *shard) remove(d *Keydir, i int) {
	s.own(d)
	r := s.record(s.slots[i])
	s.count(r, -1)
	r.markDead()
	s.arena.garbage += r.bytes()
	s.used--

	// Move up what would become unreachable across the hole, so that the table needs no marks for
	// deleted slots (Knuth vol. 3, 6.4, algorithm R).
	mask, hole := len(s.slots)-1, i
	for i = (i + 1) & mask; s.slots[i] != 0; i = (i + 1) & mask {
		home := s.home(d.hash(s.record(s.slots[i]).key()))
		if (i-home)&mask >= (i-hole)&mask {
			s.slots[hole] = s.slots[i]
			hole = i
		}
	}
	s.slots[hole] = 0
}

// count keeps s.keys and s.expiring when a record appears (1) or goes away (-1).
func (s *shard) count(r record, delta int64) {
	if r.flags()&flagTombstone != 0 {
		return
	}
	s.keys.Add(delta)
	if r.expires() {
		s.expiring.Add(delta)
	}
}

// own makes sure that no view sees the coming change. The slots stay as they are.
func (s *shard) own(d *Keydir) {
	if s.arena == nil || s.arena.refs == 1 {
		return
	}
	shared := s.arena
	s.arena = shared.clone(&d.pool)
	shared.refs--
}

// collect gives memory back when enough of it is garbage.
func (s *shard) collect(d *Keydir) {
	if s.arena == nil || s.arena.garbage*garbageDen <= s.arena.bytes {
		return
	}
	if s.used == 0 {
		s.reset(d)
		return
	}
	old := s.arena
	s.arena = old.compacted(&d.pool)
	s.unref(d, old)
	s.rebuild(d, s.used)
}

// rebuild makes a table of the best size for n keys from the arena.
func (s *shard) rebuild(d *Keydir, n int) {
	size := minSlots
	for n*maxLoadDen > size*maxLoadNum {
		size *= 2
	}
	block := alloc(&d.pool, size*slotBytes)
	d.pool.Free(s.block)
	s.block = block
	s.slots = slotsIn(block.Mem)[:size]
	clear(s.slots)
	s.shift = uint8(64 - bits.TrailingZeros(uint(size)))
	s.addrBits = minAddrBits
	if s.arena != nil {
		s.addrBits = uint8(max(minAddrBits, bits.Len64(s.arena.address(1))))
	}
	for addr, r := range s.arena.records() {
		s.place(d.hash(r.key()), addr)
	}
}

// slotsIn sees memory as slots. Blocks begin at multiples of 16 bytes.
func slotsIn(mem []byte) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(mem))), len(mem)/slotBytes)
}

// reset empties the shard. Views keep what they have pinned.
func (s *shard) reset(d *Keydir) {
	table, records := s.detach()
	d.pool.Free(table)
	if records != nil {
		s.unref(d, records)
	}
}

// detach empties the shard and leaves it to the caller to free what was in it.
func (s *shard) detach() (offheap.Block, *arena) {
	table, records := s.block, s.arena
	s.block, s.slots, s.arena, s.used = offheap.Block{}, nil, nil, 0
	s.addrBits = minAddrBits
	s.keys.Store(0)
	s.expiring.Store(0)
	return table, records
}

// unref drops one reference to an arena of this shard.
func (s *shard) unref(d *Keydir, a *arena) {
	a.refs--
	if a.refs == 0 {
		a.free(&d.pool)
	}
}

// pinLocked returns the records as they are now, for reading without a lock. Nil when there are none.
func (s *shard) pinLocked() *arena {
	if s.arena != nil {
		s.arena.refs++
	}
	return s.arena
}

func (s *shard) unpin(d *Keydir, a *arena) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unref(d, a)
}

// dropTombstones removes all of them at once.
func (s *shard) dropTombstones(d *Keydir) {
	if s.used == int(s.keys.Load()) {
		return
	}
	s.own(d)
	for _, r := range s.arena.records() {
		if r.flags()&flagTombstone != 0 {
			r.markDead()
			s.arena.garbage += len(r)
			s.used--
		}
	}
	s.rebuild(d, s.used)
	s.collect(d)
}

// hash spreads keys alike on every node with the same seed.
func (d *Keydir) hash(key []byte) uint64 {
	digest := d.digest // a copy on the stack: seeding again would cost a few ns
	_, _ = digest.Write(key)
	return digest.Sum64()
}
