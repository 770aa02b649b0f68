package offheap

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestClassesFitTightlyAndInOrder(t *testing.T) {
	lastClass, lastSize := -1, 0
	check := func(n int) {
		t.Helper()
		c, size := class(n)
		if size < n || c >= classes {
			t.Fatalf("%d bytes: class %d of %d bytes", n, c, size)
		}
		if n > minBytes && n < pageBytes && size > n+n/4+1 {
			t.Fatalf("%d bytes: class of %d bytes wastes more than a quarter", n, size)
		}
		if n > homeBytes && size > n+n/8 {
			t.Fatalf("%d bytes: class of %d bytes wastes more than an eighth", n, size)
		}
		if (c == lastClass) != (size == lastSize) || c < lastClass || c > lastClass+1 {
			t.Fatalf("%d bytes: class %d of %d bytes follows class %d of %d bytes", n, c, size, lastClass, lastSize)
		}
		lastClass, lastSize = c, size
	}
	for n := 0; n <= 2*homeBytes; n++ {
		check(n)
	}
	for n := 2 * homeBytes; n < maxBytes; n *= 2 {
		for step := 1; step <= 8; step++ {
			check(n + n/8*step - n/8 + 1)
			check(n + n/8*step)
		}
	}
	if lastClass != reserved-1 {
		t.Fatalf("last class is %d of %d", lastClass, reserved)
	}
}

func TestBlocksNeverOverlap(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var pool Pool
	type held struct {
		block Block
		fill  byte
	}
	var blocks []held
	free := func(i int) {
		h := blocks[i]
		if rest := bytes.Trim(h.block.Mem, string(h.fill)); len(rest) != 0 {
			t.Fatalf("a block of %d bytes was overwritten", len(h.block.Mem))
		}
		pool.Free(h.block)
		blocks[i] = blocks[len(blocks)-1]
		blocks = blocks[:len(blocks)-1]
	}
	for range 20000 {
		if len(blocks) > 0 && rng.IntN(2) == 0 {
			free(rng.IntN(len(blocks)))
			continue
		}
		size := 1 + rng.IntN(1<<(1+rng.IntN(18)))
		b, err := pool.Alloc(size)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Mem) < size || cap(b.Mem) != len(b.Mem) {
			t.Fatalf("asked for %d bytes, got %d, capacity %d", size, len(b.Mem), cap(b.Mem))
		}
		h := held{b, byte('a' + rng.IntN(26))}
		for i := range b.Mem {
			b.Mem[i] = h.fill
		}
		blocks = append(blocks, h)
	}
	var total int64
	for _, h := range blocks {
		total += int64(len(h.block.Mem))
	}
	if pool.Bytes() < total {
		t.Fatalf("pool holds %d bytes, %d are in use", pool.Bytes(), total)
	}
	for len(blocks) > 0 {
		free(0)
	}
	if pool.Bytes() != 0 {
		t.Fatalf("%d bytes held after everything was freed", pool.Bytes())
	}
}

func TestLargeBlockHasItsOwnMapping(t *testing.T) {
	var pool Pool
	b, err := pool.Alloc(slabBytes + 1)
	if err != nil {
		t.Fatal(err)
	}
	b.Mem[len(b.Mem)-1] = 1
	if pool.Bytes() != slabBytes+slabBytes/8 {
		t.Fatalf("%d bytes", pool.Bytes())
	}
	pool.Free(b)
	pool.Free(Block{})
	if pool.Bytes() != 0 {
		t.Fatalf("%d bytes", pool.Bytes())
	}
}

func TestTooMuchIsAnError(t *testing.T) {
	var pool Pool
	for _, size := range []int{maxBytes + 1, maxBytes} { // the second is refused by the system, if at all
		b, err := pool.Alloc(size)
		if err == nil {
			pool.Free(b)
		}
		if size > maxBytes && err == nil {
			t.Fatalf("%d bytes allocated", size)
		}
	}
	if pool.Bytes() != 0 {
		t.Fatalf("%d bytes after failures", pool.Bytes())
	}
}

func TestFreeingTwicePanics(t *testing.T) {
	var pool Pool
	b, err := pool.Alloc(100)
	if err != nil {
		t.Fatal(err)
	}
	pool.Free(b)
	defer func() {
		if recover() == nil {
			t.Fatal("no panic")
		}
	}()
	pool.Free(b)
}

