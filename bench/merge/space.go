package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftcask/raftcask/bitcask"
)

// spaceLoad overwrites random keys.
type spaceLoad struct {
	name       string
	durability bitcask.Durability
	writers    int
	perSecond  int // puts, 0: as fast as it goes
}

var spaceLoads = []spaceLoad{
	{"unsynced, 100000/s", bitcask.Never, 1, 100_000},
	{"unsynced, as fast as it goes", bitcask.Never, 1, 0},
	{"synced, 64 writers", bitcask.Always, 64, 0},
}

// spaces is what was seen while one load ran, after the second time that all keys were overwritten.
type spaces struct {
	load               spaceLoad
	mean, highest      float64 // bytes of segments and hints : bytes of live records
	reserveMiB         float64 // beside them, for a full disk
	putPerSecond       float64
	writeAmplification float64 // bytes written by puts and merges : by puts
	stalled            float64 // part of the time that writers were held up
}

func space(ctx context.Context, dir string, l spaceLoad, o options) (_ *spaces, err error) {
	s, err := bitcask.Open(dir, &bitcask.Options{Durability: l.durability, SegmentBytes: o.segment})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close(), os.RemoveAll(dir)) }()
	if err := overwrite(s, o.keys, 0, 1); err != nil {
		return nil, err
	}
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var group sync.WaitGroup
	total := int64(o.keys) * int64(o.turns)
	began := time.Now()
	for w := range l.writers {
		group.Go(func() {
			if err := l.write(ctx, s, o.keys, uint64(w), &done, total, began); err != nil {
				failed.Store(&err)
				done.Store(total)
			}
		})
	}
	f := &spaces{load: l}
	samples := 0.0
	for done.Load() < total {
		time.Sleep(20 * time.Millisecond)
		if done.Load() < 2*int64(o.keys) { // not steady yet
			continue
		}
		a := amplification(s, dir)
		samples++
		f.mean += (a - f.mean) / samples
		f.highest = max(f.highest, a)
	}
	group.Wait()
	took := time.Since(began)
	f.putPerSecond = float64(total) / took.Seconds()
	f.reserveMiB = float64(sizes(dir, "RESERVE")) / (1 << 20)
	st := s.Stats()
	f.stalled = st.WriteStalls.Seconds() / took.Seconds()
	put := float64(total) * float64(st.LiveBytes) / float64(st.Keys)
	f.writeAmplification = (put + float64(st.MergedBytes)) / put
	if e := failed.Load(); e != nil {
		return nil, *e
	}
	return f, ctx.Err()
}

func (l *spaceLoad) write(ctx context.Context, s *bitcask.Store, keys int, seed uint64, done *atomic.Int64, total int64, began time.Time) error {
	rng := rand.New(rand.NewPCG(seed, 4))
	key, value := make([]byte, 16), make([]byte, valueBytes)
	for {
		n := done.Add(1)
		if n > total {
			return nil
		}
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if l.perSecond > 0 && n%1024 == 0 {
			time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(l.perSecond))))
		}
		if err := s.Put(keyOf(key, rng.IntN(keys)), value); err != nil {
			return err
		}
	}
}

// amplification now: files that a merge still reads count too.
func amplification(s *bitcask.Store, dir string) float64 {
	return float64(sizes(dir, "*.seg")+sizes(dir, "*.hint")) / float64(max(1, s.Stats().LiveBytes))
}

// sizes sums up the files of a pattern. One that goes away meanwhile has no size.
func sizes(dir, pattern string) (sum int64) {
	names, _ := filepath.Glob(filepath.Join(dir, pattern)) // the patterns are good
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			sum += info.Size()
		}
	}
	return sum
}
