// Package offheap allocates memory that the garbage collector neither scans nor counts, and that
// goes back to the operating system when it is freed.
//
//	var pool offheap.Pool
//	block, err := pool.Alloc(10_000) // 12 KiB: see below
//	copy(block.Mem, data)
//	pool.Free(block)
//
// Sizes are rounded up: below 4 KiB to one of four steps between powers of two, up to 64 KiB to a
// multiple of 4 KiB, beyond to one of eight steps between powers of two.
//
// A block lies in a slab of blocks of the same size. A slab of blocks of a page or more is a mapping
// of about 1 MiB or more; all but the first of a size are populated at once: a fault for each page would take longer. A slab of
// smaller blocks is one 64 KiB block. A slab goes back to the system when all its blocks are free. So nothing has to be
// merged or moved, and up to a slab of each size, and address space, are all that a mixed history of sizes can waste.
//
// Returning the pages of single blocks is dear: each time all processors that run the process are interrupted, and pages
// that are used again have to be made anew. So they stay until they come to a quarter of the memory in use, at
// least 1 and at most 16 MiB; then those of the slab that has most of them go, neighbors together.
//
// A block that fills from its start, like a log, can be reserved instead: its addresses are there at once,
// its pages when they are touched, and it never has to be copied to a larger one.
//
//	block, err := pool.Reserve()
//	pool.Use(&block, 5000) // two pages
//
// Off Linux, slabs are ordinary byte slices: still without pointers for the collector to follow, and
// returned by slab instead of by block.
package offheap

import (
	"cmp"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"sync"
)

const (
	minBytes  = 64
	pageBytes = 4 << 10  // smaller blocks share a block
	homeBytes = 64 << 10 // the block that they share

	// ReserveBytes is the size of a reserved block.
	ReserveBytes = homeBytes

	// The smallest mappings: some are populated while a put waits, less than a millisecond. The system makes one of
	// those that are neighbors, so vm.max_map_count is far.
	slabBytes         = 1 << 20
	reservedSlabBytes = 16 << 20
	maxBytes          = 1 << 30 // asking for more is a mistake

	// Classes of size, in three sections: 4 per doubling, then by the page, then 8 per doubling.
	smallClasses = 4 * 6 // 64 bytes to below 4 KiB: 6 doublings
	pageClasses  = homeBytes / pageBytes
	largeClasses = 8 * 14                                    // above 64 KiB to 1 GiB: 14 doublings
	reserved     = smallClasses + pageClasses + largeClasses // a class of its own, of ReserveBytes
	classes      = reserved + 1
)

// Block is a piece of memory. The zero Block is no memory.
type Block struct {
	Mem   []byte // contents are undefined after Alloc; never keep it past Free
	slab  *slab
	index uint32
	used  uint32 // bytes of a reserved block that count as memory held
}

// Pool hands out blocks. The zero value is ready to use. All methods are safe for concurrent use.
type Pool struct {
	mu    sync.Mutex
	roomy [classes][]*slab // by class: slabs that have a free block
	slabs [classes]int     // by class: slabs that are mappings
	bytes int64            // in use
	idle  int64            // free and not returned
	kept  []*slab          // those that have idle blocks
	fresh []byte           // a new slab's memory, to be populated
}

// What may be idle.
const (
	idleShare    = 4 // of the bytes in use, one in so many
	minIdleBytes = 1 << 20
	maxIdleBytes = 16 << 20
	// maxReturns many times at most one Free returns pages, so that it takes no longer than a millisecond or two.
	maxReturns = 64
)

// slab is a piece of memory cut into blocks of one size. Pool.mu guards it.
type slab struct {
	mem     []byte
	home    Block // where mem comes from, if it is not a mapping
	class   int
	size    int      // of a block
	carved  uint32   // blocks that were ever handed out: the memory beyond was never touched
	free    []uint32 // blocks below carved that are free
	idle    int      // so many at the end of free still have their pages
	used    uint32
	roomyAt int // place in Pool.roomy, -1 when full
}

