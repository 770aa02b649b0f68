package bitcask

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// TestVerifyFindsAnyFlippedByte of a closed store: in the manifest, every segment, every hint, the active one
// included, with the right file and an offset at or before the byte.
func TestVerifyFindsAnyFlippedByte(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 8))
	fs, _ := smallStore(t)
	o := tinyOptions(noWrites(t, fs))
	report, err := Verify(t.Context(), "db", o)
	if err != nil || len(report.Damage) > 0 || report.Segments < 3 || report.Hints < 2 || report.MissingHints > 0 {
		t.Fatalf("before: %+v, %v", report, err)
	}
	names, err := fs.List("db")
	must(t, err)
	for _, name := range names {
		if name == lockName || name == reserveName { // neither holds data
			continue
		}
		path := filepath.Join("db", name)
		size, err := fileSize(fs, path)
		must(t, err)
		for at := rng.Int64N(3); at < size; at += 1 + rng.Int64N(6) {
			flip(t, fs, path, at)
			report, err := Verify(t.Context(), "db", o)
			must(t, err)
			if len(report.Damage) != 1 {
				t.Fatalf("%s, byte %d: one byte is wrong, found was %v", path, at, report.Damage)
			}
			if d := report.Damage[0]; d.File != path || d.Offset > at || (d.Bytes > 0 && at >= d.Offset+d.Bytes) {
				t.Fatalf("%s, byte %d: %v", path, at, d)
			}
			flip(t, fs, path, at)
		}
	}
}

func TestVerifyNamesAMissingSegment(t *testing.T) {
	fs, _ := smallStore(t)
	m, err := readManifest(fs, "db")
	must(t, err)
	name := segmentName("db", m.Segments[0].ID)
	must(t, fs.Remove(name))
	report, err := Verify(t.Context(), "db", tinyOptions(fs))
	if err != nil || len(report.Damage) != 1 || report.Damage[0].File != name {
		t.Fatalf("%+v, %v", report, err)
	}
	if _, err := Verify(t.Context(), "elsewhere", tinyOptions(fs)); !errors.Is(err, ErrNoStore) {
		t.Fatal(err)
	}
}

// TestVerifyFindsAHintThatDoesNotFitItsSegment though each of its bytes is under a right CRC.
func TestVerifyFindsAHintThatDoesNotFitItsSegment(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	for i := range 20 {
		must(t, s.Put([]byte{byte(i)}, make([]byte, 200)))
	}
	must(t, s.buildHints(s.ctx))
	seg := sortedSegments(s.liveSegments())[0]
	w, err := newHintWriter(fs, "db", seg)
	must(t, err)
	must(t, w.addKey(hintKey{offset: 64, size: 20, version: 1, key: []byte("wrong")}))
	must(t, w.finish(seg.size.Load()))
	must(t, s.Close())
	report, err := Verify(t.Context(), "db", tinyOptions(fs))
	must(t, err)
	if len(report.Damage) != 1 || report.Damage[0].File != hintName("db", seg.id) {
		t.Fatalf("%v", report.Damage)
	}
}

// TestVerifyOfAnOpenStoreIsNotMisledByItsTail: preallocated space, uncommitted entries and a log that is cut are no damage.
func TestVerifyOfAnOpenStoreIsNotMisledByItsTail(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, replicatedOptions(fs))
	check := func(when string, frames uint64) {
		t.Helper()
		report, err := Verify(t.Context(), "db", tinyOptions(noWrites(t, fs)))
		if err != nil || len(report.Damage) > 0 || report.Frames != frames {
			t.Fatalf("%s: %+v, %v", when, report, err)
		}
	}
	check("empty", 0)
	for i := uint64(1); i <= 30; i++ {
		must(t, s.Append([]Entry{dataEntry(i, 1, 1, "key", strings.Repeat("v", 200))}))
		check("append", i)
	}
	must(t, s.Commit(12))
	must(t, s.TruncateAfter(14))
	check("truncate", 14)
	must(t, s.Append([]Entry{dataEntry(15, 2, 2, "key", "value")}))
	check("append again", 15)
	must(t, s.Close())
	check("closed", 15)
}

// TestVerifyFindsNoDamageWhereACheckpointKeepsAPart: the checkpoint ends inside a segment that was sealed, hinted and merged
// away since. Its hint is read nevertheless.
func TestVerifyFindsNoDamageWhereACheckpointKeepsAPart(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("a"), []byte("1")))
	must(t, saveCheckpoint(s, 1))
	must(t, s.Put([]byte("a"), []byte("2")))
	must(t, s.Put([]byte("b"), []byte("3")))
	kept := seal(t, s)
	must(t, s.Merge(t.Context()))
	check := func(damage ...string) {
		t.Helper()
		report, err := Verify(t.Context(), "db", tinyOptions(noWrites(t, fs)))
		must(t, err)
		if report.MissingHints > 0 || len(report.Damage) != len(damage) || (len(damage) > 0 && report.Damage[0].File != damage[0]) {
			t.Fatalf("verify found %+v, should find %v", report, damage)
		}
	}
	check()
	must(t, s.Close())
	check()
	hint := hintName("db", kept.id)
	size, err := fileSize(fs, hint)
	must(t, err)
	flip(t, fs, hint, size-1)
	check(hint)
	flip(t, fs, hint, size-1)
	must(t, fs.Remove(hint)) // nobody needs it
	check()
}

func TestDumpShowsEveryRecord(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("a"), []byte("1")))
	must(t, s.Delete([]byte("a")))
	var b Batch
	b.Clear()
	must(t, b.Put([]byte("b"), []byte("2"), 1<<50))
	must(t, s.Write(&b))
	var got []string
	err := Dump(t.Context(), "db", tinyOptions(noWrites(t, fs)), func(r *DumpRecord) error {
		got = append(got, strings.TrimSpace(r.Op+" "+string(r.Key)+" "+string(r.Value)))
		if r.Index == 0 || r.File != segmentName("db", 1) || (string(r.Key) == "b") != (r.ExpireAt == 1<<50) {
			t.Errorf("%+v", r)
		}
		return nil
	})
	if want := "put a 1,delete a,clear,put b 2"; err != nil || strings.Join(got, ",") != want {
		t.Fatalf("%v, %v", got, err)
	}
	must(t, s.Close())
}
