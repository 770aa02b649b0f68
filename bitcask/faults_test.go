package bitcask

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// TestFailedSyncPoisonsForGood: after one failed fsync no write is taken, although the
// disk says that all is well again; reads go on.
func TestFailedSyncPoisonsForGood(t *testing.T) {
	disk := vfs.NewMem()
	broken := false
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if broken && op.Kind == vfs.OpSync {
			return &vfs.Fault{Err: syscall.EIO}
		}
		return nil
	})
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("a"), []byte("1")))
	broken = true
	if err := s.Put([]byte("a"), []byte("2")); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("a failed sync gave %v", err)
	}
	broken = false
	if err := s.Put([]byte("a"), []byte("3")); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("the write after a failed sync gave %v", err)
	}
	if err := s.Merge(context.Background()); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("a merge after a failed sync gave %v", err)
	}
	if v, err := s.Get([]byte("a")); err != nil || string(v) != "1" {
		t.Fatalf("the read after a failed sync gave %q, %v", v, err)
	}
	if !s.Stats().Poisoned {
		t.Fatal("Stats does not say that the store is poisoned")
	}
	must(t, s.Close())
}

// TestEveryFailedSyncPoisons: of whatever file, each sync of some puts, a merge and a checkpoint fails in turn.
func TestEveryFailedSyncPoisons(t *testing.T) {
	failed := map[string]int{}
	for nth := 1; ; nth++ {
		var name string
		syncs := 0
		fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op) *vfs.Fault {
			if op.Kind == vfs.OpSync || op.Kind == vfs.OpSyncDir {
				if syncs++; syncs == nth {
					name = op.Name
					return &vfs.Fault{Err: syscall.EIO}
				}
			}
			return nil
		})
		s, err := Open("db", tinyOptions(fs))
		if err != nil {
			continue // it is one of those that Open needs
		}
		for i := range 30 {
			_ = s.Put(fmt.Append(nil, "k", i%4), []byte(strings.Repeat("v", 300)))
		}
		_ = s.Merge(t.Context())
		_ = saveCheckpoint(s, 1)
		poisoned, last := s.Stats().Poisoned, name == ""
		if !last && !poisoned {
			t.Errorf("sync %d, of %s, failed, and the store takes writes", nth, name)
		}
		failed[filepath.Ext(name)]++
		_ = s.Close() // poisoned
		if last {
			break
		}
	}
	for _, ext := range []string{".tmp", ".seg"} {
		if failed[ext] == 0 {
			t.Errorf("no sync of a file *%s failed: %v", ext, failed)
		}
	}
}

// TestManifestWithoutRoomIsACleanRefusal, also on file systems that find out no sooner than in the sync.
func TestManifestWithoutRoomIsACleanRefusal(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpCreate, vfs.OpWrite, vfs.OpSync} {
		full := false
		fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op) *vfs.Fault {
			if full && op.Kind == kind && filepath.Base(op.Name) == manifestName+".tmp" {
				return &vfs.Fault{Err: syscall.ENOSPC}
			}
			return nil
		})
		s := mustOpen(t, fs, tinyOptions(fs))
		must(t, s.Put([]byte("a"), []byte("1")))
		full = true
		if err := saveCheckpoint(s, 1); !errors.Is(err, ErrNoSpace) {
			t.Errorf("%v: a checkpoint without room for its manifest: %v", kind, err)
		}
		full = false
		must(t, s.Put([]byte("a"), []byte("2")))
		must(t, saveCheckpoint(s, 1))
		must(t, s.Close())
	}
}

// TestRestartAfterAFailedSyncDoesNotTrustTheCache: the pages of a write whose sync failed read well and count as clean, so that
// a second sync does not write them. Power that failed then left a hole before entries that were acknowledged later.
func TestRestartAfterAFailedSyncDoesNotTrustTheCache(t *testing.T) {
	disk := vfs.NewMem()
	broken := false
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if broken && op.Kind == vfs.OpSync {
			return &vfs.Fault{Err: syscall.EIO}
		}
		return nil
	})
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("a"), make([]byte, 1000)))
	end := s.appender.active.size.Load()
	broken = true
	if err := s.Put([]byte("b"), make([]byte, 500)); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("a failed sync gave %v", err)
	}
	unsynced := int(s.appender.active.size.Load() - end)
	broken = false
	killed := disk.KillClone()
	_ = s.Close() // it is poisoned

	// writtenAnew is how many bytes an opening writes to the segment before it syncs it.
	writtenAnew := func() (bytes int) {
		synced := false
		fs := vfs.NewFaulty(killed, func(op vfs.Op) *vfs.Fault {
			if filepath.Base(op.Name) == "00000001.seg" {
				synced = synced || op.Kind == vfs.OpSync
				if op.Kind == vfs.OpWrite && !synced {
					bytes += op.Len
				}
			}
			return nil
		})
		must(t, mustOpen(t, fs, tinyOptions(fs)).Close())
		return bytes
	}
	if got := writtenAnew(); got < unsynced {
		t.Errorf("%d bytes were written anew, %d were not synced", got, unsynced)
	}
	if got := writtenAnew(); got != 0 {
		t.Errorf("%d bytes were written anew after a clean end", got)
	}
}

