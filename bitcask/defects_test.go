package bitcask

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// The defects that were found in other Bitcasks and their kin, and what holds them off here.
//
//	defect                                                   here
//	Sync that does not sync (rosedb, lotusdb)                TestAcknowledgedWriteWasSynced
//	merge unsynced, or inputs removed before the outputs     TestCrashInAMergeLosesNothing
//	  count (rosedb, prologic, octu0, barreldb, pogreb,
//	  nutsdb MergeV2, saclark)
//	unfinished merge's hint over a good one (rosedb)         TestCrashInAMergeLosesNothing: a hint names its segment's uid
//	index keeps the caller's key (rosedb)                    TestCallerMayReuseItsBuffers
//	read error in a merge ends it, inputs go (prologic,      TestReadErrorInAMergeDeletesNothing
//	  nutsdb; basho 956cec0)
//	corrupt record in a merge, rest dropped (basho, nutsdb)  TestMergeKeepsADamagedSegment
//	half a batch after a crash (prologic, buntdb)            TestCrashKeepsABatchWholeOrNotAtAll
//	store looks empty in a crash window (octu0)              TestMissingFileIsCorruptNotEmpty, TestCrashSoak
//	write failure panics (nutsdb), error ignored (buntdb,    TestEveryOperationFailsOnceAndForEver
//	  badger), fsync retried (ferricstore)                   TestFailedSyncPoisonsForGood
//	any segment cut at its first bad record (pogreb)         TestDamagedOldSegmentIsNeverCut
//	merge outside the data directory (barreldb)              cannot: outputs are made in it, under their final names
//	times to live dropped by a merge (barreldb)              TestMergeKeepsTimesToLive
//	lock left by a crash blocks Open (barreldb, basho        TestLockOfADeadProcessDoesNotBlock
//	  e85a710, pid reuse, empty lock file)
//	iterator fails on a key deleted meanwhile (prologic)     TestScanIsOfOneMoment
//	expired read deletes a newer value (saclark; basho       TestExpiredReadRemovesNothing
//	  860eb0d)
//	empty value taken for a delete (prologic)                TestEmptyValueSurvivesAKill
//	value that looks like a tombstone is one (basho)         TestNoValueIsATombstone
//	short read is "not found" (basho)                        TestReadErrorIsNeverNotFound, TestCutSegmentIsNeverNotFound
//	damaged hint byte loses a key (basho 46ebecd)            TestDamagedHintLosesNoKey
//	hint wrong after a failed write (basho d3e12ad)          TestFailedWriteLeavesARightHint
//	files leak at a failed or repeated open (basho c174af6,  TestOpenAndCloseLeakNoFile
//	  52bce9c; #249)
//	fold goes on after a read error (basho 7501a34)          TestReadErrorIsNeverNotFound (Scan)
//	clock goes back, old data wins (basho fa7c52c, d721439)  TestClockThatGoesBackRevivesNothing
//	several merges and one put (basho c6b1b25, b176d8f)      TestPutBesideMergesWins
//	merge deletes what a fold still reads (basho aab5137,    TestScanIsOfOneMoment
//	  6dc6cad, de71701)
//	open beside a close misses data (basho 40abe26)          TestSecondOpenNamesTheHolder: one Store has the directory
//	fold holds up, or is held up by, others (basho dc39004,  TestScanIsOfOneMoment: it writes and merges in the fold
//	  4e0a0ff, bdfdeac)
//	writer misses its own put during a fold (basho af31ffc,  TestScanIsOfOneMoment
//	  fa7fa18, 091fea6)
//	tombstone dropped by a partial merge (basho #82)         TestDeletedKeyStaysDeletedAfterPartialMerge
//	old value wins by file order (nutsdb #392)               TestOverwrittenValueStaysOverwrittenWhenMergedLater
//	delete beside a merge (basho #82)                        TestDeleteDuringMergeWins
//	expired record dropped like dead bytes                   TestExpiredKeyIsGoneAndItsSpaceComesBack
//	file id used again (basho f085660, 0c37606)              TestSegmentIDsAreNeverUsedAgain
//	records at a buffer's border skipped (basho e3ae214)     TestRecordsAtTheBordersOfTheReadBufferAreRead
//	stats of deleted files (basho 925c2f7, 35b7967)          TestAccountsAreExactAfterMergesAndReopening
//	failed open deadlocks the next (basho 4862bf6)           TestOpenAndCloseLeakNoFile
//	active file as merge input (basho 694480f)               TestMergeNeverTakesTheActiveSegment
//	needless tombstones (basho a7b0c1d, #196)                cannot: a put writes no tombstone, a merge none that shadows nothing
//	keys from records with a bad CRC (basho 15007b6)         TestEveryFlippedByteIsNoticed
//	two I/O modes that differ (basho a1568ae)                TestMetamorphic, TestCrashSoak: files with maps and without
//	names not durable (all but saclark, badger)              TestCrashSoak, TestAcknowledgedWriteSurvivesAKillAndThenAPowerLoss
//	log unsynced when a merge counts: an old record is dead  TestCrashSoak (fails without that sync)
//	  only because of a newer one
//	keydir frozen for ever after a folder dies (basho        TestScanThatPanicsFreezesNothing
//	  4e0a0ff)
//	merges of all stores at once at start (basho #42)        TestMergesAtStartAreNoStorm
//	file merged over and over (basho #205)                   TestSegmentThatCannotShrinkIsNotPicked

