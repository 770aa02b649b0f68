package bitcask

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// restored restores the backup in "backup" and returns what it holds, written to and closed once.
func restored(t *testing.T, fs vfs.FS) map[string]string {
	t.Helper()
	must(t, vfs.RemoveAll(fs, "restored"))
	if _, err := Restore(t.Context(), "backup", "restored", tinyOptions(fs)); err != nil {
		t.Fatal(err)
	}
	if report, err := Verify(t.Context(), "restored", tinyOptions(fs)); err != nil || len(report.Damage)+report.MissingHints > 0 {
		t.Fatalf("the restored store: %+v, %v", report, err)
	}
	s, err := Open("restored", tinyOptions(fs))
	must(t, err)
	got := contents(t, s)
	must(t, s.Put([]byte("after"), []byte("restore")))
	must(t, s.Merge(t.Context()))
	must(t, s.Close())
	s, err = Open("restored", tinyOptions(fs))
	must(t, err)
	again := contents(t, s)
	must(t, s.Close())
	delete(again, "after")
	if !maps.Equal(got, again) {
		t.Fatalf("the restored store lost something: %v, was %v", again, got)
	}
	return got
}

// countWrites into files below a directory.
func countWrites(fs vfs.FS, dir string, bytes *int64) vfs.FS {
	return vfs.NewFaulty(fs, func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpWrite && strings.HasPrefix(op.Name, dir) {
			*bytes += int64(op.Len)
		}
		return nil
	})
}

// TestIncrementalBackupCopiesOnlyNewSegments counts the bytes that are written.
func TestIncrementalBackupCopiesOnlyNewSegments(t *testing.T) {
	mem := vfs.NewMem()
	var written int64
	fs := countWrites(mem, "backup", &written)
	s := mustOpen(t, fs, tinyOptions(fs))
	want := map[string]string{}
	put := func(key string) {
		value := strings.Repeat(key, 20)
		must(t, s.Put([]byte(key), []byte(value)))
		want[key] = value
	}
	for i := range 300 {
		put(fmt.Sprint("k", i))
	}
	full, err := s.Backup(t.Context(), "backup")
	must(t, err)
	if full.CopiedBytes != full.Bytes || full.CopiedSegments != full.Segments || full.Segments < 10 || written < full.Bytes || full.Index != 300 {
		t.Fatalf("full: %+v, %d bytes written", full, written)
	}
	written = 0
	same, err := s.Backup(t.Context(), "backup")
	must(t, err)
	if same.CopiedSegments != 0 || same.CopiedBytes != 0 || same.Bytes != full.Bytes || written > 8<<10 { // the manifest
		t.Fatalf("nothing changed: %+v, %d bytes written", same, written)
	}
	put("new")
	put("new too")
	written = 0
	more, err := s.Backup(t.Context(), "backup")
	must(t, err)
	if more.CopiedSegments == 0 || more.CopiedSegments > 2 || more.CopiedBytes > 2*2048 || written > 8<<10+more.CopiedBytes {
		t.Fatalf("two keys more: %+v, %d bytes written", more, written)
	}
	if got := restored(t, fs); !maps.Equal(got, want) {
		t.Fatalf("%d keys were restored of %d", len(got), len(want))
	}
	// What no backup names any more is gone from its directory.
	names, err := fs.List("backup")
	must(t, err)
	if len(names) != more.Segments+3 { // LOCK, MANIFEST, the empty active segment
		t.Fatalf("%d segments, but the directory holds %v", more.Segments, names)
	}
	must(t, s.Close())
}

// TestIncrementalBackupReplacesADamagedCopy: a copy counts as there only if all its frames read.
func TestIncrementalBackupReplacesADamagedCopy(t *testing.T) {
	fs, want := smallStore(t)
	s := mustOpen(t, fs, tinyOptions(fs))
	_, err := s.Backup(t.Context(), "backup")
	must(t, err)
	flip(t, fs, segmentName("backup", 2), 200)
	if _, err := Restore(t.Context(), "backup", "restored", tinyOptions(fs)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), segmentName("backup", 2)) {
		t.Fatalf("restore of a damaged backup: %v", err)
	}
	if _, err := Open("restored", tinyOptions(fs)); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("the half-restored store opens: %v", err)
	}
	report, err := s.Backup(t.Context(), "backup")
	must(t, err)
	if report.CopiedSegments != 1 {
		t.Fatalf("%+v", report)
	}
	if got := restored(t, fs); !maps.Equal(got, want) {
		t.Fatalf("%v", got)
	}
	must(t, s.Close())
}

