package bitcask

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// churn puts random ones of n keys.
func churn(t *testing.T, s *Store, rng *rand.Rand, n, puts int) {
	t.Helper()
	for range puts {
		must(t, s.Put(fmt.Append(nil, "key", rng.IntN(n)), make([]byte, 1000)))
	}
}

// fillKeys puts n keys once.
func fillKeys(t *testing.T, s *Store, n int) {
	t.Helper()
	for i := range n {
		must(t, s.Put(fmt.Append(nil, "key", i), make([]byte, 1000)))
	}
}

// TestSmallStoreIsNotMostlyOneActiveSegment: what is dead in the active segment cannot be merged, so a store of which much is dead
// seals segments that are small against what is alive; while it only grows it fills them.
func TestSmallStoreIsNotMostlyOneActiveSegment(t *testing.T) {
	const segment, keys = 256 << 10, 400 // 400 KB alive
	for _, durability := range []Durability{Always, Never} {
		fs := vfs.NewMem()
		o := tinyOptions(fs)
		o.SegmentBytes, o.Durability = segment, durability
		later := time.Duration((time.Now().Hour()+6)%24) * time.Hour
		o.Merge.Disabled, o.Merge.Window = false, MergeWindow{From: later, To: later + time.Hour} // not now: what would go stays
		s := mustOpen(t, fs, o)
		fillKeys(t, s, keys)
		if st := s.Stats(); st.Segments != 2 {
			t.Fatalf("%s: %d segments hold %d bytes without garbage, should be 2", durability, st.Segments, st.DiskBytes)
		}
		churn(t, s, rand.New(rand.NewPCG(1, 1)), keys, 3*keys)
		small := 0
		for _, seg := range s.liveSegments() {
			size, live := seg.size.Load(), s.Stats().LiveBytes
			if seg.id > 3 && size > live/segmentsOfLive+4096 {
				t.Errorf("%s: segment %d has %d bytes, %d are alive in all", durability, seg.id, size, live)
			}
			if seg.id > 3 {
				small++
			}
		}
		if small < 15 {
			t.Errorf("%s: %d small segments", durability, small)
		}
		must(t, s.Close())
	}
}

// TestGarbageThatIsSpreadThinIsMergedToo: no segment passes a trigger of its own, but all of them together hold more dead bytes
// than the store may. That is brought down, and then there is an end.
func TestGarbageThatIsSpreadThinIsMergedToo(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.SegmentBytes = 64 << 10
	o.Merge.FragmentationTrigger, o.Merge.FragmentationThreshold = 100, 90
	o.Merge.DeadBytesTrigger, o.Merge.DeadBytesThreshold = 1<<40, 1<<40
	s := mustOpen(t, fs, o)
	rng := rand.New(rand.NewPCG(2, 2))
	fillKeys(t, s, 400)
	for {
		churn(t, s, rng, 400, 10)
		if st := s.Stats(); st.DeadBytes*10 > st.LiveBytes*7 {
			break
		}
	}
	must(t, s.maintainOnce())
	debt := s.debt(s.occupancy())
	if st := s.Stats(); debt >= 1 || st.Merges == 0 || st.Merges > 20 {
		t.Fatalf("after %d merges %d bytes are dead and %d alive", st.Merges, st.DeadBytes, st.LiveBytes)
	}
	if again := s.pickMerge(); again != nil {
		t.Fatalf("%d segments are merged again with debt %.2f", len(again), debt)
	}
	must(t, s.Close())

	o.Merge.SpaceTrigger = 1000
	s = mustOpen(t, fs, o)
	churn(t, s, rng, 400, 400)
	before := s.Stats().Merges
	must(t, s.maintainOnce())
	if st := s.Stats(); st.Merges != before {
		t.Fatalf("merges although the trigger is 1000 %%: %d of %d bytes are dead", st.DeadBytes, st.DiskBytes)
	}
	must(t, s.Close())
}