// TestAcknowledgedWriteWasSynced counts syncs and loses power right after the acknowledgement.
func TestAcknowledgedWriteWasSynced(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	for _, mode := range []Durability{Always, Never} {
		disk := vfs.NewMem()
		syncs := 0
		fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
			if op.Kind == vfs.OpSync {
				syncs++
			}
			return nil
		})
		o := tinyOptions(fs)
		o.SegmentBytes, o.Durability = 1<<20, mode
		s := mustOpen(t, fs, o)
		h := &history{acked: map[string]string{}}
		for n := range 10 {
			before := syncs
			changes := []change{{key: fmt.Sprint(n), value: "single"}}
			if n%2 == 1 {
				changes = append(changes, change{key: "batch", value: fmt.Sprint(n)})
			}
			must(t, h.do(s, changes...))
			if want := map[Durability]int{Always: 1}[mode]; syncs-before != want {
				t.Fatalf("%s: a write took %d syncs, should take %d", mode, syncs-before, want)
			}
			for range 4 {
				verifyCrash(t, disk.CrashClone(rng), h.clone())
			}
		}
		must(t, s.Sync())
		h.unsynced = nil
		verifyCrash(t, disk.CrashClone(rng), h.clone())
		must(t, s.Close())
	}
}

// mixedStore has sealed segments with live, dead and deleted records.
func mixedStore(t *testing.T, fs vfs.FS) (*Store, *history) {
	t.Helper()
	s := mustOpen(t, fs, tinyOptions(fs))
	h := &history{acked: map[string]string{}}
	for n := range 30 {
		must(t, h.do(s, change{key: fmt.Sprint("k", n%9), value: fmt.Sprint(n, strings.Repeat("x", 90))}))
	}
	must(t, h.do(s, change{key: "k1", delete: true}))
	must(t, s.buildHints(s.ctx))
	return s, h
}

// TestCrashInAMergeLosesNothing loses power several times before each file operation of merges.
func TestCrashInAMergeLosesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	disk := vfs.NewMem()
	var h *history
	crashes := 0
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		for range 3 {
			if h == nil || op.Kind == vfs.OpRead {
				return nil
			}
			crashes++
			verifyCrash(t, disk.CrashClone(rng), h.clone())
		}
		return nil
	})
	s, filled := mixedStore(t, fs)
	h = filled
	must(t, mergeSome(s, rng))
	must(t, s.Merge(t.Context()))
	t.Logf("%d crashes", crashes)
	h = nil
	must(t, s.Close())
}