// TestFullDiskRefusesWritesAndResumes: ENOSPC is a clean refusal, reads go on, and
// writes resume by themselves.
func TestFullDiskRefusesWritesAndResumes(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpWrite, vfs.OpPreallocate, vfs.OpCreate} {
		disk := vfs.NewMem()
		full := false
		fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
			if full && op.Kind == kind {
				return &vfs.Fault{Err: syscall.ENOSPC, PartialBytes: 30}
			}
			return nil
		})
		s := mustOpen(t, fs, tinyOptions(fs))
		want := map[string]string{}
		for round := range 6 {
			full = round%2 == 1
			refused := 0
			for n := range 30 {
				key, value := fmt.Sprint("k", n%5), fmt.Sprintf("%d.%d %s", round, n, strings.Repeat("w", 90))
				switch err := s.Put([]byte(key), []byte(value)); {
				case err == nil:
					want[key] = value
				case errors.Is(err, ErrNoSpace) && full:
					refused++
				default:
					t.Fatalf("%v: round %d: %v", kind, round, err)
				}
			}
			if full && refused == 0 {
				t.Fatalf("%v: the disk was full and every write was taken", kind)
			}
			if got := contents(t, s); !maps.Equal(got, want) {
				t.Fatalf("%v: round %d: %v, should be %v", kind, round, got, want)
			}
		}
		must(t, s.Close())
		s = mustOpen(t, disk, tinyOptions(disk))
		if got := contents(t, s); !maps.Equal(got, want) {
			t.Fatalf("%v: reopened: %v, should be %v", kind, got, want)
		}
		must(t, s.Close())
	}
}

// TestReadErrorIsNeverNotFound: what the disk refuses to read is an error.
func TestReadErrorIsNeverNotFound(t *testing.T) {
	broken := false
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op) *vfs.Fault {
		if broken && op.Kind == vfs.OpRead {
			return &vfs.Fault{Err: syscall.EIO}
		}
		return nil
	})
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("a"), []byte("1")))
	broken = true
	if _, err := s.Get([]byte("a")); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrNotFound) {
		t.Fatalf("Get on a broken disk: %v", err)
	}
	if err := s.Scan(nil, func(_, _ []byte) error { return nil }); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Scan on a broken disk: %v", err)
	}
	broken = false
	must(t, s.Close())
}

// TestUnreadableSegmentDoesNotStopTheMergesOfOthers: one sector of one file cannot be read, for a time. All else is merged and
// gets its hints, nothing is lost, and that segment is merged when it can be read again.
func TestUnreadableSegmentDoesNotStopTheMergesOfOthers(t *testing.T) {
	for name, merge := range map[string]func(s *Store) error{
		"in the background": func(s *Store) error { return s.maintainOnce() },
		"asked for":         func(s *Store) error { return s.Merge(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { mergeAroundUnreadable(t, merge) })
		})
	}
}

func mergeAroundUnreadable(t *testing.T, merge func(s *Store) error) {
	bad, reads := true, 0
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op) *vfs.Fault {
		if bad && op.Kind == vfs.OpRead && op.Name == segmentName("db", 1) {
			reads++
			return &vfs.Fault{Err: syscall.EIO}
		}
		return nil
	})
	s := mustOpen(t, fs, tinyOptions(fs))
	defer func() { must(t, s.Close()) }()
	for n := range 100 {
		must(t, s.Put(fmt.Append(nil, "k", n%5), []byte(strings.Repeat("v", 100))))
		if n == 3 {
			must(t, s.Put([]byte("first"), []byte("only in the first segment")))
		}
	}
	before := s.Stats().Segments
	err := merge(s)
	if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), segmentName("db", 1)+" at offset 64") {
		t.Errorf("the segment that cannot be read is reported as %v", err)
	}
	if after := s.Stats().Segments; after > 4 {
		t.Errorf("of %d segments, one of which cannot be read, %d are left", before, after)
	}
	for _, seg := range sortedSegments(s.liveSegments()) {
		if seg.id != 1 && seg.id != s.activeID() && !seg.hinted.Load() {
			t.Errorf("%s has no hint", seg.name)
		}
	}
	reads = 0
	must(t, s.maintainOnce())
	if reads > 0 {
		t.Errorf("it was tried again at once, %d times", reads)
	}
	bad = false
	if v, err := s.Get([]byte("first")); err != nil || string(v) != "only in the first segment" || len(contents(t, s)) != 6 {
		t.Fatalf("first is %q, %v", v, err)
	}
	time.Sleep(leftOutFor)
	must(t, s.maintainOnce())
	if s.liveSegments()[1] != nil {
		t.Error("it can be read again, and was not merged")
	}
	if v, err := s.Get([]byte("first")); err != nil || string(v) != "only in the first segment" || len(contents(t, s)) != 6 {
		t.Fatalf("after all merges first is %q, %v", v, err)
	}
}