// resident is the memory of this process that is in RAM.
func resident(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("needs /proc")
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

func TestFreedMemoryGoesBackToTheSystem(t *testing.T) {
	const total = 256 << 20
	for _, size := range []int{2 << 10, 4 << 10, 20 << 10, 64 << 10, 1 << 20} {
		var pool Pool
		blocks := make([]Block, 0, total/size)
		before := resident(t)
		for range total / size {
			b, err := pool.Alloc(size)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(b.Mem); i += 4096 {
				b.Mem[i] = 1
			}
			blocks = append(blocks, b)
		}
		full := resident(t)
		if full-before < total*9/10 {
			t.Fatalf("blocks of %d bytes: %d MiB resident for %d allocated", size, (full-before)>>20, total>>20)
		}
		// Keep one block in a thousand: single blocks must not keep their slab. Small ones do, by design.
		var kept []Block
		for i, b := range blocks {
			if i%1000 == 0 && size >= pageBytes {
				kept = append(kept, b)
				continue
			}
			pool.Free(b)
		}
		if after := resident(t); after-before > total/10 {
			t.Fatalf("blocks of %d bytes: %d MiB resident after freeing", size, (after-before)>>20)
		}
		for _, b := range kept {
			pool.Free(b)
		}
	}
}

func TestIdleMemoryIsBounded(t *testing.T) {
	const size = 20 << 10
	var pool Pool
	var blocks []Block
	for range 8192 { // 160 MiB
		b, err := pool.Alloc(size)
		if err != nil {
			t.Fatal(err)
		}
		b.Mem[0] = 1
		blocks = append(blocks, b)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
	kept := false
	for i, b := range blocks {
		pool.Free(b)
		idle, used := pool.Idle(), int64(len(blocks)-i-1)*size
		if idle > min(max(used/idleShare, minIdleBytes), maxIdleBytes) || pool.Bytes() != used+idle {
			t.Fatalf("%d bytes are idle, %d in use, %d in all", idle, used, pool.Bytes())
		}
		kept = kept || idle > 0
		if i%3 == 0 && i < len(blocks)/2 { // some are used again
			b, err := pool.Alloc(size)
			if err != nil {
				t.Fatal(err)
			}
			b.Mem[size-1] = 2
			pool.Free(b)
		}
	}
	if !kept || pool.Bytes() != 0 {
		t.Fatalf("some were kept: %v; %d bytes held after everything was freed", kept, pool.Bytes())
	}
}

// TestLargeBlocksWasteNothing: a slab has no part that is resident and too small for a block.
func TestLargeBlocksWasteNothing(t *testing.T) {
	for _, size := range []int{20 << 10, 704 << 10, 2304 << 10, 2560 << 10} {
		var pool Pool
		before := resident(t)
		var blocks []Block
		for range 128 << 20 / size {
			b, err := pool.Alloc(size)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(b.Mem); i += 4096 {
				b.Mem[i] = 1
			}
			blocks = append(blocks, b)
		}
		if have := int64(resident(t) - before); have > pool.Bytes()*21/20+2*slabBytes {
			t.Errorf("%d blocks of %d bytes: %d MiB are resident, %d MiB are accounted for", len(blocks), size, have>>20, pool.Bytes()>>20)
		}
		for _, b := range blocks {
			pool.Free(b)
		}
	}
}

func TestReservedBlockTakesMemoryAsItIsUsed(t *testing.T) {
	const blocks = 4096 // 256 MiB of addresses
	var pool Pool
	held := make([]Block, 0, blocks)
	before := resident(t)
	for range blocks {
		b, err := pool.Reserve()
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Mem) != ReserveBytes {
			t.Fatalf("reserved %d bytes", len(b.Mem))
		}
		held = append(held, b)
	}
	if got := pool.Bytes(); got != 0 {
		t.Fatalf("%d bytes held before anything was used", got)
	}
	for i := range held {
		held[i].Mem[0], held[i].Mem[5000-1] = 1, 1
		pool.Use(&held[i], 5000)
		pool.Use(&held[i], 100) // less than before: nothing changes
	}
	if got := pool.Bytes(); got != blocks*2*pageBytes {
		t.Fatalf("%d bytes held, should be %d", got, blocks*2*pageBytes)
	}
	if took := resident(t) - before; took > 2*blocks*2*pageBytes {
		t.Fatalf("%d MiB resident, %d MiB are in use", took>>20, blocks*2*pageBytes>>20)
	}
	for _, b := range held {
		pool.Free(b)
	}
	if got := pool.Bytes(); got != 0 {
		t.Fatalf("%d bytes held after everything was freed", got)
	}
}

func TestPoolIsSafeForConcurrentUse(t *testing.T) {
	var pool Pool
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 0))
			for range 2000 {
				b, err := pool.Alloc(1 + rng.IntN(100_000))
				if err != nil {
					t.Error(err)
					return
				}
				b.Mem[0] = byte(g)
				_ = pool.Bytes()
				pool.Free(b)
			}
		})
	}
	wg.Wait()
	if pool.Bytes() != 0 {
		t.Fatalf("%d bytes leaked", pool.Bytes())
	}
}
