package bitcask

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// quiet is for tests that provoke warnings by the thousand.
var quiet = slog.New(slog.DiscardHandler)

// tinyOptions open with one worker, so that a seed gives the same order of operations each time.
func tinyOptions(fs vfs.FS) *Options {
	return &Options{FS: fs, OpenWorkers: 1, SegmentBytes: 2048, Logger: quiet, Merge: MergePolicy{Disabled: true, BytesPerSecond: 1 << 40}}
}

// history is what a store was told and what it acknowledged, for one writer.
type history struct {
	acked    map[string]string
	inflight []change // one operation: all of it or nothing
	// unsynced are the states before acked that a crash may fall back to, in a store
	// that does not sync every write.
	unsynced   []map[string]string
	durability Durability
	doing      string // what the store was about when power went
}

type change struct {
	clear  bool
	key    string
	value  string
	delete bool
}

func (h *history) after() map[string]string {
	m := maps.Clone(h.acked)
	for _, c := range h.inflight {
		switch {
		case c.clear:
			clear(m)
		case c.delete:
			delete(m, c.key)
		default:
			m[c.key] = c.value
		}
	}
	return m
}

func (h *history) clone() history {
	return history{maps.Clone(h.acked), h.inflight, slices.Clone(h.unsynced), h.durability, h.doing}
}

// allows tells whether a crash may leave these contents.
func (h *history) allows(got map[string]string) bool {
	return maps.Equal(got, h.acked) || maps.Equal(got, h.after()) ||
		slices.ContainsFunc(h.unsynced, func(m map[string]string) bool { return maps.Equal(got, m) })
}

// do carries one operation out and notes it.
func (h *history) do(s *Store, changes ...change) error {
	var b Batch
	for _, c := range changes {
		switch {
		case c.clear:
			b.Clear()
		case c.delete:
			if err := b.Delete([]byte(c.key)); err != nil {
				return err
			}
		default:
			if err := b.Put([]byte(c.key), []byte(c.value), 0); err != nil {
				return err
			}
		}
	}
	h.inflight = changes
	write := func() error { return s.Write(&b) }
	if c := changes[0]; len(changes) == 1 && !c.clear && len(c.value)%3 != 0 { // every way that one record can be written
		switch {
		case c.delete:
			write = func() error { return s.Delete([]byte(c.key)) }
		case len(c.value)%3 == 1:
			write = func() error { return s.Put([]byte(c.key), []byte(c.value)) }
		default:
			write = func() error { return s.PutFrom([]byte(c.key), strings.NewReader(c.value), int64(len(c.value)), 0) }
		}
	}
	if err := write(); err != nil {
		return err
	}
	if h.durability = s.opts.Durability; h.durability != Always {
		h.unsynced = append(h.unsynced, h.acked)
	}
	h.acked, h.inflight = h.after(), nil
	return nil
}

// contents reads a whole store twice, by Scan and by Get.
func contents(t *testing.T, s *Store) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := s.Scan(nil, func(key, value []byte) error {
		m[string(key)] = string(value)
		return nil
	})
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	for k, v := range m {
		if got, err := s.Get([]byte(k)); err != nil || string(got) != v {
			t.Fatalf("Get(%q) = %q, %v; Scan gave %q", k, got, err, v)
		}
	}
	if s.Len() != len(m) {
		t.Fatalf("Len is %d, Scan gave %d keys", s.Len(), len(m))
	}
	return m
}