// TestMergeInHasteNeedsNoHints: when merges cannot keep up, no time is spent on hints of segments that are about to go.
func TestMergeInHasteNeedsNoHints(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.SegmentBytes = 64 << 10
	s := mustOpen(t, fs, o)
	fillKeys(t, s, 200)
	churn(t, s, rand.New(rand.NewPCG(3, 3)), 200, 600)
	hinted := func() (n int) {
		for _, seg := range s.liveSegments() {
			if seg.hinted.Load() {
				n++
			}
		}
		return n
	}
	more, err := s.maintainNext()
	must(t, err)
	if merges := s.Stats().Merges; !more || merges != 1 || hinted() != 1 {
		t.Fatalf("the first thing to do was no merge: %d merges, %d hints", merges, hinted())
	}
	must(t, s.maintainOnce())
	if n := hinted(); n != s.Stats().Segments-1 {
		t.Fatalf("%d of %d segments have a hint at the end", n, s.Stats().Segments)
	}
	for i := range 200 {
		if v, err := s.Get(fmt.Append(nil, "key", i)); err != nil || len(v) != 1000 {
			t.Fatalf("key%d: %d bytes, %v", i, len(v), err)
		}
	}
	must(t, s.Close())
}

// TestDiskUseStaysBoundedWhenWritersAreFasterThanMerges: writers wait, in steps of milliseconds, and go on as fast as before when
// merges have caught up. Deletes never wait.
func TestDiskUseStaysBoundedWhenWritersAreFasterThanMerges(t *testing.T) {
	for _, durability := range []Durability{Always, Never} {
		synctest.Test(t, func(t *testing.T) {
			fs := vfs.NewMem()
			o := tinyOptions(fs)
			o.SegmentBytes, o.Durability = 64<<10, durability
			o.Scrub.Disabled = true
			o.Merge = MergePolicy{BytesPerSecond: 20 << 10} // 640 KiB/s in the greatest haste
			s := mustOpen(t, fs, o)
			const keys = 400
			fillKeys(t, s, keys)
			highest, longest, began := 0.0, time.Duration(0), time.Now()
			var group sync.WaitGroup
			var mu sync.Mutex
			for w := range 4 {
				group.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(w), 5))
					for range 5 * keys {
						before := time.Now()
						if err := s.Put(fmt.Append(nil, "key", rng.IntN(keys)), make([]byte, 1000)); err != nil {
							t.Error(err)
							return
						}
						st := s.Stats()
						mu.Lock()
						highest = max(highest, float64(st.DiskBytes)/float64(st.LiveBytes))
						longest = max(longest, time.Since(before))
						mu.Unlock()
					}
				})
			}
			group.Wait()
			st := s.Stats()
			if highest > 3 || st.WriteStalls == 0 || time.Since(began) < time.Second {
				t.Errorf("%s: %.2f times what is alive was on disk; writers waited %s of %s", durability, highest, st.WriteStalls, time.Since(began))
			}
			if longest > 500*time.Millisecond {
				t.Errorf("%s: a put took %s", durability, longest)
			}
			before := time.Now()
			must(t, s.Delete([]byte("key1")))
			if d := time.Since(before); d > 0 {
				t.Errorf("%s: a delete waited %s", durability, d)
			}
			time.Sleep(time.Minute)
			stalls := s.Stats().WriteStalls
			churn(t, s, rand.New(rand.NewPCG(9, 9)), keys, 20)
			if again := s.Stats().WriteStalls; again != stalls {
				t.Errorf("%s: writers still wait when all is merged", durability)
			}
			must(t, s.Close())
		})
	}
}

// TestStallEndsAtClose: a writer that waits for merges does not hold the end up.
func TestStallEndsAtClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := vfs.NewMem()
		s := mustOpen(t, fs, tinyOptions(fs))
		s.space.stall.begin(time.Hour)
		began := time.Now()
		done := make(chan error)
		go func() { done <- s.Put([]byte("k"), []byte("v")) }()
		synctest.Wait()
		must(t, s.Close())
		if err := <-done; !errors.Is(err, ErrClosed) || time.Since(began) > 0 {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
	})
}

// TestNobodyWaitsForMergesThatDoNotRun: writers go on when merges are off, or not allowed at this time of day.
func TestNobodyWaitsForMergesThatDoNotRun(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	for _, policy := range []MergePolicy{
		{Disabled: true},
		{Window: MergeWindow{From: 2 * time.Hour, To: 3 * time.Hour}},
	} {
		fs := vfs.NewMem()
		o := tinyOptions(fs)
		o.SegmentBytes, o.Merge, o.Now = 64<<10, policy, func() time.Time { return now }
		s := mustOpen(t, fs, o)
		fillKeys(t, s, 100)
		churn(t, s, rand.New(rand.NewPCG(6, 6)), 100, 1000)
		if st := s.Stats(); st.WriteStalls > 0 || st.Merges > 0 || st.DeadBytes < 4*st.LiveBytes {
			t.Errorf("%+v: writers waited %s for %d merges, %d bytes are dead", policy, st.WriteStalls, st.Merges, st.DeadBytes)
		}
		must(t, s.Close())
	}
}