// TestFailedWriteOfAMergeBlamesNoSegment: what cannot be written says nothing of what was read.
func TestFailedWriteOfAMergeBlamesNoSegment(t *testing.T) {
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
		bad := false
		fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op) *vfs.Fault {
			if bad && op.Kind == vfs.OpWrite {
				return &vfs.Fault{Err: fault}
			}
			return nil
		})
		s := mustOpen(t, fs, tinyOptions(fs))
		for n := range 100 {
			must(t, s.Put(fmt.Append(nil, "k", n%5), []byte(strings.Repeat("v", 100))))
		}
		bad = true
		if err := s.maintainOnce(); !errors.Is(err, fault) {
			t.Fatalf("a merge that cannot write gave %v", err)
		}
		bad = false
		must(t, s.maintainOnce())
		if st := s.Stats(); st.Merges == 0 || st.Segments > 4 {
			t.Fatalf("%v: writes work again, and after %d merges %d segments are left", fault, st.Merges, st.Segments)
		}
		must(t, s.Close())
	}
}

func TestSecondOpenNamesTheHolder(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, nil)
	must(t, err)
	if _, err := Open(dir, nil); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Fatalf("the second Open gave %v", err)
	}
	must(t, s.Close())
	s, err = Open(dir, nil)
	must(t, err)
	must(t, s.Close())
}

func TestOpenOnAFileIsAClearError(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(name, []byte("not a directory"), 0o600))
	if _, err := Open(name, nil); err == nil || !strings.Contains(err.Error(), name) {
		t.Fatalf("Open on a file gave %v", err)
	}
}

func TestLimitsAreRefusedBeforeAnythingIsWritten(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.MaxValueBytes = 1000
	s := mustOpen(t, fs, o)
	defer func() { must(t, s.Close()) }()
	for _, c := range []struct {
		key, value []byte
		want       error
	}{
		{nil, []byte("v"), ErrEmptyKey},
		{make([]byte, MaxKeyBytes+1), nil, ErrTooLarge},
		{[]byte("k"), make([]byte, 1001), ErrTooLarge},
		{make([]byte, MaxKeyBytes), make([]byte, 1000), nil}, // larger than a segment
		{[]byte("empty"), nil, nil},
	} {
		if err := s.Put(c.key, c.value); !errors.Is(err, c.want) {
			t.Errorf("key of %d, value of %d bytes: %v, should be %v", len(c.key), len(c.value), err, c.want)
		}
	}
	if s.Len() != 2 {
		t.Errorf("%d keys were stored, should be 2", s.Len())
	}
	if v, err := s.Get([]byte("empty")); err != nil || len(v) != 0 {
		t.Errorf("an empty value came back as %q, %v", v, err)
	}
}

// TestRefusedValueNamesTheLimitOfTheStore, however far beyond it the value is.
func TestRefusedValueNamesTheLimitOfTheStore(t *testing.T) {
	for _, durability := range []Durability{Always, Never} {
		fs := vfs.NewMem()
		s := mustOpen(t, fs, &Options{FS: fs, Logger: quiet, Durability: durability})
		for _, size := range []int{9 << 20, 70 << 20} {
			if err := s.Put([]byte("k"), make([]byte, size)); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "the limit is 8388608 (Options.MaxValueBytes)") {
				t.Errorf("durability %s, value of %d bytes: %v", durability, size, err)
			}
		}
		must(t, s.Close())
	}
}

// TestClearedValueIsNotTooLarge: what a batch has cleared again is not written, so its size is no reason to refuse the rest.
func TestClearedValueIsNotTooLarge(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.MaxValueBytes = 1000
	s := mustOpen(t, fs, o)
	var b Batch
	must(t, b.Put([]byte("k"), make([]byte, 1001), 0))
	b.Clear()
	must(t, b.Put([]byte("k"), []byte("small"), 0))
	must(t, s.Write(&b))
	if v, err := s.Get([]byte("k")); err != nil || string(v) != "small" {
		t.Errorf("k is %q, %v", v, err)
	}
	must(t, s.Close())
}