func TestCallerMayReuseItsBuffers(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	key, value := []byte("key-0"), []byte("value-0")
	for i := range byte(5) {
		key[4], value[6] = '0'+i, '0'+i
		must(t, s.Put(key, value))
	}
	copy(key, "xxxxx")
	copy(value, "xxxxxxx")
	want := map[string]string{}
	for i := range 5 {
		want[fmt.Sprint("key-", i)] = fmt.Sprint("value-", i)
	}
	if got := contents(t, s); !maps.Equal(got, want) {
		t.Fatalf("the store holds %v, should hold %v", got, want)
	}
	got, err := s.Get([]byte("key-1"))
	must(t, err)
	copy(got, "yyyyyyy") // the reader's copy is its own
	if v, err := s.Get([]byte("key-1")); err != nil || string(v) != "value-1" {
		t.Fatalf("key-1 is %q, %v", v, err)
	}
	must(t, s.Close())
}

// TestReadErrorInAMergeDeletesNothing fails each read of a merge in turn.
func TestReadErrorInAMergeDeletesNothing(t *testing.T) {
	for nth := 1; ; nth++ {
		reads := -1
		disk := vfs.NewMem()
		fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
			if reads >= 0 && op.Kind == vfs.OpRead {
				if reads++; reads == nth {
					return &vfs.Fault{Err: syscall.EIO}
				}
			}
			return nil
		})
		s, h := mixedStore(t, fs)
		reads = 0
		err := s.Merge(t.Context())
		if reads < nth {
			must(t, err)
			must(t, s.Close())
			if nth < 3 {
				t.Fatalf("the merge made only %d reads", reads)
			}
			return
		}
		var unread *readError
		if !errors.Is(err, syscall.EIO) || !errors.As(err, &unread) {
			t.Fatalf("read %d of a merge failed: %v", nth, err)
		}
		if _, err := fileSize(disk, unread.file); err != nil {
			t.Fatalf("read %d of a merge failed, and the segment is gone: %v", nth, err)
		}
		if got := contents(t, s); !maps.Equal(got, h.acked) {
			t.Fatalf("read %d of a merge failed: the store holds %v, should hold %v", nth, got, h.acked)
		}
		must(t, s.Merge(t.Context())) // the disk is well again
		must(t, s.Close())
		verifyCrash(t, disk, *h)
	}
}

func TestCrashKeepsABatchWholeOrNotAtAll(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	disk := vfs.NewMem()
	h := &history{acked: map[string]string{}}
	halves := 0
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpSync && len(h.inflight) > 1 { // written, not synced: sectors survive by lot
			for range 8 {
				halves++
				verifyCrash(t, disk.CrashClone(rng), h.clone())
			}
		}
		return nil
	})
	o := tinyOptions(fs)
	o.SegmentBytes = 64 << 10
	s := mustOpen(t, fs, o)
	for n := range 6 {
		var batch []change
		for k := range 12 {
			batch = append(batch, change{key: fmt.Sprint("k", k), value: fmt.Sprint(n, strings.Repeat("b", 300))})
		}
		must(t, h.do(s, batch...))
	}
	must(t, s.Close())
	if halves == 0 {
		t.Fatal("no crash was tried")
	}
}

// TestDamagedOldSegmentIsNeverCut: without its hint, a sealed segment with a bad byte is an error
// that changes nothing, not a log that ends there.
func TestDamagedOldSegmentIsNeverCut(t *testing.T) {
	fs := vfs.NewMem()
	s, _ := mixedStore(t, fs)
	must(t, s.Close())
	must(t, fs.Remove(hintName("db", 1)))
	flip(t, fs, segmentName("db", 1), 500)
	size, err := fileSize(fs, segmentName("db", 1))
	must(t, err)
	var damage *CorruptError
	if _, err := Open("db", tinyOptions(fs)); !errors.As(err, &damage) || damage.File != segmentName("db", 1) || damage.Offset > 500 {
		t.Fatalf("Open gave %v", err)
	}
	if now, err := fileSize(fs, segmentName("db", 1)); err != nil || now != size {
		t.Fatalf("the damaged segment has %d bytes, %v; it had %d", now, err, size)
	}
	flip(t, fs, segmentName("db", 1), 500)
	must(t, mustOpen(t, fs, tinyOptions(fs)).Close())
}