// TestLoadingSmallValuesIsNotHeldUp: what their frames take can be merged away, but nobody waits for that, and segments fill up.
func TestLoadingSmallValuesIsNotHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := tinyOptions(vfs.NewMem())
		o.SegmentBytes, o.Durability = 64<<10, Never
		o.Scrub.Disabled = true
		o.Merge = MergePolicy{BytesPerSecond: 1 << 10}
		s := mustOpen(t, o.FS, o)
		began := time.Now()
		for i := range 10_000 {
			must(t, s.Put(fmt.Append(nil, "key", i), make([]byte, 10)))
		}
		st := s.Stats()
		if st.WriteStalls > 0 || time.Since(began) > 0 || st.DeadBytes < st.LiveBytes {
			t.Errorf("writers waited %s; %d bytes are dead, %d alive", st.WriteStalls, st.DeadBytes, st.LiveBytes)
		}
		for _, seg := range s.liveSegments() {
			if size := seg.size.Load(); seg.kind == logSegment && seg.id != s.activeID() && size < o.SegmentBytes-1000 {
				t.Errorf("segment %d was sealed at %d bytes", seg.id, size)
			}
		}
		must(t, s.Close())
	})
}

// TestTrickleIntoASmallStoreDoesNotRewriteIt: all segments of a small store are small, which is no reason to merge them
// again and again.
func TestTrickleIntoASmallStoreDoesNotRewriteIt(t *testing.T) {
	const keys, puts = 100, 200
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.SegmentBytes = 256 << 10
	s := mustOpen(t, fs, o)
	rng := rand.New(rand.NewPCG(4, 4))
	fillKeys(t, s, keys)
	churn(t, s, rng, keys, 10*keys)
	must(t, s.maintainOnce())
	before := s.Stats()
	for range puts {
		churn(t, s, rng, keys, 1)
		must(t, s.maintainOnce())
	}
	after := s.Stats()
	if merged := after.MergedBytes - before.MergedBytes; merged > 3*puts*1000 {
		t.Errorf("%d merges wrote %d bytes for %d that were put", after.Merges-before.Merges, merged, puts*1000)
	}
	must(t, s.Close())
}

// TestFirstPutAfterOpeningWaitsForNobody: what was in the active segment before was not written by this process.
func TestFirstPutAfterOpeningWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := tinyOptions(vfs.NewMem())
		o.SegmentBytes = 256 << 10
		s := mustOpen(t, o.FS, o)
		fillKeys(t, s, 100)
		churn(t, s, rand.New(rand.NewPCG(7, 7)), 100, 1000)
		must(t, s.Close())
		o.Merge = MergePolicy{BytesPerSecond: 100}
		o.Scrub.Disabled = true
		s = mustOpen(t, o.FS, o)
		must(t, s.Put([]byte("key1"), []byte("v")))
		if waits := s.Stats().WriteStalls; waits > 0 || s.debt(s.occupancy()) < stallFrom {
			t.Errorf("after one put, with debt %.1f, writers wait %s", s.debt(s.occupancy()), waits)
		}
		churn(t, s, rand.New(rand.NewPCG(8, 8)), 100, 2)
		if waits := s.Stats().WriteStalls; waits == 0 || waits > 2*maxStall {
			t.Errorf("two puts wait %s", waits)
		}
		must(t, s.Close())
	})
}

// TestStallEndsWhenMergesHaveCaughtUp: writers do not sit out a time that was set when there was more to merge.
func TestStallEndsWhenMergesHaveCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := vfs.NewMem()
		s := mustOpen(t, fs, tinyOptions(fs))
		s.space.stall.begin(time.Hour)
		s.space.stall.begin(time.Minute) // shorter: the other one goes on
		began := time.Now()
		done := make(chan error)
		go func() { done <- s.Put([]byte("k"), []byte("v")) }()
		time.Sleep(10 * time.Minute)
		s.endStall()
		must(t, <-done)
		if took := time.Since(began); took != 10*time.Minute || s.Stats().WriteStalls != took {
			t.Errorf("a put waited %s, %s are counted", took, s.Stats().WriteStalls)
		}
		must(t, s.Close())
	})
}
