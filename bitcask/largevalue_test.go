package bitcask

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// pattern is a value that need not be in memory: byte i is a hash of i.
type pattern struct{ at, size int64 }

func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.size {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.size-p.at)]
	for i := range b {
		b[i] = byte((p.at + int64(i)) * 0x9e3779b1 >> 16)
	}
	p.at += int64(len(b))
	return len(b), nil
}

// Write compares.
func (p *pattern) Write(b []byte) (int, error) {
	want := make([]byte, len(b))
	if _, err := io.ReadFull(p, want); err != nil || !bytes.Equal(b, want) {
		return 0, fmt.Errorf("at %d the value is another: %w", p.at, err)
	}
	return len(b), nil
}

// allocated is how much memory fn took from the heap in all.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestLargeValueIsNotHeldTwice: 64 MiB go in with one copy in memory and come out with none, before and after a merge.
func TestLargeValueIsNotHeldTwice(t *testing.T) {
	const size = 64 << 20
	for _, durability := range []Durability{Always, Never} {
		s := openOnDisk(t, t.TempDir(), Options{Durability: durability, MaxValueBytes: size, Merge: MergePolicy{Disabled: true, BytesPerSecond: 1 << 40}})
		key := []byte("large")
		took := allocated(func() { must(t, s.PutFrom(key, &pattern{size: size}, size, 0)) })
		if took > size+4*mib {
			t.Errorf("%s: a put of %d bytes allocated %d", durability, size, took)
		}
		for range 2 {
			took = allocated(func() {
				r, err := s.GetReader(key)
				must(t, err)
				if n, err := io.Copy(&pattern{size: size}, r); err != nil || n != size || r.Size() != size {
					t.Errorf("%s: %d of %d bytes came back, %v", durability, n, r.Size(), err)
				}
				must(t, r.Close())
			})
			if took > 2*size/100+size { // the test's own comparison copies the value once
				t.Errorf("%s: a get of %d bytes allocated %d", durability, size, took-size)
			}
			must(t, s.Put([]byte("a reason"), nil))
			must(t, s.Delete([]byte("a reason")))
			must(t, s.Merge(t.Context()))
		}
		must(t, s.Close())
	}
}

func TestPutFromRefusesBeforeAnythingIsWritten(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, &Options{FS: fs, Logger: quiet, Merge: MergePolicy{Disabled: true}})
	for _, c := range []struct {
		what string
		key  string
		from io.Reader
		size int64
		ttl  time.Duration
		want error
	}{
		{"above the default limit", "k", &pattern{size: 9 << 20}, 8<<20 + 1, 0, ErrTooLarge},
		{"negative size", "k", strings.NewReader("v"), -1, 0, ErrTooLarge},
		{"empty key", "", strings.NewReader("v"), 1, 0, ErrEmptyKey},
		{"long key", string(make([]byte, MaxKeyBytes+1)), strings.NewReader("v"), 1, 0, ErrTooLarge},
		{"the reader ends early", "k", strings.NewReader("short"), 6, 0, io.ErrUnexpectedEOF},
		{"the reader is empty", "k", strings.NewReader(""), 1, 0, io.ErrUnexpectedEOF},
		{"the reader fails", "k", iotest.ErrReader(syscall.EIO), 1, 0, syscall.EIO},
		{"negative time to live", "k", strings.NewReader("v"), 1, -time.Second, nil},
	} {
		before := s.appender.active.size.Load()
		err := s.PutFrom([]byte(c.key), c.from, c.size, c.ttl)
		if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v", c.what, err)
		}
		if s.Len() != 0 || s.appender.active.size.Load() != before {
			t.Errorf("%s: something was written", c.what)
		}
	}
	must(t, s.PutFrom([]byte("empty"), strings.NewReader("rest"), 0, time.Hour))
	must(t, s.PutFrom(make([]byte, MaxKeyBytes), iotest.OneByteReader(&pattern{size: 8 << 20}), 8<<20, 0))
	r, err := s.GetReader([]byte("empty"))
	must(t, err)
	if b, err := io.ReadAll(r); err != nil || len(b) != 0 || r.Item().ExpireAt == 0 {
		t.Errorf("an empty value came back as %q, %v, %+v", b, err, r.Item())
	}
	must(t, r.Close())
	must(t, s.Close())
	if err := s.PutFrom([]byte("k"), strings.NewReader("v"), 1, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := s.GetReader([]byte("k")); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestValueReaderKeepsItsValue: what was opened is read to the end, though the key is overwritten, its file merged away, the
// store closed.
func TestValueReaderKeepsItsValue(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.PutFrom([]byte("k"), &pattern{size: 5000}, 5000, 0))
	r, err := s.GetReader([]byte("k"))
	must(t, err)
	half := make([]byte, 2500)
	_, err = io.ReadFull(r, half)
	must(t, err)
	name := r.seg.name
	must(t, s.Put([]byte("k"), []byte("new")))
	must(t, s.Merge(t.Context()))
	if _, err := s.GetReader([]byte("none")); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a missing key: %v", err)
	}
	must(t, s.Close())
	rest, err := io.ReadAll(r)
	must(t, err)
	if _, err := (&pattern{size: 5000}).Write(slices.Concat(half, rest)); err != nil {
		t.Fatal(err)
	}
	must(t, r.Close())
	must(t, r.Close())
	if _, err := fileSize(fs, name); err == nil {
		t.Error("the file of a value that nobody reads any more is still there")
	}
	if _, err := r.Read(half); !errors.Is(err, ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
}