// verifyCrash opens what a crash left, and checks it against the history: every
// acknowledged operation is there, the one in flight is there whole or not at
// all. Then it goes on working: merge, write, close, open.
func verifyCrash(t *testing.T, fs *vfs.Mem, h history) {
	t.Helper()
	o := tinyOptions(fs)
	o.Durability, o.SyncInterval = h.durability, 1<<62
	s, err := Open("db", o)
	if err != nil {
		t.Fatalf("open after the crash: %v", err)
	}
	got := contents(t, s)
	if !h.allows(got) {
		t.Fatalf("after the crash in %s the store holds\n%v\nacknowledged is\n%v\nin flight was\n%v", h.doing, got, h.acked, h.inflight)
	}
	if err := s.Merge(context.Background()); err != nil {
		t.Fatalf("merge after the crash: %v", err)
	}
	if err := s.Put([]byte("after"), []byte("crash")); err != nil {
		t.Fatalf("write after the crash: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("close after the crash: %v", err)
	}
	if s, err = Open("db", o); err != nil {
		t.Fatalf("open again: %v", err)
	}
	got["after"] = "crash"
	if again := contents(t, s); !maps.Equal(got, again) {
		t.Fatalf("after merge and reopen the store holds\n%v\nbefore it held\n%v", again, got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// randomChange makes one operation over a few keys.
func randomChange(rng *rand.Rand, n int) []change {
	key := func() string { return "k" + strconv.Itoa(rng.IntN(12)) }
	one := func() change {
		if rng.IntN(4) == 0 {
			return change{key: key(), delete: true}
		}
		return change{key: key(), value: fmt.Sprintf("v%d-%s", n, bytes.Repeat([]byte("x"), rng.IntN(200)))}
	}
	switch rng.IntN(20) {
	case 0:
		return []change{{clear: true}, one()}
	case 1, 2, 3:
		return []change{one(), one(), one()}
	}
	return []change{one()}
}

// crashRun drives a store over a crashable disk and calls crashed before every
// chosen file operation with a clone of the disk and the history up to there. A write through a map is no file
// operation: with mapped files power is lost between the steps too.
func crashRun(t *testing.T, rng *rand.Rand, mapped bool, options func(vfs.FS) *Options, steps int, choose func(vfs.Op) bool, crashed func(*vfs.Mem, history)) {
	t.Helper()
	disk := vfs.NewMem()
	disk.SetMapping(mapped)
	h := &history{acked: map[string]string{}, doing: "opening"}
	watching, self := true, goroutine()
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		// The history and the lot are this goroutine's. Others only read, and let go of files.
		if watching && goroutine() == self && choose(op) {
			at := h.clone()
			if at.doing == "a write" && op.Kind != vfs.OpWrite && op.Kind != vfs.OpSync && op.Kind != vfs.OpPreallocate {
				at.doing = "a rotation"
			}
			crashed(disk.CrashClone(rng), at)
		}
		return nil
	})
	opts := options(fs)
	s, err := Open("db", opts)
	if err != nil {
		t.Fatal(err)
	}
	for n := range steps {
		switch r := rng.IntN(100); {
		case r < 3:
			h.doing = "a merge of all"
			err = s.Merge(context.Background())
		case r < 5:
			h.doing = "a merge of some"
			err = mergeSome(s, rng)
		case r < 8:
			h.doing = "a checkpoint"
			err = saveCheckpoint(s, n)
		case r < 10:
			h.doing = "an adoption"
			err = adoptCopy(s, n)
		case r < 12:
			h.doing = "a sync"
			if err = s.Sync(); err == nil {
				h.unsynced = nil
			}
		case r < 14:
			h.doing = "a reopening"
			if err = s.Close(); err == nil {
				h.unsynced = nil
				s, err = Open("db", opts)
			}
		default:
			h.doing = "a write"
			err = h.do(s, randomChange(rng, n)...)
		}
		if err != nil {
			t.Fatalf("step %d, %s: %v", n, h.doing, err)
		}
		if mapped && rng.IntN(4) == 0 {
			crashed(disk.CrashClone(rng), h.clone())
		}
	}
	if got := contents(t, s); !maps.Equal(got, h.acked) {
		t.Fatalf("the store holds\n%v\nshould hold\n%v", got, h.acked)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	crashed(disk.CrashClone(rng), h.clone())
	watching = false
}

// goroutine names the running one.
func goroutine() string {
	var b [64]byte
	name, _, _ := strings.Cut(string(b[:runtime.Stack(b[:], false)]), "[") // "goroutine 7 [running]"
	return name
}

// mergeSome merges a random few of the sealed segments: older copies of their keys
// stay outside.
func mergeSome(s *Store, rng *rand.Rand) error {
	if rng.IntN(2) == 0 { // a merge in haste does without
		if err := s.buildHints(s.ctx); err != nil {
			return err
		}
	}
	var inputs []*segment
	for _, seg := range s.mergeables() {
		if rng.IntN(2) == 0 {
			inputs = append(inputs, seg)
		}
	}
	return s.mergeSegments(context.Background(), inputs)
}

func saveCheckpoint(s *Store, n int) error {
	c, err := s.Checkpoint()
	if err != nil {
		return err
	}
	defer c.Release()
	return c.Save(strconv.Itoa(n), nil)
}

// adoptCopy sends the store's own state through a stream and adopts it.
func adoptCopy(s *Store, n int) error {
	c, err := s.Checkpoint()
	if err != nil {
		return err
	}
	st, err := c.Stream()
	if err != nil {
		return err
	}
	in, err := s.Receive()
	if err != nil {
		return err
	}
	written, err := copyAll(in, st)
	if err != nil {
		return err
	}
	if written != st.Size() {
		return fmt.Errorf("the stream had %d bytes, promised %d", written, st.Size())
	}
	if err := errors.Join(st.Close(), in.Verify()); err != nil {
		return err
	}
	return s.Adopt(in, strconv.Itoa(n), nil)
}

func seed(t testing.TB) int64 {
	s := time.Now().UnixNano()
	if v := os.Getenv("RAFTCASK_SEED"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			t.Fatalf("RAFTCASK_SEED: %v", err)
		}
		s = n
	}
	t.Logf("seed: RAFTCASK_SEED=%d", s)
	return s
}

// TestCrashAtEveryFileOperation loses power before each file operation of a run of
// appends, rotations, merges, checkpoints and adoptions.
func TestCrashAtEveryFileOperation(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	clones := 0
	crashRun(t, rng, false, tinyOptions, 70, func(op vfs.Op) bool { return op.Kind != vfs.OpRead && op.Kind != vfs.OpSize }, func(fs *vfs.Mem, h history) {
		clones++
		verifyCrash(t, fs, h)
	})
	t.Logf("%d crashes", clones)
}