// class returns the number and the block size of the smallest class that fits.
func class(bytes int) (class, size int) {
	switch {
	case bytes > homeBytes:
		steps, size := stepped(bytes, 8)
		return smallClasses + pageClasses - 1 + steps - 8*(bits.Len(homeBytes)-1), size
	case bytes > pageBytes-pageBytes/8: // the last small class is 3584
		pages := (bytes + pageBytes - 1) / pageBytes
		return smallClasses + pages - 1, pages * pageBytes
	case bytes <= minBytes:
		return 0, minBytes
	}
	steps, size := stepped(bytes, 4)
	return steps - 4*bits.Len(minBytes-1), size
}

// stepped rounds up to one of a number of steps between powers of two, and counts the steps from 1 byte on.
func stepped(bytes, perDoubling int) (steps, size int) {
	log := bits.Len(uint(bytes-1)) - 1 // bytes is in (1<<log, 2<<log]
	step := 1 << log / perDoubling
	n := (bytes - 1<<log + step - 1) / step // 1 to perDoubling
	return perDoubling*log + n, 1<<log + n*step
}

// RoundUp is the size of the block that Alloc gives for a size.
func RoundUp(size int) int {
	_, size = class(size)
	return size
}

// Alloc returns a block of at least size bytes. It fails when the operating system has no more
// memory to give.
func (p *Pool) Alloc(size int) (Block, error) {
	if size > maxBytes {
		return Block{}, fmt.Errorf("offheap: allocate %d bytes: too large", size)
	}
	class, size := class(size)
	p.mu.Lock()
	b, carved, err := p.allocLocked(class, size)
	if err == nil && (carved || size >= pageBytes) {
		p.bytes += int64(size)
	}
	fresh := p.fresh
	p.fresh = nil
	p.mu.Unlock()
	if fresh != nil {
		populate(fresh) // takes a millisecond: without the lock
	}
	return b, err
}

// Reserve returns a block of ReserveBytes of which nothing takes memory before it is touched. Say with Use how much will be.
func (p *Pool) Reserve() (Block, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, _, err := p.allocLocked(reserved, ReserveBytes)
	return b, err
}

// Use counts the first n bytes of a reserved block as memory held, whole pages of it. Other blocks count anyway.
func (p *Pool) Use(b *Block, n int) {
	used := uint32(n+pageBytes-1) / pageBytes * pageBytes
	if used <= b.used || b.slab.class != reserved {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += int64(used - b.used)
	b.used = used
}

// allocLocked also reports whether the block was never handed out before.
func (p *Pool) allocLocked(class, size int) (b Block, carved bool, err error) {
	if len(p.roomy[class]) == 0 {
		s, err := p.newSlabLocked(class, size)
		if err != nil {
			return Block{}, false, err
		}
		p.addRoomyLocked(s)
	}
	roomy := p.roomy[class]
	s := roomy[len(roomy)-1]
	b = Block{slab: s, index: s.carved}
	if last := len(s.free) - 1; last >= 0 {
		b.index, s.free = s.free[last], s.free[:last]
		if s.idle > 0 {
			s.idle--
			p.idle -= int64(size)
			p.forgetKeptLocked(s)
		}
	} else {
		s.carved++
		carved = true
	}
	s.used++
	if s.used == s.blocks() {
		p.dropRoomyLocked(s)
	}
	at := int(b.index) * size
	b.Mem = s.mem[at : at+size : at+size]
	return b, carved, nil
}

func (p *Pool) newSlabLocked(class, size int) (*slab, error) {
	s := &slab{class: class, size: size, roomyAt: -1}
	if size < pageBytes {
		home, _, err := p.allocLocked(smallClasses+pageClasses-1, homeBytes)
		s.mem, s.home = home.Mem, home
		return s, err
	}
	bytes := slabBytes
	if class == reserved {
		bytes = reservedSlabBytes
	}
	mem, err := mapMemory(max(1, bytes/size) * size)
	if err != nil {
		return nil, fmt.Errorf("offheap: map memory: %w", err)
	}
	// The first slab of a class may stay as good as empty, those after it will fill. That does not hold for what is reserved.
	if p.slabs[class] > 0 && class != reserved {
		p.fresh = mem
	}
	s.mem = mem
	p.slabs[class]++
	return s, nil
}

func (s *slab) blocks() uint32 { return uint32(len(s.mem) / s.size) }

// Free takes a block back. Freeing the zero Block does nothing; freeing a block twice is a bug.
func (p *Pool) Free(b Block) {
	if b.slab == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case b.slab.class == reserved:
		p.bytes -= int64(b.used)
	case b.slab.size >= pageBytes:
		p.bytes -= int64(len(b.Mem))
	}
	p.freeLocked(b)
	p.trimLocked()
}

