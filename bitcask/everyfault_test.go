package bitcask

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// faultRun is one history over a disk that fails somewhere: what was acknowledged, and
// what may have happened beside it.
type faultRun struct {
	t     *testing.T
	what  string
	s     *Store
	acked map[string]string
	// unknown are the values whose write reported an error since the last acknowledged one.
	unknown  map[string]map[string]bool
	poisoned bool
	full     bool // the fault is ENOSPC
	// durability of the store, and whether its files are mapped: then gets are no operations that could fail.
	durability Durability
	mapped     bool
}

// faultModes are run one after the other, so that each operation fails in every one.
var faultModes = []struct {
	name       string
	durability Durability
	mapped     bool
}{{"synced", Always, false}, {"unsynced", Never, false}, {"unsynced, mapped", Never, true}}

func (r *faultRun) options(fs vfs.FS) *Options {
	o := tinyOptions(fs)
	o.Durability = r.durability
	return o
}

func (r *faultRun) put(key, value string) {
	err := r.s.Put([]byte(key), []byte(value))
	switch {
	case err == nil && r.poisoned:
		r.t.Fatalf("%s: a write was taken after a failed sync", r.what)
	case err == nil:
		r.acked[key] = value
		delete(r.unknown, key)
		return
	case errors.Is(err, ErrPoisoned):
		r.poisoned = true
	case r.full && !errors.Is(err, ErrNoSpace):
		r.t.Fatalf("%s: a write on a full disk gave %v", r.what, err)
	}
	if r.unknown[key] == nil {
		r.unknown[key] = map[string]bool{}
	}
	r.unknown[key][value] = true
}

// get: an acknowledged key is never said to be missing, whatever the disk does.
func (r *faultRun) get(key string) {
	value, err := r.s.Get([]byte(key))
	want, known := r.acked[key]
	switch {
	case errors.Is(err, ErrNotFound) && known:
		r.t.Fatalf("%s: %s is said to be missing, acknowledged was %.10q", r.what, key, want)
	case err == nil && string(value) != want && !r.unknown[key][string(value)]:
		r.t.Fatalf("%s: %s reads as %.10q, acknowledged was %.10q", r.what, key, value, want)
	case errors.Is(err, ErrCorrupt):
		r.t.Fatalf("%s: a fault is called damage: %v", r.what, err)
	}
}

// run works until the end, whatever fails: appends, rotations, merges, checkpoints,
// adoptions, and a reopening.
func (r *faultRun) run(fs vfs.FS) {
	for life := range 2 {
		s, err := Open("db", r.options(fs))
		if err != nil {
			if errors.Is(err, ErrCorrupt) {
				r.t.Fatalf("%s: open calls a fault damage: %v", r.what, err)
			}
			continue
		}
		r.s, r.poisoned = s, false
		for n := range 24 {
			r.put(fmt.Sprint("k", n%7), fmt.Sprintf("v%d-%d-%s", life, n, strings.Repeat("z", 100)))
			r.get(fmt.Sprint("k", n%7))
			switch n {
			case 7, 23:
				_ = s.Merge(context.Background())
			case 11:
				_ = saveCheckpoint(s, life*100+n)
			case 15:
				_ = adoptCopy(s, life*100+n)
			case 19:
				if err := s.Sync(); errors.Is(err, ErrPoisoned) {
					r.poisoned = true
				}
			}
		}
		for n := range 7 {
			r.get(fmt.Sprint("k", n))
		}
		_ = s.Close()
	}
}

// newFaultRun makes a run and its disk, which works.
func newFaultRun(t *testing.T, what string, mode int) (*faultRun, *vfs.Mem) {
	m := faultModes[mode]
	disk := vfs.NewMem()
	disk.SetMapping(m.mapped)
	return &faultRun{
		t: t, what: what + ", " + m.name, durability: m.durability, mapped: m.mapped,
		acked: map[string]string{}, unknown: map[string]map[string]bool{},
	}, disk
}

// cleanOps is how many operations the run takes on a disk that works.
func cleanOps(t *testing.T, mode int) int64 {
	r, disk := newFaultRun(t, "nothing failed", mode)
	fs := vfs.NewFaulty(disk, nil)
	r.run(fs)
	if len(r.unknown) > 0 {
		t.Fatalf("on a disk that works writes failed: %v", r.unknown)
	}
	return fs.Ops()
}

// sweepStep is 1 when every operation shall fail in turn, as in make crash. By default a sweep
// takes every tenth, from a random one on.
func sweepStep() int64 {
	if soaking() {
		return 1
	}
	return 10
}