// TestBackupDuringWritesAndMergesIsAPointInTime: a writer counts in two keys of one batch, and the second keeps up
// with a third key in the next. Every backup has the two equal, and the third at most one behind.
func TestBackupDuringWritesAndMergesIsAPointInTime(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop) })
	var writers sync.WaitGroup
	defer writers.Wait()
	defer end()
	started := make(chan struct{})
	writers.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			var b Batch
			value := fmt.Appendf(nil, "%08d", n)
			err := errors.Join(b.Put([]byte("a"), value, 0), b.Put([]byte("b"), value, 0), b.Put(fmt.Append(nil, "fill", n%50), bytes.Repeat(value, 9), 0))
			if err = errors.Join(err, s.Write(&b), s.Put([]byte("c"), value)); err != nil {
				t.Error(err)
				return
			}
			if n == 1 {
				close(started)
			}
		}
	})
	writers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.Merge(t.Context()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	<-started
	last := ""
	for n := range 25 {
		source := s
		if n%2 == 1 { // as the command line does it
			var err error
			source, err = OpenReadOnly("db", tinyOptions(fs))
			must(t, err)
		}
		_, err := source.Backup(t.Context(), "backup")
		must(t, err)
		if source != s {
			must(t, source.Close())
		}
		got := restored(t, fs)
		if got["a"] != got["b"] || got["c"] > got["a"] || got["a"] < last {
			t.Fatalf("backup %d: a %s, b %s, c %s; the one before had a %s", n, got["a"], got["b"], got["c"], last)
		}
		last = got["a"]
	}
	end()
	writers.Wait()
	must(t, s.Close())
}

// TestCrashDuringBackupLeavesTheOldOne: power is lost before every file operation of an incremental backup (and of a
// first one). What is there restores to the old or the new state, whole; before the first is complete, to nothing.
func TestCrashDuringBackupLeavesTheOldOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 4))
	mem := vfs.NewMem()
	s := mustOpen(t, mem, tinyOptions(mem))
	h := &history{acked: map[string]string{}}
	for n := range 40 {
		must(t, h.do(s, randomChange(rng, n)...))
	}
	var old, updated map[string]string // nil: no backup yet
	crashes, wentOn := 0, 0
	watching := false
	fs := vfs.NewFaulty(mem, func(op vfs.Op) *vfs.Fault {
		if !watching || op.Kind == vfs.OpRead || op.Kind == vfs.OpSize {
			return nil
		}
		watching = false
		defer func() { watching = true }()
		crashes++
		clone := mem.CrashClone(rng)
		_, err := Restore(t.Context(), "backup", "restored", tinyOptions(clone))
		if old == nil && (errors.Is(err, ErrNoBackup) || isNotExist(err)) {
			err = nil
		} else if err == nil {
			got := restored(t, clone)
			if !maps.Equal(got, old) && !maps.Equal(got, updated) {
				t.Errorf("before %s of %s: restored\n%v\nshould be\n%v\nor\n%v", op.Kind, op.Name, got, old, updated)
			}
		}
		if err != nil {
			t.Errorf("before %s of %s: %v", op.Kind, op.Name, err)
		}
		// The next backup, made after the crash, is whole whatever was left.
		if old != nil && rng.IntN(3) > 0 {
			return nil
		}
		wentOn++
		for what, clone := range map[string]*vfs.Mem{"a power loss": mem.CrashClone(rng), "a kill": mem.KillClone()} {
			source, err := Open("db", tinyOptions(clone))
			must(t, err)
			if _, err = source.Backup(t.Context(), "backup"); err != nil {
				t.Errorf("backup after %s before %s of %s: %v", what, op.Kind, op.Name, err)
			} else if got := restored(t, clone.CrashClone(rng)); !maps.Equal(got, updated) {
				t.Errorf("backup after %s before %s of %s: %v", what, op.Kind, op.Name, got)
			}
			must(t, source.Close())
		}
		return nil
	})
	for round := range 3 {
		updated = maps.Clone(h.acked)
		view, err := OpenReadOnly("db", tinyOptions(fs))
		must(t, err)
		watching = true
		_, err = view.Backup(t.Context(), "backup")
		watching = false
		must(t, err)
		must(t, view.Close())
		old = updated
		for n := range 25 {
			must(t, h.do(s, randomChange(rng, n)...))
		}
		if round%2 == 1 {
			must(t, s.Merge(t.Context()))
		}
	}
	t.Logf("%d crashes, %d backups after one", crashes, wentOn)
	must(t, s.Close())
}

