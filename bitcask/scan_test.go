package bitcask

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// scanStore holds 2,000 keys in many segments, with deletes, overwrites and values of all sizes, and the map of them.
func scanStore(t *testing.T, fs vfs.FS) (*Store, map[string]string) {
	t.Helper()
	o := tinyOptions(fs)
	o.SegmentBytes = 32 << 10
	o.Durability = Never
	s := mustOpen(t, fs, o)
	want := map[string]string{}
	for n := range 5000 {
		key := fmt.Sprintf("%c%d", 'a'+n%3, n%2000)
		value := strings.Repeat(fmt.Sprint(n, " "), n%60)
		if n%500 == 7 {
			value = strings.Repeat("large", 20_000) // longer than a read, and than a segment
		}
		must(t, s.Put([]byte(key), []byte(value)))
		want[key] = value
		if n%11 == 0 {
			must(t, s.Delete([]byte(key)))
			delete(want, key)
		}
	}
	return s, want
}

func folded(t *testing.T, s *Store) map[string]string {
	t.Helper()
	got := map[string]string{}
	must(t, s.Fold(func(key, value []byte, _ int64) error {
		if _, twice := got[string(key)]; twice {
			return fmt.Errorf("%q came twice", key)
		}
		got[string(key)] = string(value)
		return nil
	}))
	return got
}

func TestFoldIsOneMomentWhileAllIsRewritten(t *testing.T) {
	s, want := scanStore(t, vfs.NewMem())
	defer func() { must(t, s.Close()) }()
	got := map[string]string{}
	must(t, s.Fold(func(key, value []byte, _ int64) error {
		if len(got) == 0 { // everything changes, and its files are merged away, under the fold
			for key := range want {
				must(t, s.Put([]byte(key), []byte("new")))
			}
			must(t, s.Put([]byte("another"), []byte("new")))
			must(t, s.Merge(t.Context()))
		}
		got[string(key)] = string(value)
		return nil
	}))
	if !maps.Equal(got, want) {
		t.Errorf("the fold saw %d keys that are not the %d of its beginning", len(got), len(want))
	}
	for key, value := range folded(t, s) {
		if value != "new" {
			t.Fatalf("%s is %.20q after the fold", key, value)
		}
	}
}

// TestWritersPassAFoldThatStands: the writes happen inside fn, so a fold that held writers up would not end.
func TestWritersPassAFoldThatStands(t *testing.T) {
	s, _ := scanStore(t, vfs.NewMem())
	defer func() { must(t, s.Close()) }()
	stop := errors.New("enough")
	done := make(chan error, 1)
	go func() {
		done <- s.Fold(func(_, _ []byte, _ int64) error {
			var b Batch
			b.Clear()
			return errors.Join(s.Put([]byte("x"), []byte("y")), s.Delete([]byte("a0")), s.Write(&b), stop)
		})
	}()
	select {
	case err := <-done:
		if !errors.Is(err, stop) {
			t.Errorf("the fold ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the writes inside a fold do not return")
	}
	if s.Len() != 0 {
		t.Errorf("%d keys after the clear", s.Len())
	}
}

func TestFoldReadsForwards(t *testing.T) {
	disk := vfs.NewMem()
	var reads atomic.Int64
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpRead {
			reads.Add(1)
		}
		return nil
	})
	s, want := scanStore(t, fs)
	defer func() { must(t, s.Close()) }()
	var order []keyPlace
	reads.Store(0)
	must(t, s.Fold(func(key, _ []byte, _ int64) error {
		it, _ := s.visible.keys.Get(key)
		order = append(order, keyPlace{it.Segment, it.Offset})
		return nil
	}))
	if len(order) != len(want) || !slices.IsSortedFunc(order, func(a, b keyPlace) int { return slices.Compare(a[:], b[:]) }) {
		t.Errorf("%d of %d values, not in the order of the disk", len(order), len(want))
	}
	if n := reads.Load(); n > int64(len(want)/4) {
		t.Errorf("%d reads for %d values: they are not read together", n, len(want))
	}
}

type keyPlace [2]uint32

func TestKeysTouchNoFile(t *testing.T) {
	disk := vfs.NewMem()
	var ops atomic.Int64
	fs := vfs.NewFaulty(disk, func(vfs.Op) *vfs.Fault { ops.Add(1); return nil })
	s, want := scanStore(t, fs)
	defer func() { must(t, s.Close()) }()
	must(t, s.Merge(context.Background()))
	var b Batch
	must(t, errors.Join(b.Put([]byte("b expired"), []byte("v"), 1), b.Put([]byte("b stays"), []byte("v"), goldenEnd), s.Write(&b)))
	want["b stays"] = "v"
	ops.Store(0)
	seen := map[string]bool{}
	must(t, s.Keys([]byte("b"), func(key []byte, it Item) error {
		if len(want[string(key)]) != it.ValueLen || (it.ExpireAt != 0) != (string(key) == "b stays") {
			t.Errorf("%s: %+v, its value has %d bytes", key, it, len(want[string(key)]))
		}
		seen[string(key)] = true
		return nil
	}))
	if ops.Load() != 0 {
		t.Errorf("%d operations of the disk", ops.Load())
	}
	for key := range want {
		if strings.HasPrefix(key, "b") != seen[key] {
			t.Errorf("%s: seen %v", key, seen[key])
		}
	}
	stop := errors.New("enough")
	calls := 0
	if err := s.Keys(nil, func([]byte, Item) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("an error of fn: %v after %d calls", err, calls)
	}
}

// TestScanThatPanicsFreezesNothing: who panics in the middle of a scan and recovers leaves no copy of the keydir, no file, and
// nobody waiting.
func TestScanThatPanicsFreezesNothing(t *testing.T) {
	fs := vfs.NewMem()
	s, h := mixedStore(t, fs)
	for _, scan := range []func(){
		func() { _ = s.Scan(nil, func(_, _ []byte) error { panic("die") }) },
		func() { _ = s.Keys(nil, func([]byte, Item) error { panic("die") }) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Fatal("nothing panicked")
				}
			}()
			scan()
		}()
	}
	for n := range 30 {
		must(t, h.do(s, change{key: fmt.Sprint("k", n%9), value: fmt.Sprint(n)}))
	}
	must(t, s.Merge(t.Context()))
	if got := contents(t, s); !maps.Equal(got, h.acked) {
		t.Fatalf("the store holds %v, should hold %v", got, h.acked)
	}
	for id, seg := range s.liveSegments() {
		if refs := seg.refs.Load(); refs != 1 {
			t.Errorf("segment %d is referenced %d times", id, refs)
		}
	}
	must(t, s.Close())
}
