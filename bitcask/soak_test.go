package bitcask

import (
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// soaking tells whether make crash runs: nothing is spared then.
func soaking() bool { return os.Getenv("RAFTCASK_CRASH_CLONES") != "" }

// TestCrashSoak runs RAFTCASK_CRASH_CLONES random crashes (make crash), a few by default:
// power is lost before random file operations of appends, rotations, merges of all
// and of some segments, checkpoints, adoptions, syncs, truncations and
// reopenings, in an embedded store of each durability, through file operations alone and through memory maps too, and in
// a replicated one, with segments of 400 bytes to 16 KiB. Every sector and every name that was not
// synced survives by lot. One crash in four is followed by another one, while the
// store recovers from the first.
func TestCrashSoak(t *testing.T) {
	want := 300
	if v := os.Getenv("RAFTCASK_CRASH_CLONES"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("RAFTCASK_CRASH_CLONES: %v", err)
		}
		want = n
	}
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	embedded, again, replicated, throughMaps := 0, 0, 0, 0
	during := map[string]int{}
	for runs := 0; embedded+again+replicated < want; runs++ {
		segmentBytes := []int64{400, 1024, 2048, 16 << 10}[rng.IntN(4)]
		choose := func(op vfs.Op) bool { return op.Kind != vfs.OpRead && rng.IntN(10) == 0 }
		if runs%3 == 2 {
			replicated += replicatedRun(t, rng, func(fs vfs.FS) *Options {
				o := replicatedOptions(fs)
				o.SegmentBytes = segmentBytes
				return o
			}, 60, choose)
			continue
		}
		mode := []Durability{Always, Never, Interval}[rng.IntN(3)]
		options := func(fs vfs.FS) *Options {
			o := tinyOptions(fs)
			// The background sync of Interval would make a seed useless: crashRun syncs itself.
			o.SegmentBytes, o.Durability, o.SyncInterval = segmentBytes, mode, 1<<62
			return o
		}
		mapped := rng.IntN(2) == 0
		crashRun(t, rng, mapped, options, 120, choose, func(fs *vfs.Mem, h history) {
			embedded++
			during[h.doing]++
			if mapped {
				throughMaps++
			}
			if rng.IntN(4) == 0 {
				again++
				fs = crashInRecovery(t, rng, fs, h)
			}
			verifyCrash(t, fs, h)
		})
	}
	t.Logf("%d crashes: %d of an embedded store (%d of them with mapped files), %d more while it recovered, %d of a replicated one; no acknowledged write lost, none resurrected, no wrong value",
		embedded+again+replicated, embedded, throughMaps, again, replicated)
	t.Logf("the embedded store was at: %v", during)
	for _, what := range []string{"opening", "a write", "a rotation", "a merge of all", "a merge of some", "a checkpoint", "an adoption", "a sync", "a reopening"} {
		if want >= 10_000 && during[what] == 0 {
			t.Errorf("no crash came in %s", what)
		}
	}
}

// crashInRecovery loses power before a random operation of the Open that follows a
// crash, or right after it. What the finished Open showed must be there again.
func crashInRecovery(t *testing.T, rng *rand.Rand, fs *vfs.Mem, h history) *vfs.Mem {
	t.Helper()
	var second *vfs.Mem
	ops := 0
	opening := true
	o := tinyOptions(vfs.NewFaulty(fs, func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpRead {
			return nil // hints are read by several goroutines; a read changes nothing
		}
		if ops++; opening && rng.IntN(ops) == 0 { // each operation with the same chance
			second = fs.CrashClone(rng)
		}
		return nil
	}))
	o.Durability, o.SyncInterval = h.durability, 1<<62
	s, err := Open("db", o)
	if err != nil {
		t.Fatalf("open after the crash: %v", err)
	}
	opening = false
	if rng.IntN(2) == 0 {
		second = fs.CrashClone(rng)
		shown := contents(t, s)
		after, err := Open("db", tinyOptions(second))
		if err != nil {
			t.Fatalf("open after two crashes: %v", err)
		}
		if got := contents(t, after); !maps.Equal(got, shown) {
			t.Fatalf("after a recovery that lost power once more the store holds\n%v\nthe recovery showed\n%v", got, shown)
		}
		must(t, after.Close())
	} else if got := contents(t, s); !h.allows(got) {
		t.Fatalf("after the crash the store holds\n%v\nacknowledged is\n%v", got, h.acked)
	}
	must(t, s.Close())
	return second
}