// TestBatchOfATermIsRefused: it would be void in the log, and an acknowledged write would be lost. Nor may it become valid
// in a group with others.
func TestBatchOfATermIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	defer func() { must(t, s.Close()) }()
	refuse := func() {
		t.Helper()
		var b Batch
		b.Reset(7, 0)
		if err := errors.Join(b.Put([]byte("k"), []byte("of term 7"), 0), s.Write(&b)); err == nil || !strings.Contains(err.Error(), "term 7") {
			t.Errorf("a batch of term 7: %v", err)
		}
	}
	refuse()
	s.appender.mu.Lock()
	var others sync.WaitGroup
	for n := range 5 {
		others.Go(func() {
			if err := s.Put(fmt.Append(nil, "other", n), nil); err != nil {
				t.Error(err)
			}
		})
	}
	others.Go(refuse)
	for queued := 0; queued < 4; runtime.Gosched() { // the first leads
		s.commits.mu.Lock()
		queued = len(s.commits.queue)
		s.commits.mu.Unlock()
	}
	s.appender.mu.Unlock()
	others.Wait()
	if _, err := s.Get([]byte("k")); !errors.Is(err, ErrNotFound) || s.Len() != 5 {
		t.Errorf("the refused batch reads as %v, and there are %d keys, should be 5", err, s.Len())
	}
}

func TestExpiredKeyIsGoneAndItsSpaceComesBack(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	now := time.UnixMilli(1_000_000)
	o.Now = func() time.Time { return now }
	s := mustOpen(t, fs, o)
	must(t, s.Put([]byte("k"), []byte("old")))
	must(t, s.Merge(t.Context())) // the older copy is in a segment of its own
	must(t, s.PutWithTTL([]byte("k"), []byte("short"), time.Second))
	if v, err := s.Get([]byte("k")); err != nil || string(v) != "short" {
		t.Fatalf("before it expires: %q, %v", v, err)
	}
	now = now.Add(time.Second)
	if _, err := s.Get([]byte("k")); !errors.Is(err, ErrNotFound) {
		t.Fatalf("after it expired: %v", err)
	}
	must(t, s.Merge(t.Context()))
	if s.Len() != 0 {
		t.Fatalf("%d keys are left after the merge", s.Len())
	}
	now = now.Add(-time.Hour) // a clock that goes back must not bring it back
	must(t, s.Close())
	s = mustOpen(t, fs, o)
	if v, err := s.Get([]byte("k")); !errors.Is(err, ErrNotFound) {
		t.Fatalf("after merge and reopen: %q, %v", v, err)
	}
	must(t, s.Close())
}

// TestConcurrentUseUnderMerges runs writers, readers and scans beside merges on a real
// disk, for the race detector and for lost updates.
func TestConcurrentUseUnderMerges(t *testing.T) {
	dir := t.TempDir()
	o := &Options{SegmentBytes: 64 << 10, Logger: quiet, Merge: MergePolicy{BytesPerSecond: 1 << 40}}
	s, err := Open(dir, o)
	must(t, err)
	var wg sync.WaitGroup
	const writers, keys, rounds = 4, 50, 40
	for w := range writers {
		wg.Go(func() {
			for r := range rounds {
				for k := range keys {
					key := fmt.Appendf(nil, "w%d-k%d", w, k)
					if err := s.Put(key, fmt.Appendf(nil, "%d %0200d", r, k)); err != nil {
						t.Error(err)
						return
					}
					if v, err := s.Get(key); err != nil || !strings.HasPrefix(string(v), fmt.Sprint(r, " ")) {
						t.Errorf("read back %.10q, %v in round %d", v, err, r)
						return
					}
				}
			}
		})
	}
	done := make(chan struct{})
	var side sync.WaitGroup
	side.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := s.Scan([]byte("w1"), func(_, _ []byte) error { return nil }); err != nil {
				t.Error(err)
			}
			if err := s.Merge(t.Context()); err != nil {
				t.Error(err)
			}
			s.Stats()
		}
	})
	wg.Wait()
	close(done)
	side.Wait()
	must(t, s.Close())
	s, err = Open(dir, o)
	must(t, err)
	if s.Len() != writers*keys {
		t.Errorf("%d keys after reopen, should be %d", s.Len(), writers*keys)
	}
	for key, v := range contents(t, s) {
		if !strings.HasPrefix(v, fmt.Sprint(rounds-1, " ")) {
			t.Errorf("%s is %.10q after reopen, should be of the last round", key, v)
		}
	}
	must(t, s.Close())
}
