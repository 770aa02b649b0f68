package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

const crashes = 300 // an outcome of probability 1/8 is missing once in 10^17 runs

// outcomes runs a state through many power losses and returns the set of what was found.
func outcomes(t *testing.T, m *Mem, look func(*Mem) string) map[string]bool {
	t.Helper()
	rng := seeded(t)
	found := make(map[string]bool)
	for range crashes {
		found[look(m.CrashClone(rng))] = true
	}
	return found
}

func wantOutcomes(t *testing.T, got map[string]bool, want ...string) {
	t.Helper()
	for _, w := range want {
		if !got[w] {
			t.Errorf("never found %q", w)
		}
		delete(got, w)
	}
	for g := range got {
		t.Errorf("impossible: %q", g)
	}
}

// tree describes all files as name=contents.
func tree(m *Mem) string {
	var parts []string
	var walk func(dir string)
	walk = func(dir string) {
		names, _ := m.List(dir)
		for _, name := range names {
			path := strings.TrimPrefix(dir+"/"+name, "/")
			data, err := ReadFile(m, path)
			if err != nil {
				parts = append(parts, path+"/")
				walk(path)
				continue
			}
			parts = append(parts, path+"="+string(data))
		}
	}
	walk("")
	return strings.Join(parts, " ")
}

func memFileWith(t *testing.T, m *Mem, name, data string) File {
	t.Helper()
	f, err := m.Create(name)
	must(t, err)
	_, err = f.WriteAt([]byte(data), 0)
	must(t, err)
	return f
}

func TestSyncedFileWithSyncedNameSurvives(t *testing.T) {
	m := NewMem()
	must(t, WriteFileSync(m, "f", []byte("data")))
	must(t, m.SyncDir("."))
	wantOutcomes(t, outcomes(t, m, tree), "f=data")
}

func TestUnsyncedNameMayBeLost(t *testing.T) {
	m := NewMem()
	must(t, WriteFileSync(m, "f", []byte("data")))
	wantOutcomes(t, outcomes(t, m, tree), "", "f=data")
}

func TestUnsyncedDataAndSizeMayBeLost(t *testing.T) {
	m := NewMem()
	f := memFileWith(t, m, "f", "data")
	must(t, m.SyncDir("/"))
	wantOutcomes(t, outcomes(t, m, tree), "f=", "f=data", "f=\x00\x00\x00\x00")
	must(t, f.Sync())
	wantOutcomes(t, outcomes(t, m, tree), "f=data")
}

func TestSectorsSurviveIndependently(t *testing.T) {
	m := NewMem()
	f := memFileWith(t, m, "f", strings.Repeat("a", 3*sectorBytes))
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	_, err := f.WriteAt(bytes.Repeat([]byte("b"), 2*sectorBytes), sectorBytes/2) // touches sectors 0, 1 and 2
	must(t, err)
	look := func(c *Mem) string {
		data, err := ReadFile(c, "f")
		must(t, err)
		if len(data) != 3*sectorBytes {
			t.Fatalf("size %d", len(data))
		}
		var s []byte
		for i := range 6 {
			half := data[i*sectorBytes/2 : (i+1)*sectorBytes/2]
			if len(bytes.Trim(half, string(half[:1]))) != 0 {
				t.Fatalf("half sector %d is torn", i)
			}
			s = append(s, half[0])
		}
		return string(s)
	}
	wantOutcomes(t, outcomes(t, m, look),
		"aaaaaa", "abaaaa", "aabbaa", "aaaaba", "abbbaa", "abaaba", "aabbba", "abbbba")
}

func TestUnsyncedTruncateIsAllOrNothing(t *testing.T) {
	m := NewMem()
	f := memFileWith(t, m, "f", strings.Repeat("a", 4*sectorBytes))
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	must(t, f.Truncate(sectorBytes))
	wantOutcomes(t, outcomes(t, m, tree), "f="+strings.Repeat("a", sectorBytes), "f="+strings.Repeat("a", 4*sectorBytes))
}

