package bitcask

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
)

func onLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" || strconv.IntSize < 64 {
		t.Skip("segments are mapped on 64-bit Linux only")
	}
}

func openOnDisk(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	db, err := Open(dir, &o)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// A page that the disk cannot give is an error of the one read, never the end of the process.
func TestUnreadablePageUnderMapIsAnError(t *testing.T) {
	onLinux(t)
	db := openOnDisk(t, t.TempDir(), Options{Durability: Never, Merge: MergePolicy{Disabled: true}})
	t.Cleanup(func() { _ = db.Close() })
	for _, key := range []string{"near", "far"} {
		if err := db.Put([]byte(key), bytes.Repeat([]byte(key), 64<<10)); err != nil {
			t.Fatal(err)
		}
	}
	seg := db.appender.active
	if seg.mapped() == nil {
		t.Fatal("the active segment is not mapped")
	}
	// The end of a file that somebody cut faults as a bad sector does.
	if err := os.Truncate(seg.name, 4096); err != nil {
		t.Fatal(err)
	}
	_, err := db.Get([]byte("far"))
	if !errors.Is(err, errFault) || errors.Is(err, ErrNotFound) {
		t.Fatalf("read of a lost page: %v", err)
	}
	db.appender.allocated = 1 << 40 // a write there faults too
	if err := db.Put([]byte("new"), []byte("value")); !errors.Is(err, errFault) {
		t.Fatalf("write to a lost page: %v", err)
	}
	if _, err := db.Get([]byte("new")); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a failed write is visible: %v", err)
	}
}

func TestDamagedRecordUnderMapIsCorrupt(t *testing.T) {
	onLinux(t)
	db := openOnDisk(t, t.TempDir(), Options{Durability: Never, Merge: MergePolicy{Disabled: true}})
	t.Cleanup(func() { _ = db.Close() })
	key, want := []byte("key"), []byte("value")
	if err := db.Put(key, want); err != nil {
		t.Fatal(err)
	}
	it, _ := db.visible.keys.Get(key)
	file, err := os.OpenFile(db.appender.active.name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for i := range int64(it.Size) {
		var b [1]byte
		at := int64(it.Offset) + i
		if _, err := file.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		for bit := range 8 {
			if _, err := file.WriteAt([]byte{b[0] ^ 1<<bit}, at); err != nil {
				t.Fatal(err)
			}
			buf := []byte("before")
			got, err := db.GetInto(key, buf)
			if !errors.Is(err, ErrCorrupt) || !bytes.Equal(got, buf) {
				t.Fatalf("byte %d bit %d turned over: got %q, %v", i, bit, got, err)
			}
		}
		if _, err := file.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := db.Get(key); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("restored: %q, %v", got, err)
	}
}

func TestGetIntoAllocatesNothing(t *testing.T) {
	onLinux(t)
	db := openOnDisk(t, t.TempDir(), Options{Durability: Never})
	t.Cleanup(func() { _ = db.Close() })
	key := []byte("key")
	if err := db.Put(key, make([]byte, 256)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(1000, func() { buf, _ = db.GetInto(key, buf[:0]) }); n != 0 {
		t.Errorf("GetInto: %v allocations", n)
	}
	if len(buf) != 256 {
		t.Errorf("GetInto gave %d bytes", len(buf))
	}
	var value []byte
	if n := testing.AllocsPerRun(1000, func() { value, _ = db.Get(key) }); n != 1 || cap(value) != 256 {
		t.Errorf("Get: %v allocations, the value has capacity %d", n, cap(value))
	}
}

// An unsynced write is in the page cache when Put returns, not in the process.
func TestKilledProcessKeepsUnsyncedWrites(t *testing.T) {
	const keys = 2000
	opts := Options{Durability: Never, SegmentBytes: 64 << 10, Merge: MergePolicy{Disabled: true}}
	if dir := os.Getenv("RAFTCASK_KILL_DIR"); dir != "" {
		db := openOnDisk(t, dir, opts)
		for i := range keys {
			key := []byte(fmt.Sprintf("key-%d", i))
			err := db.PutWithTTL(key, append([]byte("value of "), key...), time.Hour)
			if err == nil && i%3 == 0 {
				err = db.Delete(key)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKilledProcessKeepsUnsyncedWrites$")
	cmd.Env = append(os.Environ(), "RAFTCASK_KILL_DIR="+dir)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the writer ended by itself: %v\n%s", err, out)
	}
	db := openOnDisk(t, dir, opts)
	t.Cleanup(func() { _ = db.Close() })
	for i := range keys {
		key := []byte(fmt.Sprintf("key-%d", i))
		got, err := db.Get(key)
		if i%3 == 0 {
			if !errors.Is(err, ErrNotFound) {
				t.Fatalf("%s was deleted: %q, %v", key, got, err)
			}
		} else if err != nil || string(got) != "value of "+string(key) {
			t.Fatalf("%s: %q, %v", key, got, err)
		}
	}
}

// Direct writes, batches, merges and openings in any order give what a map gives, on real files.
func TestUnsyncedStoreAgreesWithAMap(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("RAFTCASK_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("RAFTCASK_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	dir, model := t.TempDir(), map[string]string{}
	opts := Options{Durability: Interval, SyncInterval: time.Millisecond, SegmentBytes: 400 + r.Int64N(32<<10), Merge: MergePolicy{Disabled: true}}
	db := openOnDisk(t, dir, opts)
	t.Cleanup(func() { _ = db.Close() })
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 4000 {
		key := fmt.Sprintf("k%d", r.IntN(200))
		value := fmt.Sprintf("%*d", r.IntN(600), r.Uint64())
		switch n := r.IntN(1000); {
		case n < 600:
			check(db.Put([]byte(key), []byte(value)))
			model[key] = value
		case n < 800:
			check(db.Delete([]byte(key)))
			delete(model, key)
		case n < 990:
			var b Batch
			check(b.Put([]byte(key), []byte(value), 0))
			check(b.Delete([]byte("k0")))
			check(db.Write(&b))
			model[key] = value
			delete(model, "k0")
		case n < 995:
			check(db.Merge(t.Context()))
		default:
			check(db.Close())
			db = openOnDisk(t, dir, opts)
		}
		probe := fmt.Sprintf("k%d", r.IntN(200))
		got, err := db.Get([]byte(probe))
		want, ok := model[probe]
		if ok && (err != nil || string(got) != want) || !ok && !errors.Is(err, ErrNotFound) {
			t.Fatalf("%s: got %q, %v; want %q, %v", probe, got, err, want, ok)
		}
	}
	if db.Len() != len(model) {
		t.Fatalf("%d keys, want %d", db.Len(), len(model))
	}
}
