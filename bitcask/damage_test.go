package bitcask

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// smallStore writes a few segments with hints, and closes cleanly.
func smallStore(t *testing.T) (*vfs.Mem, map[string]string) {
	t.Helper()
	fs := vfs.NewMem()
	h := &history{acked: map[string]string{}}
	s := mustOpen(t, fs, tinyOptions(fs))
	rng := rand.New(rand.NewPCG(7, 7))
	for n := range 60 {
		must(t, h.do(s, randomChange(rng, n)...))
		if n == 30 {
			must(t, s.Merge(t.Context()))
		}
	}
	must(t, s.buildHints(s.ctx))
	must(t, s.Close())
	return fs, h.acked
}

// TestOpenTellsWhatItCutsOff: what a kill left of a write is cut off, and its place and size are logged; room that was
// never written to is not.
func TestOpenTellsWhatItCutsOff(t *testing.T) {
	fs := vfs.NewMem()
	var log bytes.Buffer
	options := func(fs vfs.FS) *Options {
		o := tinyOptions(fs)
		o.SegmentBytes, o.Logger = 4<<20, slog.New(slog.NewTextHandler(&log, nil))
		return o
	}
	s := mustOpen(t, fs, options(fs))
	must(t, s.Put([]byte("whole"), []byte("v")))
	whole := s.appender.active.size.Load()
	must(t, s.Put([]byte("torn"), []byte(strings.Repeat("x", 2000)))) // its frame needs no padding
	torn := s.appender.active.size.Load()
	killed := fs.KillClone()
	must(t, s.Close())
	untorn := killed.KillClone()
	must(t, mustOpen(t, untorn, options(untorn)).Close())
	if log.Len() > 0 {
		t.Errorf("nothing was torn, and the log says %s", &log)
	}
	name := segmentName("db", 1)
	flip(t, killed, name, whole+frameHeaderBytes+50)
	s = mustOpen(t, killed, options(killed))
	if s.Len() != 1 {
		t.Fatalf("%d keys are left, should be 1", s.Len())
	}
	must(t, s.Close())
	if want := fmt.Sprintf("file=%s offset=%d bytes=%d\n", name, whole, torn-whole); !strings.Contains(log.String(), want) {
		t.Errorf("the log says %q, should say %q", &log, want)
	}
}

func flip(t *testing.T, fs vfs.FS, name string, at int64) {
	t.Helper()
	must(t, flipByte(fs, name, at))
}