func TestUnsyncedGrowthAfterTruncateMayShowOldBytes(t *testing.T) {
	m := NewMem()
	f := memFileWith(t, m, "f", "aaaa")
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	must(t, f.Truncate(0))
	_, err := f.WriteAt([]byte("b"), 1)
	must(t, err)
	wantOutcomes(t, outcomes(t, m, tree), "f=aaaa", "f=aa", "f=\x00b", "f=\x00b\x00\x00")
}

func TestSyncOfFileDoesNotSyncItsName(t *testing.T) {
	m := NewMem()
	must(t, WriteFileSync(m, "old", []byte("x")))
	must(t, m.SyncDir("/"))
	f, err := m.Open("old")
	must(t, err)
	must(t, m.Rename("old", "new"))
	must(t, f.Sync())
	wantOutcomes(t, outcomes(t, m, tree), "old=x", "new=x")
}

func TestRenameOverFileIsAtomic(t *testing.T) {
	m := NewMem()
	must(t, WriteFileSync(m, "cur", []byte("1")))
	must(t, WriteFileSync(m, "tmp", []byte("2")))
	must(t, m.SyncDir("/"))
	must(t, m.Rename("tmp", "cur"))
	wantOutcomes(t, outcomes(t, m, tree), "cur=1 tmp=2", "cur=2")
	must(t, m.SyncDir("/"))
	wantOutcomes(t, outcomes(t, m, tree), "cur=2")
}

func TestOperationsOnOneNameKeepTheirOrder(t *testing.T) {
	m := NewMem()
	must(t, WriteFileSync(m, "f", []byte("1")))
	must(t, m.Remove("f"))
	must(t, WriteFileSync(m, "f", []byte("2")))
	must(t, m.Rename("f", "g"))
	wantOutcomes(t, outcomes(t, m, tree), "", "f=1", "f=2", "g=2")

	m = NewMem()
	must(t, WriteFileSync(m, "f", []byte("1")))
	must(t, m.Rename("f", "g"))
	must(t, WriteFileSync(m, "f", []byte("2"))) // never without the rename before it
	wantOutcomes(t, outcomes(t, m, tree), "", "f=1", "g=1", "f=2 g=1")
}

func TestRenameAcrossDirectoriesNeverLosesTheFile(t *testing.T) {
	setup := func() *Mem {
		m := NewMem()
		must(t, m.MkdirAll("a"))
		must(t, m.MkdirAll("b"))
		must(t, WriteFileSync(m, "a/f", []byte("x")))
		for _, dir := range []string{"/", "a", "b"} {
			must(t, m.SyncDir(dir))
		}
		must(t, m.Rename("a/f", "b/f"))
		return m
	}
	m := setup()
	wantOutcomes(t, outcomes(t, m, tree), "a/ a/f=x b/", "a/ b/ b/f=x")
	must(t, m.SyncDir("b"))
	wantOutcomes(t, outcomes(t, m, tree), "a/ a/f=x b/ b/f=x", "a/ b/ b/f=x")
	m = setup()
	must(t, m.SyncDir("a"))
	wantOutcomes(t, outcomes(t, m, tree), "a/ b/ b/f=x")
	m = setup()
	must(t, m.SyncDir("a"))
	must(t, WriteFileSync(m, "a/g", []byte("y")))
	must(t, m.Remove("b/f")) // not synced, but before the rename that is: it cannot happen after it
	must(t, m.Rename("a/g", "b/f"))
	must(t, m.SyncDir("a"))
	wantOutcomes(t, outcomes(t, m, tree), "a/ b/ b/f=y")
}

func TestHardLinkIsOneFileAfterCrash(t *testing.T) {
	m := NewMem()
	f := memFileWith(t, m, "a", "1")
	must(t, m.Link("a", "b"))
	must(t, m.SyncDir("/"))
	must(t, f.Sync())
	_, err := f.WriteAt([]byte("2"), 0)
	must(t, err)
	wantOutcomes(t, outcomes(t, m, tree), "a=1 b=1", "a=2 b=2")
	c := m.CrashClone(seeded(t))
	g, err := c.Open("b")
	must(t, err)
	_, err = g.WriteAt([]byte("3"), 0)
	must(t, err)
	if got := tree(c); got != "a=3 b=3" {
		t.Fatal(got)
	}
}