// TestEveryOperationFailsOnceAndForEver fails each file operation of a run in turn (see sweepStep): once or from
// then on, with EIO or ENOSPC, without effect and after it took effect. What
// was acknowledged is there when the disk is well again, nothing reads wrong or as missing
// meanwhile, and after a failed sync no write is taken.
func TestEveryOperationFailsOnceAndForEver(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	type hook = func(int64, vfs.Fault) func(vfs.Op) *vfs.Fault
	for _, c := range []struct {
		name  string
		hook  hook
		fault vfs.Fault
	}{
		{"once", vfs.FailOnce, vfs.Fault{Err: syscall.EIO}},
		{"once, after persisting", vfs.FailOnce, vfs.Fault{Err: syscall.EIO, AfterPersisting: true}},
		{"once, half written", vfs.FailOnce, vfs.Fault{Err: syscall.EIO, PartialBytes: 77}},
		{"once, no space", vfs.FailOnce, vfs.Fault{Err: syscall.ENOSPC, PartialBytes: 77}},
		{"for ever", vfs.FailFrom, vfs.Fault{Err: syscall.EIO}},
		{"for ever, after persisting", vfs.FailFrom, vfs.Fault{Err: syscall.EIO, AfterPersisting: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			failed := 0
			for mode := range faultModes {
				step, last := sweepStep(), cleanOps(t, mode)
				for seq := 1 + rng.Int64N(step); seq <= last; seq += step {
					r, disk := newFaultRun(t, fmt.Sprintf("operation %d failed %s", seq, c.name), mode)
					fs := vfs.NewFaulty(disk, c.hook(seq, c.fault))
					r.run(fs)
					last = max(last, fs.Ops()) // clearing up after a fault takes some more
					failed++
					r.checkAfterwards(disk.KillClone())
				}
			}
			t.Logf("%d operations failed in turn", failed)
		})
	}
}

// checkAfterwards opens what is left, on a disk that works.
func (r *faultRun) checkAfterwards(disk *vfs.Mem) {
	s, err := Open("db", r.options(disk))
	if err != nil {
		r.t.Fatalf("%s, then open: %v", r.what, err)
	}
	got := contents(r.t, s)
	for key, value := range r.acked {
		if got[key] != value && !r.unknown[key][got[key]] {
			r.t.Fatalf("%s: %s is %.10q, acknowledged was %.10q", r.what, key, got[key], value)
		}
	}
	must(r.t, s.Close())
}

// TestEveryWriteMeetsAFullDisk: from each operation on, everything that takes room meets ENOSPC
// and all else works. Writes are refused with the one error, reads go on, and
// when there is room again writes go on without a reopening.
func TestEveryWriteMeetsAFullDisk(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	for mode := range faultModes {
		step, last := sweepStep(), cleanOps(t, mode)
		for seq := 1 + rng.Int64N(step); seq <= last; seq += step {
			fillUpFrom(t, seq, mode)
		}
	}
}

// fillUpFrom is one run on a disk that is full from operation seq on.
func fillUpFrom(t *testing.T, seq int64, mode int) {
	t.Helper()
	r, disk := newFaultRun(t, fmt.Sprintf("full from operation %d on", seq), mode)
	r.full = true
	full := true
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		takesRoom := op.Kind == vfs.OpCreate || op.Kind == vfs.OpWrite || op.Kind == vfs.OpPreallocate
		if full && op.Seq >= seq && takesRoom {
			return &vfs.Fault{Err: syscall.ENOSPC}
		}
		return nil
	})
	r.run(fs)
	if r.poisoned {
		t.Fatalf("%s: a full disk poisoned the store", r.what)
	}
	if len(r.unknown) > 0 {
		// A refused write was not applied: nothing of it may ever show.
		r.unknown = map[string]map[string]bool{}
	}
	s, err := Open("db", r.options(fs))
	if errors.Is(err, ErrNoSpace) && len(r.acked) == 0 {
		return // there is no store yet
	}
	if err != nil {
		t.Fatalf("%s: open: %v", r.what, err)
	}
	r.s = s
	for key := range r.acked {
		r.get(key)
	}
	full = false
	r.put("k0", "there is room")
	if r.acked["k0"] != "there is room" {
		t.Fatalf("%s: there is room, and the write was refused", r.what)
	}
	if got := contents(t, s); len(got) != len(r.acked) {
		t.Fatalf("%s: the store holds %v, should hold %v", r.what, got, r.acked)
	}
	must(t, s.Close())
}
