package keydir

import (
	"unsafe"

	"github.com/raftcask/raftcask/bitcask/internal/offheap"
)

const (
	minSlots = 8
	// A table that would be fuller than 7/8 is made again, larger by a tenth and what rounding up adds: an eighth at
	// most. So 18.3 to 22.6 bytes are taken per key; a miss then looks at 32 slots at worst on average
	// (Knuth vol. 3, 6.4). A small table grows by half: a store's first half a million keys are put faster by a few percent, and take up
	// to 9 bytes more each.
	maxLoadNum, maxLoadDen = 7, 8
	smallTableBytes        = 12 << 10
	slotBytes              = int(unsafe.Sizeof(slot{}))
	searchSlots            = 16 // that the search for a key that is not there looks at, on average
)

// slot is one place of a table: four of them fill a cache line. A get needs no more than this to know where the
// value is: it reads the record on disk, which has the key too. An empty slot has address 0.
//
// hash are the 32 bits of the key's hash below those of the shard. Almost every slot that has the hash of a
// key is therefore the right one, and a table can be made again without a look at the keys.
type slot struct {
	hash    uint32
	addr    uint32 // of the record in the arena
	segment uint32
	offset  uint32
}

// table is a hash table with linear probing whose size is any number. The home of a key is its hash scaled to the
// size, so a table is ordered by hash, but for displacement: that is what Scan relies on. At least one slot is empty,
// but for a table of no slots.
type table []slot

// slotHash are the bits of a key's hash that a slot keeps.
func slotHash(h uint64) uint32 { return uint32(h << shardBits >> 32) }

// home is the slot where a search for a hash begins.
func (t table) home(hash uint32) int { return int(uint64(hash) * uint64(len(t)) >> 32) }

// firstHash is the lowest hash whose home is slot i.
func (t table) firstHash(i int) uint64 {
	n := uint64(len(t))
	return (uint64(i)<<32 + n - 1) / n
}

// next is the slot after i, around the end.
func (t table) next(i int) int {
	if i++; i < len(t) {
		return i
	}
	return 0
}

// distance is how far slot i lies from the home of its hash, around the end.
func (t table) distance(i int, hash uint32) int {
	d := i - t.home(hash)
	if d < 0 {
		d += len(t)
	}
	return d
}

// place fills the first empty slot from the home of s on.
func (t table) place(s slot) int {
	i := t.home(s.hash)
	for t[i].addr != 0 {
		i = t.next(i)
	}
	t[i] = s
	return i
}

// fill places the slots of another table. They are about in order, so that most go behind the one that was placed last, and
// no search is needed.
func (t table) fill(from table) {
	start := 0
	for start < len(from) && from[start].addr != 0 { // these may have come around the end, and are the last
		start++
	}
	free := 0
	run := 0 // the slots from run to before free are taken, those from free on are not
	for _, part := range [2]table{from[start:], from[:start]} {
		for i := range part {
			s := &part[i]
			if s.addr == 0 {
				continue
			}
			home := t.home(s.hash)
			if home > free {
				run, free = home, home
			}
			if home >= run && free < len(t) {
				t[free] = *s
				free++
			} else if t.place(*s) == free {
				free++
			}
		}
	}
}

// vacate empties slot i, and moves up what would become unreachable across the hole, so that the
// table needs no marks for deleted slots (Knuth vol. 3, 6.4, algorithm R).
func (t table) vacate(i int) {
	hole := i
	for i = t.next(i); t[i].addr != 0; i = t.next(i) {
		gap := i - hole
		if gap < 0 {
			gap += len(t)
		}
		if t.distance(i, t[i].hash) >= gap {
			t[hole] = t[i]
			hole = i
		}
	}
	t[hole] = slot{}
}

// full tells whether n keys are too many for the table.
func (t table) full(n int) bool { return n*maxLoadDen > len(t)*maxLoadNum }

// sizeFor is the size of a table that is made for n keys. It uses up the last page of its memory.
func sizeFor(n int) int {
	slots := n*maxLoadDen/maxLoadNum + 1
	if slots*slotBytes < smallTableBytes {
		slots += slots / 2
	} else {
		slots += slots / 10
	}
	slots = max(slots, minSlots)
	return offheap.RoundUp(slots*slotBytes) / slotBytes
}

// makeTable returns an empty table of n slots, and the memory that it lies in.
func makeTable(pool *offheap.Pool, n int) (table, offheap.Block) {
	block := alloc(pool.Alloc(n * slotBytes))
	t := slotsIn(block.Mem)[:n]
	clear(t)
	return t, block
}

// slotsIn sees memory as slots. Blocks begin at multiples of 16 bytes.
func slotsIn(mem []byte) []slot {
	return unsafe.Slice((*slot)(unsafe.Pointer(unsafe.SliceData(mem))), len(mem)/slotBytes)
}