func TestMergeKeepsTimesToLive(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	now := time.UnixMilli(1_000_000)
	o.Now = func() time.Time { return now }
	s := mustOpen(t, fs, o)
	must(t, s.PutWithTTL([]byte("k"), []byte("v"), time.Minute))
	must(t, s.Put([]byte("dead"), []byte("1")))
	must(t, s.Put([]byte("dead"), []byte("2")))
	before, _ := s.Lookup([]byte("k"))
	must(t, s.Merge(t.Context()))
	for range 2 {
		if it, ok := s.Lookup([]byte("k")); !ok || it.ExpireAt != before.ExpireAt {
			t.Fatalf("k expires at %d after a merge, should at %d", it.ExpireAt, before.ExpireAt)
		}
		must(t, s.Close())
		s = mustOpen(t, fs, o)
	}
	now = now.Add(time.Minute)
	if _, err := s.Get([]byte("k")); !errors.Is(err, ErrNotFound) {
		t.Fatalf("an expired key after a merge: %v", err)
	}
	must(t, s.Close())
}

// TestLockOfADeadProcessDoesNotBlock: the file stays and means nothing, whatever is in it.
func TestLockOfADeadProcessDoesNotBlock(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("k"), []byte("v")))
	killed := fs.KillClone()
	must(t, s.Close())
	for _, size := range []int64{-1, 0} {
		if size == 0 {
			f, err := killed.Open("db/" + lockName)
			must(t, err)
			must(t, f.Truncate(size))
			must(t, f.Close())
		}
		s := mustOpen(t, killed, tinyOptions(killed))
		if v, err := s.Get([]byte("k")); err != nil || string(v) != "v" {
			t.Fatalf("k is %q, %v", v, err)
		}
		must(t, s.Close())
	}
}

// TestScanIsOfOneMoment: whatever is written, deleted and merged in the middle of it, a scan shows the
// moment it began, the writer sees its own writes, and nobody waits for anybody.
func TestScanIsOfOneMoment(t *testing.T) {
	fs := vfs.NewMem()
	s, h := mixedStore(t, fs)
	want, got := maps.Clone(h.acked), map[string]string{}
	must(t, s.Scan(nil, func(key, value []byte) error {
		got[string(key)] = string(value)
		if len(got) > 1 {
			return nil
		}
		for k := range 9 {
			if err := h.do(s, change{key: fmt.Sprint("k", k), delete: k%2 == 0, value: "new"}, change{key: fmt.Sprint("new", k), value: "new"}); err != nil {
				return err
			}
		}
		if err := s.Merge(t.Context()); err != nil {
			return err
		}
		if now := contents(t, s); !maps.Equal(now, h.acked) {
			return fmt.Errorf("the writer sees %v, wrote %v", now, h.acked)
		}
		return s.Scan([]byte("k"), func(_, _ []byte) error { return nil })
	}))
	if !maps.Equal(got, want) {
		t.Fatalf("the scan showed %v, should show %v", got, want)
	}
	must(t, s.Close())
}

func TestExpiredReadRemovesNothing(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	now := time.UnixMilli(1_000_000)
	o.Now = func() time.Time { return now }
	s := mustOpen(t, fs, o)
	must(t, s.PutWithTTL([]byte("k"), []byte("old"), time.Second))
	now = now.Add(time.Hour)
	if _, err := s.Get([]byte("k")); !errors.Is(err, ErrNotFound) {
		t.Fatalf("an expired key: %v", err)
	}
	if s.Len() != 1 {
		t.Fatal("a read changed the keydir")
	}
	must(t, s.Put([]byte("k"), []byte("new")))
	must(t, s.Merge(t.Context()))
	must(t, s.Close())
	s = mustOpen(t, fs, o)
	if v, err := s.Get([]byte("k")); err != nil || string(v) != "new" {
		t.Fatalf("k is %q, %v", v, err)
	}
	must(t, s.Close())
}

func TestEmptyValueSurvivesAKill(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("empty"), nil))
	killed := fs.KillClone()
	must(t, s.Close())
	verifyCrash(t, killed, history{acked: map[string]string{"empty": ""}})
}