// TestCrashDuringRestoreLeavesNoHalfStore: power is lost before each file operation, and after the last.
func TestCrashDuringRestoreLeavesNoHalfStore(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 6))
	mem, want := smallStore(t)
	s := mustOpen(t, mem, tinyOptions(mem))
	_, err := s.Backup(t.Context(), "backup")
	must(t, err)
	must(t, s.Close())
	check := func(when string) error {
		clone := mem.CrashClone(rng)
		view, err := OpenReadOnly("deep/down/restored", tinyOptions(clone))
		if err != nil {
			return err
		}
		if got := contents(t, view); !maps.Equal(got, want) {
			t.Errorf("%s: %v", when, got)
		}
		return view.Close()
	}
	fs := vfs.NewFaulty(mem, func(op vfs.Op) *vfs.Fault {
		when := fmt.Sprintf("before %s of %s", op.Kind, op.Name)
		if err := check(when); err != nil && !errors.Is(err, ErrNoStore) {
			t.Errorf("%s: %v", when, err)
		}
		return nil
	})
	_, err = Restore(t.Context(), "backup", "deep/down/restored", tinyOptions(fs))
	must(t, err)
	for range 20 {
		must(t, check("after the restore"))
	}
}

// TestFailedBackupLeavesTheOldOne: every file operation of a backup fails once. The old backup or the new one is there.
func TestFailedBackupLeavesTheOldOne(t *testing.T) {
	mem := vfs.NewMem()
	s := mustOpen(t, mem, tinyOptions(mem))
	for i := range 30 {
		must(t, s.Put(fmt.Append(nil, "k", i), make([]byte, 150)))
	}
	_, err := s.Backup(t.Context(), "backup")
	must(t, err)
	must(t, s.Put([]byte("new"), make([]byte, 3000)))
	must(t, s.Close())
	for seq := int64(1); ; seq++ {
		disk := mem.KillClone()
		view, err := OpenReadOnly("db", tinyOptions(disk))
		must(t, err)
		faulty := vfs.NewFaulty(disk, vfs.FailOnce(seq, vfs.Fault{Err: errors.New("disk on fire")}))
		view.fs = readOnlyFS{faulty}
		_, backupErr := view.Backup(t.Context(), "backup")
		must(t, view.Close())
		got := restored(t, disk)
		if backupErr == nil && len(got) != 31 || backupErr != nil && len(got) != 30 && len(got) != 31 {
			t.Fatalf("operation %d: backup said %v, and holds %d keys", seq, backupErr, len(got))
		}
		if faulty.Ops() < seq {
			break
		}
	}
}