func flipByte(fs vfs.FS, name string, at int64) error {
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	b[0] ^= 1 << (at % 8)
	if err == nil {
		_, err = f.WriteAt(b, at)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// everyFrameStore is small, and has every kind of frame and of record: data with puts, deletes,
// an expiry and a clear, an entry that is void, opaque kinds, an extension, merged records
// with tombstones, a checkpoint, hints.
func everyFrameStore(t *testing.T) (*vfs.Mem, map[string]string) {
	t.Helper()
	fs := vfs.NewMem()
	s := mustOpen(t, fs, flipOptions(fs))
	index := uint64(0)
	add := func(kind Kind, ext string, fill func(b *Batch)) {
		var b Batch
		b.Reset(1, int64(index))
		fill(&b)
		index++
		e := Entry{Index: index, Term: 1, Kind: kind, Ext: []byte(ext)}
		if kind == KindData {
			e.Data = b.Detach()
		} else {
			e.Data = []byte("opaque")
		}
		must(t, s.Append([]Entry{e}))
		must(t, s.Commit(index))
	}
	put := func(key string) func(b *Batch) {
		return func(b *Batch) { must(t, b.Put([]byte(key), []byte("value of "+key), 0)) }
	}
	add(KindData, "", put("before"))
	add(KindData, "", func(b *Batch) { b.Clear(); put("a")(b); put("b")(b) })
	add(KindData, "", func(b *Batch) { must(t, b.Delete([]byte("a"))) })
	seal(t, s)
	add(KindData, "", func(b *Batch) { must(t, b.Put([]byte("expires"), []byte("late"), 1<<50)) })
	add(KindData, "", func(b *Batch) { put("b")(b); must(t, b.Delete([]byte("c"))) })
	add(KindData, "", put("d"))
	merge := seal(t, s)
	s.ForgetBefore(index + 1)
	must(t, s.mergeSegments(t.Context(), []*segment{merge}))
	add(5, "ext", func(*Batch) {})
	add(KindData, "ext", put("e"))
	seal(t, s)
	must(t, saveCheckpoint(s, 1))
	index++
	must(t, s.Append([]Entry{dataEntry(index, 1, 9, "void", "void")}))
	must(t, s.Commit(index))
	add(KindData, "", put("f"))
	want := contents(t, s)
	must(t, s.Close())
	return fs, want
}

func flipOptions(fs vfs.FS) *Options {
	o := replicatedOptions(fs)
	o.SegmentBytes = 16 << 10
	o.Merge.ReserveBytes = -1
	return o
}

// TestEveryFlippedByteIsNoticed flips each byte of a small, cleanly closed store:
// either Open or a read says corrupt, or the contents are right (a hint was rebuilt).
// No wrong value, no missing key, no panic.
func TestEveryFlippedByteIsNoticed(t *testing.T) {
	original, want := everyFrameStore(t)
	names, err := original.List("db")
	must(t, err)
	var noticed, harmless atomic.Int64
	for _, name := range names {
		if name == lockName {
			continue
		}
		path := filepath.Join("db", name)
		size, err := fileSize(original, path)
		must(t, err)
		var flips sync.WaitGroup
		for first := range int64(2) { // as many as CI has cores
			flips.Go(func() {
				for at := first; at < size && !t.Failed(); at += 2 {
					if what, err := flipOne(original, path, at, want); err != nil {
						t.Errorf("%s, byte %d: %v", name, at, err)
					} else if what {
						noticed.Add(1)
					} else {
						harmless.Add(1)
					}
				}
			})
		}
		flips.Wait()
		t.Logf("%s: %d bytes", name, size)
	}
	t.Logf("%d flips noticed, %d without effect (hints made again, dead records)", noticed.Load(), harmless.Load())
	if noticed.Load() == 0 || harmless.Load() == 0 {
		t.Error("all flips ended in the same way: the test looks at nothing")
	}
}

// flipOne opens and reads the store with one byte flipped. The error says what went wrong unnoticed.
func flipOne(original *vfs.Mem, path string, at int64, want map[string]string) (noticed bool, err error) {
	fs := original.KillClone()
	if err := flipByte(fs, path, at); err != nil {
		return false, err
	}
	s, err := Open("db", flipOptions(fs))
	if errors.Is(err, ErrCorrupt) && strings.Contains(err.Error(), path) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("Open says %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	got, err := readAll(s, want)
	for i := s.FirstIndex(); err == nil && i != 0 && i <= s.LastIndex(); i++ {
		_, err = s.Entry(i)
	}
	switch {
	case errors.Is(err, ErrCorrupt):
		return true, nil
	case err == nil && !maps.Equal(got, want):
		err = fmt.Errorf("the store holds %v, should hold %v", got, want)
	}
	return false, err
}

func readAll(s *Store, want map[string]string) (map[string]string, error) {
	got := map[string]string{}
	for key := range want {
		v, err := s.Get([]byte(key))
		if err != nil {
			return nil, err
		}
		got[key] = string(v)
	}
	err := s.Scan(nil, func(key, value []byte) error {
		got[string(key)] = string(value)
		return nil
	})
	return got, err
}

// TestTornTailKeepsPrefix cuts the newest segment of a killed store at every length:
// what remains is a prefix of the writes, and it takes new ones.
func TestTornTailKeepsPrefix(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.SegmentBytes = 16 << 10
	o.Durability = Never // so that nothing promises to be synced
	s := mustOpen(t, fs, o)
	ends := []int64{segmentHeaderBytes}
	for i := range 9 {
		must(t, s.Put([]byte{byte(i)}, bytes.Repeat([]byte{byte(i)}, i*i)))
		ends = append(ends, s.appender.active.size.Load())
	}
	killed := fs.KillClone()
	must(t, s.Close())
	for cut := int64(segmentHeaderBytes); cut <= ends[len(ends)-1]; cut++ {
		clone := killed.KillClone()
		f, err := clone.Open(segmentName("db", 1))
		must(t, err)
		must(t, f.Truncate(cut))
		must(t, f.Close())
		o := *o
		o.FS = clone
		s := mustOpen(t, clone, &o)
		whole := 0
		for whole+1 < len(ends) && ends[whole+1] <= cut {
			whole++
		}
		if s.Len() != whole {
			t.Fatalf("cut at %d: %d keys, should be %d", cut, s.Len(), whole)
		}
		must(t, s.Put([]byte("next"), []byte("write")))
		must(t, s.Close())
	}
}

// TestDamageBeforeAPromiseIsNotATornTail: the newest segment of a killed store is
// damaged in a frame that a later one says was synced.
func TestDamageBeforeAPromiseIsNotATornTail(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	for i := range 5 {
		must(t, s.Put([]byte{byte(i)}, []byte("value")))
	}
	last := s.appender.active.size.Load()
	killed := fs.KillClone()
	must(t, s.Close())
	for at := int64(segmentHeaderBytes); at < last; at++ {
		clone := killed.KillClone()
		flip(t, clone, segmentName("db", 1), at)
		s, err := Open("db", tinyOptions(clone))
		var damage *CorruptError
		switch {
		case errors.As(err, &damage):
			if damage.Offset > at {
				t.Fatalf("byte %d was flipped, the error names offset %d", at, damage.Offset)
			}
		case err != nil:
			t.Fatal(err)
		default:
			// Only the last write, which nothing came after, may look torn.
			if s.Len() != 4 || at < last-(last-segmentHeaderBytes)/5 {
				t.Fatalf("byte %d of %d: %d keys are left and nothing was said", at, last, s.Len())
			}
			must(t, s.Close())
		}
	}
}

func TestMissingFileIsCorruptNotEmpty(t *testing.T) {
	for _, victim := range []string{manifestName, "00000001.seg"} {
		fs := vfs.NewMem()
		s := mustOpen(t, fs, tinyOptions(fs))
		must(t, s.Put([]byte("a"), []byte("b")))
		must(t, s.Close())
		must(t, fs.Remove(filepath.Join("db", victim)))
		if _, err := Open("db", tinyOptions(fs)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("without %s Open says %v", victim, err)
		}
	}
}