func TestNoValueIsATombstone(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	h := &history{acked: map[string]string{}}
	for n, value := range []string{"bitcask_tombstone", "bitcask_tombstone2\x00\x00\x00\x01", "\xff\xff\xff\xff", "\x00", segmentMagic} {
		must(t, h.do(s, change{key: fmt.Sprint(n), value: value}, change{key: value, value: value}))
	}
	must(t, s.Close())
	verifyCrash(t, fs, *h)
}

// TestCutSegmentIsNeverNotFound: a file that lost its end under a running store.
func TestCutSegmentIsNeverNotFound(t *testing.T) {
	fs := vfs.NewMem()
	s, h := mixedStore(t, fs)
	for id := range s.liveSegments() {
		f, err := fs.Open(segmentName("db", id))
		must(t, err)
		must(t, f.Truncate(segmentHeaderBytes))
		must(t, f.Close())
	}
	for key := range h.acked {
		if v, err := s.Get([]byte(key)); err == nil || errors.Is(err, ErrNotFound) {
			t.Fatalf("%s in a file that lost its end: %q, %v", key, v, err)
		}
	}
	_ = s.Close()
}

func TestDamagedHintLosesNoKey(t *testing.T) {
	original, want := smallStore(t)
	names, err := original.List("db")
	must(t, err)
	for _, name := range names {
		if !strings.HasSuffix(name, ".hint") {
			continue
		}
		size, err := fileSize(original, "db/"+name)
		must(t, err)
		for at := int64(0); at < size; at += 13 {
			fs := original.KillClone()
			flip(t, fs, "db/"+name, at)
			for range 2 { // the second finds the hint that the first made again
				s := mustOpen(t, fs, tinyOptions(fs))
				if got := contents(t, s); !maps.Equal(got, want) {
					t.Fatalf("%s, byte %d: the store holds %v, should hold %v", name, at, got, want)
				}
				must(t, s.Close())
			}
		}
	}
}

func TestFailedWriteLeavesARightHint(t *testing.T) {
	disk := vfs.NewMem()
	fail := false
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if fail && op.Kind == vfs.OpWrite {
			return &vfs.Fault{Err: syscall.EIO, PartialBytes: 40}
		}
		return nil
	})
	s := mustOpen(t, fs, tinyOptions(fs))
	h := &history{acked: map[string]string{}}
	for n := range 12 {
		must(t, h.do(s, change{key: fmt.Sprint("k", n), value: "v"}))
		fail = true
		if err := s.Put([]byte("never"), []byte("acknowledged")); !errors.Is(err, syscall.EIO) {
			t.Fatalf("a failed write gave %v", err)
		}
		fail = false
	}
	seal(t, s)
	must(t, s.Close())
	verifyCrash(t, disk, *h)
}

// fileCount counts what is open on a disk.
type fileCount struct{ opened, closed int }

// TestOpenAndCloseLeakNoFile: neither a whole life leaves a file open or the directory locked, nor
// an Open that fails at any one operation.
func TestOpenAndCloseLeakNoFile(t *testing.T) {
	original, _ := smallStore(t)
	for nth := int64(0); ; nth++ {
		disk := original.KillClone()
		var count fileCount
		what := ""
		fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
			fails := op.Seq == nth && op.Kind != vfs.OpClose
			if fails {
				what = fmt.Sprint(op.Kind, op.Name, op.To)
			}
			switch op.Kind {
			case vfs.OpCreate, vfs.OpOpen, vfs.OpLock:
				if !fails && exists(disk, op) {
					count.opened++
				}
			case vfs.OpClose:
				count.closed++
			}
			if fails {
				return &vfs.Fault{Err: syscall.EIO}
			}
			return nil
		})
		s, err := Open("db", tinyOptions(fs))
		if err == nil {
			_ = s.Merge(t.Context())
			_ = s.Close()
		}
		if count.opened != count.closed {
			t.Fatalf("operation %d (%s) failed: %d files were opened, %d closed", nth, what, count.opened, count.closed)
		}
		s, err = Open("db", tinyOptions(disk))
		if err != nil {
			t.Fatalf("operation %d failed, then open: %v", nth, err)
		}
		must(t, s.Close())
		if nth > fs.Ops() {
			return
		}
	}
}