func TestUnsyncedRemoveMayComeBack(t *testing.T) {
	m := NewMem()
	must(t, WriteFileSync(m, "f", []byte("x")))
	must(t, m.SyncDir("/"))
	must(t, m.Remove("f"))
	wantOutcomes(t, outcomes(t, m, tree), "", "f=x")
	must(t, m.SyncDir("/"))
	wantOutcomes(t, outcomes(t, m, tree), "")
}

func TestUnsyncedDirectoryTakesItsFilesWithIt(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("d"))
	must(t, WriteFileSync(m, "d/f", []byte("x")))
	must(t, m.SyncDir("d"))
	wantOutcomes(t, outcomes(t, m, tree), "", "d/ d/f=x")
}

func TestCrashCloneIsIndependentAndRepeatable(t *testing.T) {
	m := NewMem()
	f := memFileWith(t, m, "f", strings.Repeat("a", 20*sectorBytes))
	for i := range 20 {
		must(t, WriteFileSync(m, fmt.Sprint("g", i), []byte("x")))
	}
	before := tree(m)
	one := m.CrashClone(rand.New(rand.NewPCG(7, 7)))
	two := m.CrashClone(rand.New(rand.NewPCG(7, 7)))
	if tree(one) != tree(two) {
		t.Fatal("same seed, different clones")
	}
	first := tree(one)
	wantOutcomes(t, outcomes(t, one, tree), first) // a clone counts as synced
	must(t, one.MkdirAll("new"))
	_, err := f.WriteAt([]byte("zzz"), 0)
	must(t, err)
	_, err = f.WriteAt([]byte("aaa"), 0)
	must(t, err)
	if tree(m) != before || tree(two) != first {
		t.Fatal("clone and original share something")
	}
}

func TestKillCloneKeepsEverythingWrittenAndFreesLocks(t *testing.T) {
	m := NewMem()
	memFileWith(t, m, "f", "data")
	must(t, WriteFileSync(m, "g", []byte("1")))
	must(t, m.SyncDir("/"))
	must(t, m.Rename("g", "h"))
	_, err := m.Lock("LOCK", "me")
	must(t, err)
	k := m.KillClone()
	if got := tree(k); got != "LOCK=me\n f=data h=1" {
		t.Fatal(got)
	}
	if _, err := m.CrashClone(seeded(t)).Lock("LOCK", "other"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Lock("LOCK", "other"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Lock("LOCK", "other"); !errors.Is(err, ErrLocked) {
		t.Fatalf("the original lost its lock: %v", err)
	}
	// What was not synced is still not synced.
	got := outcomes(t, k, func(c *Mem) string {
		names, _ := c.List("/")
		return strings.Join(slices.DeleteFunc(names, func(n string) bool { return n == "LOCK" }), " ")
	})
	wantOutcomes(t, got, "f g", "f h")
}

func TestMemIsSafeForConcurrentUse(t *testing.T) {
	m := NewMem()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			for range 100 {
				name := fmt.Sprint("f", rng.IntN(4))
				f, err := m.Create(name)
				if errors.Is(err, fs.ErrExist) {
					f, err = m.Open(name)
				}
				if err != nil {
					continue // removed between the two
				}
				_, _ = f.WriteAt(make([]byte, 700), rng.Int64N(5000))
				_, _ = f.ReadAt(make([]byte, 700), rng.Int64N(5000))
				_ = f.Sync()
				_ = m.SyncDir("/")
				_ = m.Rename(name, fmt.Sprint("f", rng.IntN(4)))
				_ = f.Truncate(rng.Int64N(5000))
				_ = m.CrashClone(rng)
				_ = m.KillClone()
				_ = m.Remove(fmt.Sprint("f", rng.IntN(4)))
				_ = f.Close()
			}
		})
	}
	wg.Wait()
}