// TestValueReaderGivesNoWrongByteUnnoticed turns a bit of each byte of a record: before the value is opened nothing of it is
// given out, and afterwards the reader does not end as if all were well.
func TestValueReaderGivesNoWrongByteUnnoticed(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	key := []byte("key")
	must(t, s.PutFrom(key, strings.NewReader("a value"), 7, time.Hour))
	it, _ := s.visible.keys.Get(key)
	name := s.appender.active.name
	for at := range int64(it.Size) {
		r, err := s.GetReader(key)
		must(t, err)
		flip(t, fs, name, int64(it.Offset)+at)
		if got, err := io.ReadAll(r); string(got) != "a value" && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d was turned under the reader: %q, %v", at, got, err)
		}
		must(t, r.Close())
		if _, err := s.GetReader(key); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d was turned: %v", at, err)
		}
		flip(t, fs, name, int64(it.Offset)+at)
	}
	must(t, s.Close())
}

// TestReadErrorOfAValueReaderIsNeverItsEnd fails each read of a value in turn.
func TestReadErrorOfAValueReaderIsNeverItsEnd(t *testing.T) {
	reads, fail := 0, 0
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpRead {
			if reads++; reads == fail {
				return &vfs.Fault{Err: syscall.EIO, PartialBytes: rand.IntN(100)}
			}
		}
		return nil
	})
	s := mustOpen(t, fs, &Options{FS: fs, Logger: quiet, Merge: MergePolicy{Disabled: true}})
	const size = 600 << 10
	must(t, s.PutFrom([]byte("k"), &pattern{size: size}, size, 0))
	for nth := 1; ; nth++ {
		reads, fail = 0, nth
		var n int64
		r, err := s.GetReader([]byte("k"))
		if err == nil {
			n, err = r.WriteTo(&pattern{size: size})
			must(t, r.Close())
		}
		if reads < nth {
			must(t, err)
			if n != size || nth < 5 {
				t.Fatalf("%d bytes with %d reads", n, reads)
			}
			break
		}
		if !errors.Is(err, syscall.EIO) || errors.Is(err, ErrNotFound) {
			t.Fatalf("read %d of the value failed: %v", nth, err)
		}
	}
	must(t, s.Close())
}
