package bitcask

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// A full disk refuses direct writes too, keeps what it has, leaves the reserve to the
// merge, and takes writes again after it.
func TestUnsyncedStoreOnAFullDiskRecovers(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.Durability = Never
	s := mustOpen(t, fs, o)
	someSealed(t, s)
	fs.SetLimit(fs.Used() + 40_000)
	want := fillDisk(t, s, 200)
	if got := contents(t, s); !maps.Equal(got, want) {
		t.Fatalf("on the full disk the store holds %v, should hold %v", got, want)
	}
	s.lendReserve() // a merge has the reserve: it is not for writers
	for _, write := range []func() error{
		func() error { return s.Put([]byte("k1"), nil) },
		func() error { return s.Delete([]byte("k1")) },
	} {
		if err := write(); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("a write into the merge's reserve: %v", err)
		}
	}
	s.returnReserve()
	must(t, s.Merge(t.Context()))
	for n := range 7 {
		key := fmt.Sprint("k", n)
		must(t, s.Put([]byte(key), []byte("again")))
		want[key] = "again"
	}
	must(t, s.Close())
	s = mustOpen(t, fs, o)
	if got := contents(t, s); !maps.Equal(got, want) {
		t.Fatalf("opened again the store holds %v, should hold %v", got, want)
	}
	must(t, s.Close())
}

// TestPowerCutRightAfterASealBringsNothingBack: the first entry of the new segment is lost, so that only what was written at the
// seal says how far the log went. If it said too little, new values would count as older than the ones that they replace.
func TestPowerCutRightAfterASealBringsNothingBack(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.Durability = Never
	s := mustOpen(t, fs, o)
	rng, lost := rand.New(rand.NewPCG(uint64(seed(t)), 0)), 0
	for n := range 200 {
		active := s.activeID()
		must(t, s.Put(fmt.Append(nil, "k", n%7), fmt.Append(nil, "old ", n)))
		if s.activeID() == active {
			continue
		}
		o := tinyOptions(fs.CrashClone(rng))
		o.Durability = Never
		again := mustOpen(t, o.FS, o)
		if applied, _ := again.Applied(); applied < uint64(n) {
			t.Fatalf("%d entries were synced when a segment was sealed, %d are applied", n, applied)
		} else if applied == uint64(n) {
			lost++
		}
		for key := range contents(t, again) {
			must(t, again.Put([]byte(key), []byte("new")))
		}
		must(t, again.Close())
		again = mustOpen(t, o.FS, o)
		for key, value := range contents(t, again) {
			if value != "new" {
				t.Fatalf("%s is %q again", key, value)
			}
		}
		must(t, again.Close())
	}
	if lost == 0 {
		t.Fatal("no power cut took the entry behind a seal")
	}
	must(t, s.Close())
}

// TestCheckpointOfAnUnsyncedStoreNamesItsLastEntry: what is saved, or backed up, ends with the entry that was applied.
func TestCheckpointOfAnUnsyncedStoreNamesItsLastEntry(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.Durability = Never
	s := mustOpen(t, fs, o)
	for n := range uint64(100) {
		must(t, s.Put(fmt.Append(nil, "k", n%7), fmt.Append(nil, "value ", n)))
		c, err := s.Checkpoint()
		must(t, err)
		last := uint64(0)
		for _, m := range c.meta.Segments {
			if m.First != last+1 || m.Last < m.First {
				t.Fatalf("after %d entries a segment has %d to %d, behind %d", n+1, m.First, m.Last, last)
			}
			last = m.Last
		}
		if last != n+1 || c.Index() != last || s.LastIndex() != last {
			t.Fatalf("after %d entries the segments end with %d, the checkpoint with %d, the log with %d", n+1, last, c.Index(), s.LastIndex())
		}
		c.Release()
	}
	must(t, s.Close())
}