// exists tells whether an operation that opens will find, or may make, its file.
func exists(disk *vfs.Mem, op vfs.Op) bool {
	f, err := disk.OpenRead(op.Name)
	if err == nil {
		_ = f.Close()
	}
	return op.Kind == vfs.OpLock || (err == nil) == (op.Kind == vfs.OpOpen)
}

func TestClockThatGoesBackRevivesNothing(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	now := time.UnixMilli(1 << 40)
	o.Now = func() time.Time { now = now.Add(-time.Hour); return now }
	s := mustOpen(t, fs, o)
	h := &history{acked: map[string]string{}}
	for n := range 20 {
		must(t, h.do(s, change{key: fmt.Sprint("k", n%3), value: fmt.Sprint(n), delete: n%5 == 0}))
		if n%4 == 0 {
			seal(t, s)
		}
	}
	must(t, s.Merge(t.Context()))
	must(t, s.Close())
	verifyCrash(t, fs, *h)
}

// TestPutBesideMergesWins: a put in the middle of the second of three merges of the same key.
func TestPutBesideMergesWins(t *testing.T) {
	disk := vfs.NewMem()
	var s *Store
	h := &history{acked: map[string]string{}}
	write := false
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if write && op.Kind == vfs.OpRename && op.To == "db/"+manifestName {
			write = false
			must(t, h.do(s, change{key: "k", value: "newest"}, change{key: "k2", delete: true}))
		}
		return nil
	})
	s = mustOpen(t, fs, tinyOptions(fs))
	for n := range 3 {
		must(t, h.do(s, change{key: "k", value: fmt.Sprint(n)}, change{key: "k2", value: fmt.Sprint(n)}))
		seal(t, s)
	}
	sealed := sortedSegments(s.liveSegments())
	for n := range 3 {
		write = n == 1
		must(t, s.mergeSegments(t.Context(), sealed[n:n+1]))
	}
	must(t, s.Merge(t.Context()))
	if got := contents(t, s); !maps.Equal(got, h.acked) {
		t.Fatalf("the store holds %v, should hold %v", got, h.acked)
	}
	must(t, s.Close())
	verifyCrash(t, disk, *h)
}

func TestSegmentIDsAreNeverUsedAgain(t *testing.T) {
	fs := vfs.NewMem()
	highest := uint32(0)
	for range 4 {
		s := mustOpen(t, fs, tinyOptions(fs))
		for range 3 {
			must(t, s.Put([]byte("k"), []byte("v")))
			must(t, s.Delete([]byte("k")))
			must(t, s.Merge(t.Context())) // nothing is live: all files go
			id := s.activeID()
			if id <= highest {
				t.Fatalf("segment %d came after segment %d", id, highest)
			}
			highest = id
		}
		must(t, s.Close())
	}
}

// TestRecordsAtTheBordersOfTheReadBufferAreRead: frames that end at, before and behind each border
// of the scan's buffer of 1 MiB.
func TestRecordsAtTheBordersOfTheReadBufferAreRead(t *testing.T) {
	for _, shift := range []int{-64, -8, 0, 8, 64} {
		fs := vfs.NewMem()
		o := tinyOptions(fs)
		o.SegmentBytes = 8 << 20
		s := mustOpen(t, fs, o)
		frame := frameBytes(batchHeaderBytes + recordHeaderBytes + 1) // of a key of one byte, without a value
		for i := range byte(3) {
			must(t, s.Put([]byte{'a' + i}, make([]byte, mib-int(frame)+shift)))
			must(t, s.Put([]byte{'x' + i}, []byte("small")))
		}
		want := contents(t, s)
		killed := fs.KillClone() // no hint: the scan finds them
		must(t, s.Close())
		o.FS = killed
		s = mustOpen(t, killed, o)
		if got := contents(t, s); len(got) != 6 || !maps.Equal(got, want) {
			t.Fatalf("shift %d: %d keys are left of 6", shift, len(got))
		}
		must(t, s.Close())
	}
}