func TestBackupRefusesWhatItMustNotWriteOver(t *testing.T) {
	fs, _ := smallStore(t)
	s := mustOpen(t, fs, tinyOptions(fs))
	other, err := Open("other", tinyOptions(fs))
	must(t, err)
	must(t, other.Put([]byte("a"), []byte("b")))
	refuse := func(what, dst string, want error) {
		t.Helper()
		before, err := fs.List(dst)
		must(t, err)
		if _, err := s.Backup(t.Context(), dst); !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
		if after, err := fs.List(dst); err != nil || len(after) != len(before) {
			t.Errorf("%s: it holds %v now, %v before", what, after, before)
		}
	}
	must(t, fs.MkdirAll("full"))
	must(t, vfs.WriteFileSync(fs, "full/letter.txt", []byte("dear")))
	refuse("a directory with something else", "full", ErrNotEmpty)
	refuse("the store itself", "db", ErrNotEmpty)
	refuse("another store", "other", ErrNotEmpty)
	_, err = other.Backup(t.Context(), "otherbackup")
	must(t, err)
	refuse("the backup of another store", "otherbackup", ErrNotEmpty)
	must(t, other.Close())

	restore := func(what, src, dst string, want error) {
		t.Helper()
		if _, err := Restore(t.Context(), src, dst, tinyOptions(fs)); !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	restore("into a directory with something", "otherbackup", "full", ErrNotEmpty)
	restore("of a store", "other", "new", ErrNoBackup)
	restore("of anything else", "full", "new", ErrNoBackup)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Backup(ctx, "stopped"); !errors.Is(err, context.Canceled) {
		t.Errorf("a backup that was stopped: %v", err)
	}
	restore("of a backup that was stopped", "stopped", "new", ErrNoBackup)
	must(t, s.Close())
}

// TestBackupRefusesABackupThatWasWrittenTo: somebody opened it as a store, and the next backup would take those writes away.
func TestBackupRefusesABackupThatWasWrittenTo(t *testing.T) {
	for _, c := range []struct {
		name    string
		writes  int
		killed  bool
		refused bool
	}{
		{"opened only", 0, false, false},
		{"opened only, and killed", 0, true, false},
		{"written to", 1, false, true},
		{"written to, and killed", 1, true, true},
		{"written to for long, and killed", 40, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs, _ := smallStore(t)
			s := mustOpen(t, fs, tinyOptions(fs))
			_, err := s.Backup(t.Context(), "backup")
			must(t, err)
			must(t, s.Close())
			b, err := Open("backup", tinyOptions(fs))
			must(t, err)
			for n := range c.writes {
				must(t, b.Put(fmt.Append(nil, "mine", n), make([]byte, 200)))
			}
			killed := fs.KillClone()
			must(t, b.Close())
			if c.killed {
				fs = killed
			}
			s = mustOpen(t, fs, tinyOptions(fs))
			for range 100 { // its index is beyond that of the backup
				must(t, s.Put([]byte("k"), []byte("of the source")))
			}
			if _, err = s.Backup(t.Context(), "backup"); c.refused != errors.Is(err, ErrNotEmpty) {
				t.Errorf("the next backup: %v", err)
			}
			must(t, s.Close())
			b, err = Open("backup", tinyOptions(fs))
			must(t, err)
			for n := range c.writes {
				if _, err := b.Get(fmt.Append(nil, "mine", n)); err != nil {
					t.Errorf("what was written to the backup: %v", err)
				}
			}
			must(t, b.Close())
		})
	}
}

// TestBackupOfADamagedStoreFailsAndNamesTheSource; the old backup stays.
func TestBackupOfADamagedStoreFailsAndNamesTheSource(t *testing.T) {
	fs, want := smallStore(t)
	s := mustOpen(t, fs, tinyOptions(fs))
	name, at := damageMiddle(t, fs)
	_, err := s.Backup(t.Context(), "backup")
	var damage *CorruptError
	if !errors.As(err, &damage) || damage.File != name || damage.Offset != at {
		t.Fatalf("%v, want %s at %d", err, name, at)
	}
	flip(t, fs, name, at+frameHeaderBytes+batchHeaderBytes+recordHeaderBytes)
	_, err = s.Backup(t.Context(), "backup")
	must(t, err)
	name, at = damageMiddle(t, fs)
	must(t, s.Put([]byte("new"), []byte("value")))
	must(t, s.Close())
	if got := restored(t, fs); !maps.Equal(got, want) {
		t.Fatalf("%s at %d: %v", name, at, got)
	}
}

