package vfs

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
)

// mappedFile is a synced file of three sectors "o", and a map of it, longer than the file.
func mappedFile(t *testing.T) (m *Mem, f File, mem []byte) {
	t.Helper()
	if runtime.GOOS != "linux" || strconv.IntSize < 64 {
		t.Skip("files are mapped on 64-bit Linux only")
	}
	m = NewMem()
	m.SetMapping(true)
	f, err := m.Create("f")
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("o"), 3*sectorBytes), 0)
	must(t, err)
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	mapper, ok := f.(Mapper)
	if !ok {
		t.Fatal("a file of Mem is no Mapper")
	}
	mem, err = mapper.Map(1<<20, true)
	must(t, err)
	return m, f, mem
}

func contentOf(t *testing.T, m *Mem) string {
	t.Helper()
	data, err := ReadFile(m, "f")
	must(t, err)
	return string(data)
}

// TestMapAndFileAreOne: each sees at once what was written through the other, another handle's map too, and the map keeps
// up with the file's size.
func TestMapAndFileAreOne(t *testing.T) {
	m, f, mem := mappedFile(t)
	copy(mem[10:], "map")
	if got := contentOf(t, m); got[10:13] != "map" || len(got) != 3*sectorBytes {
		t.Fatalf("the file reads %q, %d bytes", got[10:13], len(got))
	}
	_, err := f.WriteAt([]byte("file"), 20)
	must(t, err)
	if string(mem[20:24]) != "file" {
		t.Fatalf("the map reads %q", mem[20:24])
	}
	must(t, f.Preallocate(40*pageBytes)) // larger than the first window
	mem[39*pageBytes] = 'x'
	other, err := m.OpenRead("f")
	must(t, err)
	reader, ok := other.(Mapper)
	if !ok {
		t.Fatal("a file of Mem is no Mapper")
	}
	if _, err := reader.Map(pageBytes, true); err == nil {
		t.Fatal("a file that is open for reading only was mapped to be written")
	}
	second, err := reader.Map(40*pageBytes, false)
	must(t, err)
	if string(second[10:13]) != "map" || string(second[20:24]) != "file" || second[39*pageBytes] != 'x' {
		t.Fatal("a second map shows other bytes")
	}
	must(t, Unmap(second))
	must(t, other.Close())
	must(t, f.Truncate(pageBytes))
	if !faults(func() { mem[5*pageBytes] = 1 }) {
		t.Fatal("a page beyond the end of the file could be touched")
	}
	must(t, f.Truncate(2*pageBytes))
	if mem[pageBytes] != 0 || mem[11] != 'a' {
		t.Fatal("bytes that were cut off came back, or others went")
	}
	must(t, Protect(mem))
	must(t, Unmap(mem))
	must(t, f.Close())
	if got := contentOf(t, m); got[10:13] != "map" || got[20:24] != "file" || len(got) != 2*pageBytes {
		t.Fatalf("after the map ended the file reads %q %q, %d bytes", got[10:13], got[20:24], len(got))
	}
}

func faults(touch func()) (faulted bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { faulted = recover() != nil }()
	touch()
	return false
}

// TestMappedWritesAreUnsyncedPages: a kill keeps them, a power loss takes each sector by lot, a sync makes them stay.
func TestMappedWritesAreUnsyncedPages(t *testing.T) {
	m, f, mem := mappedFile(t)
	defer func() { must(t, f.Close()) }()
	defer func() { must(t, Unmap(mem)) }()
	copy(mem, bytes.Repeat([]byte("n"), 2*sectorBytes))
	if got := contentOf(t, m.KillClone()); got != contentOf(t, m) {
		t.Fatalf("a kill changed the file: %q", got)
	}
	rng := rand.New(rand.NewPCG(1, 0))
	seen := map[string]bool{}
	for range 200 {
		for _, from := range []*Mem{m, m.KillClone()} {
			got := contentOf(t, from.CrashClone(rng))
			seen[got[:1]+got[sectorBytes:sectorBytes+1]+got[2*sectorBytes:2*sectorBytes+1]] = true
		}
	}
	if want := 4; len(seen) != want || !seen["ono"] || !seen["noo"] || !seen["nno"] || !seen["ooo"] {
		t.Fatalf("power losses left %v", seen)
	}
	must(t, f.Sync())
	mem[0] = 'x' // its sector alone is at stake now
	if got := contentOf(t, m.CrashClone(rng)); got[1:] != contentOf(t, m)[1:] {
		t.Fatal("a power loss took what was synced")
	}
	if !m.KillClone().mapping || !m.CrashClone(rng).mapping {
		t.Fatal("files of a clone cannot be mapped")
	}
}

// TestNoMapUnlessAskedFor: tests that count or fail reads must see them.
func TestNoMapUnlessAskedFor(t *testing.T) {
	f, err := NewFaulty(NewMem(), nil).Create("f")
	must(t, err)
	mapper, ok := f.(Mapper)
	if !ok {
		t.Skip("no file is mapped here")
	}
	if _, err := mapper.Map(pageBytes, true); !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("Map gave %v", err)
	}
}