// TestAccountsAreExactAfterMergesAndReopening: live bytes and records of every segment are what a
// walk over the keydir finds.
func TestAccountsAreExactAfterMergesAndReopening(t *testing.T) {
	fs := vfs.NewMem()
	s, h := mixedStore(t, fs)
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	check := func(when string) {
		t.Helper()
		bytes, records := map[uint32]int64{}, map[uint32]int64{}
		for key := range h.acked {
			it, ok := s.visible.keys.Get([]byte(key))
			if !ok {
				t.Fatalf("%s: %s is missing", when, key)
			}
			bytes[it.Segment] += int64(it.Size)
			records[it.Segment]++
		}
		for id, seg := range s.liveSegments() {
			if seg.liveBytes.Load() != bytes[id] || seg.liveRecords.Load() != records[id] {
				t.Fatalf("%s: segment %d counts %d live records of %d bytes, has %d of %d", when, id,
					seg.liveRecords.Load(), seg.liveBytes.Load(), records[id], bytes[id])
			}
		}
	}
	for n := range 30 {
		must(t, h.do(s, randomChange(rng, n)...))
		check("after a write")
		if n%7 == 0 {
			must(t, s.buildHints(s.ctx))
			must(t, mergeSome(s, rng))
			check("after a merge")
		}
		if n%11 == 0 {
			must(t, s.Close())
			s = mustOpen(t, fs, tinyOptions(fs))
			check("after reopening")
		}
	}
	must(t, s.Close())
}

func TestMergeNeverTakesTheActiveSegment(t *testing.T) {
	fs := vfs.NewMem()
	s, _ := mixedStore(t, fs)
	must(t, s.Put([]byte("k"), []byte("1")))
	must(t, s.Put([]byte("k"), []byte("2")))
	active := s.liveSegments()[s.activeID()]
	if slices.Contains(s.pickMerge(), active) || slices.Contains(s.mergeables(), active) {
		t.Fatal("a merge would take the active segment")
	}
	for _, group := range s.mergePlan() {
		if slices.Contains(group, active) {
			t.Fatal("a merge of all would take the active segment")
		}
	}
	must(t, s.Close())
}

// TestMergeNeverTakesASegmentThatIsJustBeginning: while segments are sealed one after the other, what may be merged is never the
// one that takes the writes.
func TestMergeNeverTakesASegmentThatIsJustBeginning(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.Durability = Never
	s := mustOpen(t, fs, o)
	stop := make(chan struct{})
	written := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				written <- nil
				return
			default:
			}
			if err := s.Put([]byte("k"), make([]byte, 1500)); err != nil {
				written <- err
				return
			}
		}
	}()
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		list, active := s.mergeables(), s.activeID()
		for _, seg := range list {
			if seg.id == active {
				t.Fatal("a merge would take the active segment")
			}
		}
		if len(list) > 100 {
			must(t, s.mergeSegments(t.Context(), list))
		}
	}
	close(stop)
	must(t, <-written)
	must(t, s.Close())
}

// TestSegmentThatCannotShrinkIsNotPicked: background merges of a store at rest come to an end.
func TestSegmentThatCannotShrinkIsNotPicked(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.Merge.FragmentationTrigger, o.Merge.FragmentationThreshold = 1, 1
	o.Scrub.Disabled = true // it waits for the store's own context, which is replaced below
	s := mustOpen(t, fs, o)
	for n := range 60 {
		must(t, s.Put(fmt.Append(nil, "k", n%20), bytes.Repeat([]byte("x"), 100)))
		if n%3 == 0 {
			must(t, s.Delete(fmt.Append(nil, "k", n%7)))
		}
	}
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		s.ctx = ctx // ends an endless maintenance
		must(t, s.maintainOnce())
		if ctx.Err() != nil {
			t.Fatal("background merges go on and on")
		}
		cancel()
		merges := s.Stats().Merges
		s.ctx = t.Context()
		must(t, s.maintainOnce())
		if again := s.Stats().Merges; again != merges {
			t.Fatalf("%d more merges of a store at rest", again-merges)
		}
		must(t, s.Close())
		s = mustOpen(t, fs, o)
	}
	must(t, s.Close())
}