// TestBackupOfAReplicatedStoreEndsAtTheAppliedIndex, and a store restored from it takes the next entry.
func TestBackupOfAReplicatedStoreEndsAtTheAppliedIndex(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, replicatedOptions(fs))
	for i := uint64(1); i <= 20; i++ {
		must(t, s.Append([]Entry{dataEntry(i, 2, 2, fmt.Sprint("k", i), strings.Repeat("v", 200))}))
	}
	must(t, s.Commit(13))
	report, err := s.Backup(t.Context(), "backup")
	must(t, err)
	must(t, s.Close())
	if report.Index != 13 {
		t.Fatalf("%+v", report)
	}
	_, err = Restore(t.Context(), "backup", "restored", tinyOptions(fs))
	must(t, err)
	s, err = Open("restored", replicatedOptions(fs))
	must(t, err)
	if index, term := s.Applied(); index != 13 || term != 2 || s.Len() != 13 || s.LastIndex() != 0 {
		t.Fatalf("applied %d of term %d, %d keys, the log ends at %d", index, term, s.Len(), s.LastIndex())
	}
	must(t, s.Append([]Entry{dataEntry(14, 3, 3, "next", "entry")}))
	must(t, s.Commit(14))
	must(t, s.Close())
	s, err = Open("restored", replicatedOptions(fs))
	must(t, err)
	if s.Len() != 14 {
		t.Fatalf("%d keys", s.Len())
	}
	must(t, s.Close())
}

// TestStoreIsNeverBehindItsBackup: in a store that does not sync, what was backed up survives a power loss. Otherwise other
// entries would take its place, under the ids that the backup knows.
func TestStoreIsNeverBehindItsBackup(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 5))
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.Durability = Never
	s := mustOpen(t, fs, o)
	for i := range 25 {
		must(t, s.Put(fmt.Append(nil, "k", i), make([]byte, 60)))
	}
	_, err := s.Backup(t.Context(), "backup")
	must(t, err)
	for range 20 {
		clone := fs.CrashClone(rng)
		again := mustOpen(t, clone, tinyOptions(clone))
		if again.Len() != 25 {
			t.Fatalf("%d keys survived, 25 are in the backup", again.Len())
		}
		must(t, again.Close())
	}
	must(t, s.Close())
}

// TestIncrementalBackupOfAStoreThatWasRolledBack, as by a snapshot of its disk: the same segment, of the same length, holds
// something else since. The CRC tells.
func TestIncrementalBackupOfAStoreThatWasRolledBack(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("a"), []byte("1")))
	snapshot := fs.KillClone()
	must(t, s.Put([]byte("a"), []byte("2")))
	_, err := s.Backup(t.Context(), "backup")
	must(t, err)
	must(t, s.Close())
	must(t, vfs.RemoveAll(fs, "db"))
	must(t, fs.MkdirAll("db"))
	names, err := snapshot.List("db")
	must(t, err)
	for _, name := range names {
		data, err := vfs.ReadFile(snapshot, joinPath("db", name))
		must(t, err)
		must(t, vfs.WriteFileSync(fs, joinPath("db", name), data))
	}
	s = mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("a"), []byte("3")))
	_, err = s.Backup(t.Context(), "backup")
	must(t, err)
	must(t, s.Close())
	if got := restored(t, fs); got["a"] != "3" {
		t.Fatalf("restored %v", got)
	}
}

// TestBackupIsAStoreToItsReaders: verify, dump and a read-only open work on it.
func TestBackupIsAStoreToItsReaders(t *testing.T) {
	fs, want := smallStore(t)
	s := mustOpen(t, fs, tinyOptions(fs))
	_, err := s.Backup(t.Context(), "backup")
	must(t, err)
	must(t, s.Close())
	view, err := OpenReadOnly("backup", tinyOptions(noWrites(t, fs)))
	must(t, err)
	if got := contents(t, view); !maps.Equal(got, want) {
		t.Fatalf("%v", got)
	}
	must(t, view.Close())
	if report, err := Verify(t.Context(), "backup", tinyOptions(noWrites(t, fs))); err != nil || len(report.Damage) > 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	flip(t, fs, segmentName("backup", 1), 100)
	if report, err := Verify(t.Context(), "backup", tinyOptions(noWrites(t, fs))); err != nil || len(report.Damage) == 0 || report.Damage[0].File != filepath.Join("backup", "00000001.seg") {
		t.Fatalf("%+v, %v", report, err)
	}
}
