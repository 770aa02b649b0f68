package bitcask

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// salvaged runs Salvage and returns what the new store holds.
func salvaged(t *testing.T, fs *vfs.Mem) (map[string]string, SalvageReport) {
	t.Helper()
	report, err := Salvage(t.Context(), "db", "saved/new", tinyOptions(onlyBelow{fs, "saved"}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open("saved/new", tinyOptions(fs))
	must(t, err)
	got := contents(t, s)
	must(t, s.Close())
	if report.Keys != len(got) {
		t.Fatalf("the report counts %d keys, there are %d", report.Keys, len(got))
	}
	return got, report
}

// onlyBelow refuses to create anything outside a directory.
type onlyBelow struct {
	vfs.FS
	dir string
}

func (o onlyBelow) Create(name string) (vfs.File, error) {
	if !strings.HasPrefix(name, o.dir) {
		return nil, fmt.Errorf("%s must not be created", name)
	}
	return o.FS.Create(name)
}

func (o onlyBelow) Remove(name string) error {
	if !strings.HasPrefix(name, o.dir) {
		return fmt.Errorf("%s must not be removed", name)
	}
	return o.FS.Remove(name)
}

func TestSalvageOfASoundStoreCopiesAll(t *testing.T) {
	fs, want := smallStore(t)
	got, report := salvaged(t, fs)
	if !maps.Equal(got, want) || !report.Whole() {
		t.Fatalf("saved %v, should be %v; %+v", got, want, report)
	}
	if _, err := Salvage(t.Context(), "db", "saved/new", tinyOptions(fs)); !errors.Is(err, ErrNotEmpty) {
		t.Fatalf("into a directory with a store: %v", err)
	}
	if _, err := Salvage(t.Context(), "elsewhere", "saved/other", tinyOptions(fs)); !errors.Is(err, ErrNoStore) && !isNotExist(err) {
		t.Fatalf("of nothing: %v", err)
	}
}

// TestSalvageOfADamagedMiddle: the store does not open or does not read, and all but one value is saved. The lost
// key is named, with the older value that took its place; a delete whose record is damaged stays a delete.
func TestSalvageOfADamagedMiddle(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	want := map[string]string{}
	put := func(key string, n int) {
		value := fmt.Sprintf("%s-%d-%s", key, n, strings.Repeat("x", 100))
		must(t, s.Put([]byte(key), []byte(value)))
		want[key] = value
	}
	for i := range 40 {
		put(fmt.Sprint("k", i), 1)
	}
	put("victim", 1)
	older := want["victim"]
	put("deleted", 1)
	for i := range 40 {
		put(fmt.Sprint("k", i), 2)
	}
	victim := s.appender.active
	victimAt := victim.size.Load()
	put("victim", 2)
	tombstone := s.appender.active
	tombstoneAt := tombstone.size.Load()
	must(t, s.Delete([]byte("deleted")))
	delete(want, "deleted")
	lostToo := s.appender.active.size.Load()
	put("only", 1)
	for i := range 40 {
		put(fmt.Sprint("k", i), 3)
	}
	must(t, s.buildHints(s.ctx))
	must(t, s.Close())
	if victim != tombstone || victim.id == s.disk.manifest.Active {
		t.Fatal("the test needs all of it in one sealed segment")
	}
	for _, at := range []int64{victimAt, tombstoneAt, lostToo} {
		flip(t, fs, victim.name, at+frameHeaderBytes+batchHeaderBytes+14)
	}
	got, report := salvaged(t, fs)
	want["victim"] = older
	delete(want, "only")
	if !maps.Equal(got, want) {
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s is %.20q, should be %.20q", k, got[k], v)
			}
		}
		t.Fatalf("%d keys were saved, should be %d", len(got), len(want))
	}
	var damage []int64
	for _, d := range report.Damage {
		if d.File != victim.name {
			t.Errorf("damage in %s", d.File)
		}
		damage = append(damage, d.Offset)
	}
	if !slices.Equal(damage, []int64{victimAt, tombstoneAt, lostToo}) {
		t.Errorf("damage at %v, was made at %v", damage, []int64{victimAt, tombstoneAt, lostToo})
	}
	if len(report.Lost) != 2 || string(report.Lost[0].Key) != "victim" || report.Lost[0].Older == 0 || string(report.Lost[1].Key) != "only" || report.Lost[1].Older != 0 {
		t.Errorf("lost are %+v", report.Lost)
	}
}

// TestSalvageAfterAnyFlippedByte saves every key whose record was not hit, never a wrong value, and says so when something is lost.
func TestSalvageAfterAnyFlippedByte(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 3))
	original, want := smallStore(t)
	versions := everyValue(t, original)
	names, err := original.List("db")
	must(t, err)
	for _, name := range names {
		if name == lockName {
			continue
		}
		path := joinPath("db", name)
		size, err := fileSize(original, path)
		must(t, err)
		for at := rng.Int64N(30); at < size; at += 1 + rng.Int64N(60) {
			fs := original.KillClone()
			flip(t, fs, path, at)
			got, report := salvaged(t, fs)
			for key, value := range got {
				if !versions[key+"="+value] {
					t.Fatalf("%s, byte %d: %s has a value it never had", path, at, key)
				}
			}
			if !maps.Equal(got, want) && report.Whole() {
				t.Fatalf("%s, byte %d: %d keys are saved, %d were there, and nothing is said", path, at, len(got), len(want))
			}
			missing := 0
			for key := range want {
				if _, ok := got[key]; !ok {
					missing++
				}
			}
			if missing > 3 { // a batch has at most three records
				t.Fatalf("%s, byte %d: %d keys are lost with one byte", path, at, missing)
			}
		}
	}
}

