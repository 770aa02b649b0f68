package bitcask

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// TestCrashSoakOfABusyStore: writers, background merges, scrubs and saved checkpoints go on at the same time, and the process is
// killed or power is lost before random file operations of whoever. A store is found that opens, with what was acknowledged
// before and nothing that was not begun. The others crash a store that does one thing at a time.
func TestCrashSoakOfABusyStore(t *testing.T) {
	rounds := 6
	if soaking() {
		rounds = 200
	}
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 1))
	crashes := 0
	for round := range rounds {
		b := busyStore{durability: []Durability{Always, Never}[round%2], mapped: rng.IntN(2) == 0, segment: []int64{600, 2048, 8192}[rng.IntN(3)]}
		b.run(t, rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64())))
		for _, c := range b.crashes {
			c.verify(t, &b)
		}
		crashes += len(b.crashes)
	}
	t.Logf("%d crashes", crashes)
	if crashes < 2*rounds {
		t.Error("there were too few to tell")
	}
}

const (
	busyWriters = 3
	busyKeys    = 6 // of each writer, who alone writes them
)

// busyStore is a store under load, and its crashes.
type busyStore struct {
	durability Durability
	mapped     bool
	segment    int64
	// The number of the newest write of each key that was begun, and acknowledged. Every fifth is a delete.
	begun, acked [busyWriters * busyKeys]atomic.Uint64
	crashes      []*busyCrash
}

type busyCrash struct {
	fs          *vfs.Mem
	during      string
	killed      bool // not a power loss
	least, most [busyWriters * busyKeys]uint64
}

func (b *busyStore) options(fs vfs.FS) *Options {
	o := tinyOptions(fs)
	o.Durability, o.SegmentBytes = b.durability, b.segment
	o.Merge = MergePolicy{BytesPerSecond: 1 << 40, FragmentationTrigger: 20, FragmentationThreshold: 10}
	o.Scrub = ScrubPolicy{Interval: 20 * time.Millisecond, BytesPerSecond: 1 << 40}
	return o
}

func (b *busyStore) run(t *testing.T, rng *rand.Rand) {
	t.Helper()
	disk := vfs.NewMem()
	disk.SetMapping(b.mapped)
	seeds := [busyWriters]uint64{rng.Uint64(), rng.Uint64(), rng.Uint64()} // the faults have rng from now on
	var mu sync.Mutex
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpRead {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if len(b.crashes) < 50 && rng.IntN(100) == 0 {
			b.crashes = append(b.crashes, b.crash(disk, rng, fmt.Sprint(op.Kind, " ", op.Name)))
		}
		return nil
	})
	s := mustOpen(t, fs, b.options(fs))
	end := time.Now().Add(250 * time.Millisecond)
	var all sync.WaitGroup
	for w := range busyWriters {
		r := rand.New(rand.NewPCG(seeds[w], 0))
		all.Go(func() {
			for n := uint64(1); time.Now().Before(end); n++ {
				key := w*busyKeys + r.IntN(busyKeys)
				b.begun[key].Store(n)
				if err := b.write(s, key, n, r.IntN(150)); err != nil {
					t.Errorf("write %d: %v", n, err)
					return
				}
				b.acked[key].Store(n)
			}
		})
	}
	all.Go(func() {
		for n := 1; time.Now().Before(end); n++ {
			if err := saveCheckpoint(s, n); err != nil {
				t.Errorf("save a checkpoint: %v", err)
				return
			}
		}
	})
	all.Wait()
	must(t, s.Close())
}

func (b *busyStore) write(s *Store, key int, n uint64, bytes int) error {
	name := fmt.Append(nil, "k", key)
	if n%5 == 0 {
		return s.Delete(name)
	}
	return s.Put(name, append(binary.BigEndian.AppendUint64(nil, n), make([]byte, bytes)...))
}

func (b *busyStore) crash(disk *vfs.Mem, rng *rand.Rand, during string) *busyCrash {
	c := &busyCrash{during: during, killed: rng.IntN(2) == 0}
	for i := range c.least {
		c.least[i] = b.acked[i].Load() // before the clone is made
	}
	if c.killed {
		c.fs = disk.KillClone()
	} else {
		c.fs = disk.CrashClone(rng)
	}
	for i := range c.most {
		c.most[i] = b.begun[i].Load()
	}
	return c
}

func (c *busyCrash) verify(t *testing.T, b *busyStore) {
	t.Helper()
	if b.durability != Always && !c.killed {
		c.least = [len(c.least)]uint64{} // what was not synced may be gone
	}
	s, err := Open("db", b.options(c.fs))
	if err != nil {
		t.Errorf("%s, segments of %d bytes, mapped %v, killed %v, crashed at %s: %v", b.durability, b.segment, b.mapped, c.killed, c.during, err)
		return
	}
	for i := range c.least {
		value, err := s.Get(fmt.Append(nil, "k", i))
		if !c.allows(i, value, err) {
			t.Errorf("%s, killed %v, crashed at %s: k%d is %v, %v; write %d was acknowledged, %d begun", b.durability, c.killed, c.during, i, value, err, c.least[i], c.most[i])
		}
	}
	must(t, s.Close())
}

// allows tells whether a key may be found like this.
func (c *busyCrash) allows(key int, value []byte, err error) bool {
	if errors.Is(err, ErrNotFound) { // then a delete was the last, or there was no write
		for n := c.least[key]; n <= c.most[key]; n++ {
			if n%5 == 0 {
				return true
			}
		}
		return false
	}
	if err != nil {
		return false
	}
	n := binary.BigEndian.Uint64(value)
	return c.least[key] <= n && n <= c.most[key]
}

// TestManifestWrittenWhileASegmentBeginsPromisesNothingOfIt: a merge or a saved checkpoint wrote how far the segment before was
// synced as a promise for the new one, and a process killed then left a store that was called damaged.
func TestManifestWrittenWhileASegmentBeginsPromisesNothingOfIt(t *testing.T) {
	disk := vfs.NewMem()
	var s *Store
	var killed *vfs.Mem
	cutting := false
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if cutting && op.Kind == vfs.OpTruncate {
			cutting = false
			must(t, s.edit(func(*manifest) {})) // as a merge does that ends now
			killed = disk.KillClone()
		}
		return nil
	})
	s = mustOpen(t, nil, replicatedOptions(fs))
	fillReplicated(t, s, 5, 5)
	cutting = true
	must(t, s.TruncateAfter(7))
	must(t, s.Close())
	if killed == nil {
		t.Fatal("nothing was cut")
	}
	must(t, mustOpen(t, nil, replicatedOptions(killed)).Close())
}
