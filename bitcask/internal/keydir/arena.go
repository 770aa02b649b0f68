package keydir

import "github.com/raftcask/raftcask/bitcask/internal/offheap"

const (
	chunkLog   = 16 // log2 of the addresses in a chunk
	chunkBytes = 1 << chunkLog
	// While the first chunk is small it is made larger by a part of itself when it is full: that share is the most that is
	// unused, and each byte is copied about as many times.
	arenaGrowthDen = 8
	// A chunk that needs more is reserved whole, and takes memory page by page: on average half a page is unused.
	smallBytes = 3584
)

// A reserved block is a chunk.
const _ = -uint(chunkBytes ^ offheap.ReserveBytes)

// arena holds the records of a shard, one after another. The address of a record is its place:
// chunk number << chunkLog | offset in the chunk, and never 0. A record never crosses into another
// chunk; one of more than chunkBytes (a key of almost 64 KiB) has a larger chunk with the
// addresses of two.
//
// The zero arena is empty.
type arena struct {
	chunks  []chunk
	bytes   int // of all records
	expect  int // what bytes is known to become soon: then a small chunk need not be copied
	garbage int // of the records that no slot leads to
}

type chunk struct {
	block offheap.Block // no memory: the addresses belong to the large chunk before
	used  int
}

// address returns where the next record of n bytes goes, without putting it there.
func (a *arena) address(n int) uint64 {
	last := len(a.chunks) - 1
	if last < 0 {
		return 1 // 0 is the mark of an empty slot
	}
	if at := a.chunks[last].used; at > 0 && at+n <= chunkBytes {
		return uint64(last)<<chunkLog | uint64(at)
	}
	return uint64(last+1) << chunkLog
}

// append makes room for a record of n bytes at address(n).
func (a *arena) append(pool *offheap.Pool, n int) record {
	addr := a.address(n)
	i, at := int(addr>>chunkLog), int(addr&(chunkBytes-1))
	if i == len(a.chunks) {
		a.chunks = append(a.chunks, chunk{block: a.make(pool, i, at+n), used: at})
		if at+n > chunkBytes {
			a.chunks = append(a.chunks, chunk{}) // used is 0: address goes on to the next
		}
	}
	c := &a.chunks[i]
	if at+n > len(c.block.Mem) {
		block := a.make(pool, i, at+n)
		copy(block.Mem, c.block.Mem[:c.used])
		pool.Free(c.block)
		c.block = block
	}
	a.bytes += n
	c.used += n
	if len(c.block.Mem) == chunkBytes {
		pool.Use(&c.block, c.used)
	}
	return record(c.block.Mem[at : at+n])
}

// make returns the memory of chunk i, which has to hold so many bytes.
func (a *arena) make(pool *offheap.Pool, i, needed int) offheap.Block {
	switch {
	case needed > chunkBytes:
		return alloc(pool.Alloc(needed))
	case a.expect-a.bytes >= chunkBytes: // it will be full
		return alloc(pool.Alloc(chunkBytes))
	case i > 0, max(needed, a.expect) > smallBytes:
		return alloc(pool.Reserve())
	}
	return alloc(pool.Alloc(min(max(needed+a.bytes/arenaGrowthDen, a.expect), smallBytes)))
}

// alloc has no error to return: without memory for its index a store cannot go on, and no caller
// could do what the Go runtime itself does not.
func alloc(block offheap.Block, err error) offheap.Block {
	if err != nil {
		panic("keydir: out of memory: " + err.Error())
	}
	return block
}

// at returns the record at an address, and whatever follows it.
func (a *arena) at(addr uint32) record {
	return record(a.chunks[addr>>chunkLog].block.Mem[addr&(chunkBytes-1):])
}

// clone copies an arena address by address.
func (a *arena) clone(pool *offheap.Pool) arena {
	c := arena{chunks: make([]chunk, len(a.chunks)), bytes: a.bytes, garbage: a.garbage}
	for i, from := range a.chunks {
		if from.used == 0 {
			continue
		}
		to := chunk{used: from.used}
		if len(from.block.Mem) == chunkBytes && i == len(a.chunks)-1 { // the others are full
			to.block = alloc(pool.Reserve())
			pool.Use(&to.block, to.used)
		} else {
			to.block = alloc(pool.Alloc(len(from.block.Mem)))
		}
		copy(to.block.Mem, from.block.Mem[:from.used])
		c.chunks[i] = to
	}
	return c
}

func (a *arena) free(pool *offheap.Pool) {
	for _, c := range a.chunks {
		pool.Free(c.block)
	}
	a.chunks = nil
}