// everyValue that the segments hold, live or dead.
func everyValue(t *testing.T, fs vfs.FS) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	must(t, Dump(t.Context(), "db", tinyOptions(fs), func(r *DumpRecord) error {
		all[string(r.Key)+"="+string(r.Value)] = true
		return nil
	}))
	return all
}

// TestSalvageWithoutFiles: the manifest, a segment, or the end of one is gone.
func TestSalvageWithoutFiles(t *testing.T) {
	original := vfs.NewMem()
	s := mustOpen(t, original, tinyOptions(original))
	want := map[string]string{}
	for i := range 60 {
		key, value := fmt.Sprint("k", i), strings.Repeat("v", 100)
		must(t, s.Put([]byte(key), []byte(value)))
		want[key] = value
	}
	must(t, s.buildHints(s.ctx))
	must(t, s.Close())

	fs := original.KillClone()
	must(t, fs.Remove(joinPath("db", manifestName)))
	got, report := salvaged(t, fs)
	if !maps.Equal(got, want) || len(report.Warnings) == 0 {
		t.Fatalf("without a manifest %d keys were saved, %+v", len(got), report)
	}

	fs = original.KillClone()
	must(t, fs.Remove(segmentName("db", 2)))
	got, report = salvaged(t, fs)
	if len(got)+len(report.Lost) != len(want) || len(report.Lost) == 0 || len(report.Damage) != 1 {
		t.Fatalf("without a segment %d keys were saved, %d are said to be lost, of %d", len(got), len(report.Lost), len(want))
	}

	fs = original.KillClone()
	f, err := fs.Open(segmentName("db", 2))
	must(t, err)
	must(t, f.Truncate(1000))
	must(t, f.Close())
	got, report = salvaged(t, fs)
	if len(got)+len(report.Lost) != len(want) || len(report.Lost) == 0 {
		t.Fatalf("of a segment cut off %d keys were saved, %d are said to be lost, of %d", len(got), len(report.Lost), len(want))
	}
}

// TestSalvageTakesAlongWhatMayHaveBeenAcknowledged, and says so, but not what is of another term. A delete or a clear that may never
// have been committed takes nothing away.
func TestSalvageTakesAlongWhatMayHaveBeenAcknowledged(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, replicatedOptions(fs))
	var wipe Batch
	wipe.Reset(2, 0)
	wipe.Clear()
	must(t, s.Append([]Entry{dataEntry(1, 1, 1, "a", "good"), dataEntry(2, 1, 1, "d", "kept"), dataEntry(3, 1, 1, "a", "not yet"), dataEntry(4, 2, 1, "b", "void"),
		dataEntry(5, 2, 2, "d", ""), {Index: 6, Term: 2, Data: wipe.Detach()}}))
	must(t, s.Commit(2))
	must(t, s.Close())
	got, report := salvaged(t, fs)
	if !maps.Equal(got, map[string]string{"a": "not yet", "d": "kept"}) || len(report.Damage)+len(report.Lost) > 0 ||
		len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], "entries after 2 are not known to be committed, 4 of them") {
		t.Fatalf("%v, %+v", got, report)
	}
}

// TestSalvageRebuildsALostHeader from what the manifest knows of it.
func TestSalvageRebuildsALostHeader(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("a"), []byte("b")))
	must(t, s.Close())
	f, err := fs.Open(segmentName("db", 1))
	must(t, err)
	_, err = f.WriteAt(make([]byte, 32), 0)
	must(t, err)
	_, err = f.WriteAt(make([]byte, 4), 60)
	must(t, err)
	must(t, f.Close())
	if got, report := salvaged(t, fs); got["a"] != "b" || report.Whole() {
		t.Fatalf("%v, %+v", got, report)
	}
}

// TestSalvageWithoutAManifestLeavesOutWhatWasTruncated: the file still holds the dropped entries.
func TestSalvageWithoutAManifestLeavesOutWhatWasTruncated(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, replicatedOptions(fs))
	must(t, s.Append([]Entry{dataEntry(1, 1, 1, "a", "good"), dataEntry(2, 1, 1, "b", "dropped"), dataEntry(3, 1, 1, "c", "dropped")}))
	must(t, s.Commit(1))
	must(t, s.TruncateAfter(1))
	must(t, s.Append([]Entry{dataEntry(2, 2, 2, "d", "good"), dataEntry(3, 2, 2, "e", "good")}))
	must(t, s.Commit(3))
	must(t, s.Append([]Entry{dataEntry(4, 2, 2, "f", "says that 3 is committed")}))
	must(t, s.Close())
	must(t, fs.Remove(joinPath("db", manifestName)))
	want := map[string]string{"a": "good", "d": "good", "e": "good", "f": "says that 3 is committed"}
	if got, report := salvaged(t, fs); !maps.Equal(got, want) {
		t.Fatalf("%v, %+v", got, report)
	}
}

// TestSalvageKeepsExpiry and large values.
func TestSalvageKeepsExpiry(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	var b Batch
	must(t, b.Put([]byte("a"), bytes.Repeat([]byte("v"), 3*mib), 1<<50))
	must(t, s.Write(&b))
	must(t, s.Close())
	salvaged(t, fs)
	s, err := Open("saved/new", tinyOptions(fs))
	must(t, err)
	if it, ok := s.Lookup([]byte("a")); !ok || it.ExpireAt != 1<<50 || it.ValueLen != 3*mib {
		t.Fatalf("%+v", it)
	}
	must(t, s.Close())
}