func (p *Pool) freeLocked(b Block) {
	s := b.slab
	if s.used == 0 {
		panic("offheap: block freed twice")
	}
	s.used--
	if s.used == 0 {
		p.releaseLocked(s)
		return
	}
	s.free = append(s.free, b.index)
	switch {
	case s.size%os.Getpagesize() != 0: // it shares a page with its neighbors
	case s.class == reserved: // mostly there for its addresses
		returnPages(b.Mem)
	default:
		p.keepLocked(s)
	}
	if s.roomyAt < 0 {
		p.addRoomyLocked(s)
	}
}

// trimLocked returns idle memory while there is too much of it.
func (p *Pool) trimLocked() {
	for calls := maxReturns; calls > 0 && p.idle > min(max(p.bytes/idleShare, minIdleBytes), maxIdleBytes); {
		fullest := slices.MaxFunc(p.kept, func(a, b *slab) int { return cmp.Compare(a.idle*a.size, b.idle*b.size) })
		p.idle -= fullest.returnIdle(&calls)
		p.forgetKeptLocked(fullest)
	}
}

// keepLocked keeps the pages of the block that came last into s.free, for now.
func (p *Pool) keepLocked(s *slab) {
	if s.idle == 0 {
		p.kept = append(p.kept, s)
	}
	s.idle++
	p.idle += int64(s.size)
}

// forgetKeptLocked takes a slab out of kept if it has nothing idle.
func (p *Pool) forgetKeptLocked(s *slab) {
	if s.idle == 0 {
		i := slices.Index(p.kept, s)
		p.kept = slices.Delete(p.kept, i, i+1)
	}
}

// returnIdle returns the pages of idle blocks, neighbors together, with so many system calls at most.
func (s *slab) returnIdle(calls *int) (returned int64) {
	idle := s.free[len(s.free)-s.idle:]
	slices.Sort(idle)
	for ; len(idle) > 0 && *calls > 0; *calls-- {
		n := 1
		for n < len(idle) && idle[n] == idle[0]+uint32(n) {
			n++
		}
		from := int(idle[0]) * s.size
		returnPages(s.mem[from : from+n*s.size])
		returned += int64(n * s.size)
		idle = idle[n:]
	}
	s.idle = len(idle)
	return returned
}

// releaseLocked gives up a slab without a used block.
func (p *Pool) releaseLocked(s *slab) {
	if s.roomyAt >= 0 {
		p.dropRoomyLocked(s)
	}
	if s.home.slab != nil {
		p.bytes -= int64(s.carved) * int64(s.size)
		p.freeLocked(s.home)
	} else {
		unmapMemory(s.mem)
		p.slabs[s.class]--
	}
	if s.idle > 0 {
		p.idle -= int64(s.idle) * int64(s.size)
		s.idle = 0
		p.forgetKeptLocked(s)
	}
	s.mem = nil
}

func (p *Pool) addRoomyLocked(s *slab) {
	s.roomyAt = len(p.roomy[s.class])
	p.roomy[s.class] = append(p.roomy[s.class], s)
}

func (p *Pool) dropRoomyLocked(s *slab) {
	list := p.roomy[s.class]
	last := list[len(list)-1]
	list[s.roomyAt], last.roomyAt = last, s.roomyAt
	list[len(list)-1] = nil
	p.roomy[s.class] = list[:len(list)-1]
	s.roomyAt = -1
}

// Idle is how much of Bytes is in freed blocks whose memory was not returned yet.
func (p *Pool) Idle() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle
}

// Bytes is how much memory the pool holds: blocks handed out, and freed ones whose memory was
// not returned yet.
func (p *Pool) Bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes + p.idle
}
