package bitcask

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/raftcask/raftcask/bitcask/internal/keydir"
	"github.com/raftcask/raftcask/internal/vfs"
)

// checkAccounts counts again, from the keydir and the files, what each segment claims of itself.
func checkAccounts(t *testing.T, s *Store) {
	t.Helper()
	s.merging.Lock()
	defer s.merging.Unlock()
	s.appender.mu.Lock()
	defer s.appender.mu.Unlock()
	type account struct{ liveBytes, liveRecords, tombstoneBytes int64 }
	want, point := map[uint32]account{}, s.committer.point.Load()
	s.visible.keys.Range(func(_ []byte, it keydir.Item) bool {
		a := want[it.Segment]
		a.liveBytes += int64(it.Size)
		a.liveRecords++
		want[it.Segment] = a
		return true
	})
	for id, seg := range s.liveSegments() {
		a := want[id]
		must(t, scanSegment(seg, func(_ frame, _ uint32, p *pendingEntry) error {
			for i := range p.records {
				r := &p.records[i]
				if r.flags&flagDelete != 0 && r.version >= point.cleared && r.version <= point.index {
					a.tombstoneBytes += int64(r.size)
				}
			}
			return nil
		}))
		delete(want, id)
		got := account{seg.liveBytes.Load(), seg.liveRecords.Load(), seg.tombstoneBytes.Load()}
		if got != a {
			t.Errorf("%s counts %+v, there is %+v", seg.name, got, a)
		}
	}
	for id := range want {
		t.Errorf("keys point at segment %d, which is not live", id)
	}
}

// TestDeadBytesAreExact: what a merge is triggered by may not drift, whatever happened to the keys.
func TestDeadBytesAreExact(t *testing.T) {
	for _, durability := range []Durability{Always, Never} { // in groups; directly
		t.Run(fmt.Sprint("durability ", durability), func(t *testing.T) { deadBytesAreExact(t, durability) })
	}
}

func deadBytesAreExact(t *testing.T, durability Durability) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	o := &Options{Durability: durability, FS: vfs.NewMem(), SegmentBytes: 2048, Merge: MergePolicy{Disabled: true}, Scrub: ScrubPolicy{Disabled: true}}
	s, err := Open("db", o)
	must(t, err)
	for i := range 600 {
		key := []byte(fmt.Sprint("key", rng.IntN(40)))
		switch r := rng.IntN(100); {
		case r < 60:
			must(t, s.Put(key, make([]byte, rng.IntN(200))))
		case r < 70:
			must(t, s.PutWithTTL(key, make([]byte, rng.IntN(200)), time.Hour))
		case r < 90:
			must(t, s.Delete(key))
		case r < 97:
			must(t, s.Put(key, nil))
		case r < 98:
			must(t, s.Merge(context.Background()))
		default:
			must(t, s.Close())
			s, err = Open("db", o)
			must(t, err)
		}
		if i%20 == 0 {
			checkAccounts(t, s)
		}
	}
	must(t, s.Merge(context.Background()))
	checkAccounts(t, s)
	must(t, s.Close())
}

// TestMergedSegmentIsNotMergedAgain: a policy that asks for what no merge can give must not spin.
func TestMergedSegmentIsNotMergedAgain(t *testing.T) {
	o := &Options{FS: vfs.NewMem(), SegmentBytes: 4096, Scrub: ScrubPolicy{Disabled: true}, Merge: MergePolicy{Disabled: true, FragmentationTrigger: 1, FragmentationThreshold: 1, DeadBytesTrigger: 1, DeadBytesThreshold: 1}}
	s, err := Open("db", o)
	must(t, err)
	for i := range 400 {
		must(t, s.Put([]byte(fmt.Sprint("key", i%100)), make([]byte, 100)))
	}
	must(t, s.buildHints(s.ctx))
	merges := 0
	for inputs := s.pickMerge(); len(inputs) > 0; inputs = s.pickMerge() {
		if merges++; merges > 50 {
			t.Fatal("the same segments are merged again and again")
		}
		must(t, s.mergeSegments(context.Background(), inputs))
	}
	if merges == 0 {
		t.Fatal("nothing was merged")
	}
	t.Logf("%d merges", merges)
	must(t, s.Close())
}
