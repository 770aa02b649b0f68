package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// seeded returns a generator whose seed is printed when the test fails.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// both runs a test against the real file system and against memory. dir is an empty directory.
func both(t *testing.T, test func(t *testing.T, fsys FS, dir string)) {
	t.Run("os", func(t *testing.T) { test(t, OS(), t.TempDir()) })
	t.Run("mem", func(t *testing.T) {
		m := NewMem()
		must(t, m.MkdirAll("/tmp/x"))
		test(t, m, "/tmp/x")
	})
	t.Run("faulty", func(t *testing.T) {
		m := NewMem()
		must(t, m.MkdirAll("y"))
		test(t, NewFaulty(m, nil), "y")
	})
}

func TestSecondLockIsRefusedAndNamesTheHolder(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "LOCK")
		first, err := fsys.Lock(name, "pid 1 on host a, store x")
		must(t, err)
		_, err = fsys.Lock(name, "pid 2")
		var locked *LockedError
		if !errors.As(err, &locked) || !errors.Is(err, ErrLocked) {
			t.Fatalf("second lock: %v", err)
		}
		if locked.Holder != "pid 1 on host a, store x" || locked.Name != name {
			t.Fatalf("refused by %+v", locked)
		}
		must(t, first.Close())
		second, err := fsys.Lock(name, "pid 3")
		must(t, err)
		data, err := ReadFile(fsys, name)
		must(t, err)
		if string(data) != "pid 3\n" {
			t.Fatalf("lock file holds %q", data)
		}
		must(t, first.Close()) // again: must not free the second one's lock
		if _, err = fsys.Lock(name, "pid 4"); !errors.Is(err, ErrLocked) {
			t.Fatalf("lock after a double close: %v", err)
		}
		must(t, second.Close())
	})
}

func TestLockedErrorWithoutHolderStillReads(t *testing.T) {
	err := &LockedError{Name: "x/LOCK"}
	if got := err.Error(); got != "lock x/LOCK: taken by an unknown process" {
		t.Fatal(got)
	}
}

func TestPreallocateExtendsWithZerosAndKeepsData(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		f, err := fsys.Create(filepath.Join(dir, "f"))
		must(t, err)
		defer f.Close()
		_, err = f.WriteAt([]byte("hello"), 0)
		must(t, err)
		for _, size := range []int64{10000, 0, 100} { // the last two change nothing
			must(t, f.Preallocate(size))
		}
		must(t, f.Sync())
		got, err := f.Size()
		must(t, err)
		if got != 10000 {
			t.Fatalf("size %d", got)
		}
		data := make([]byte, 10001)
		n, err := f.ReadAt(data, 0)
		if n != 10000 || !errors.Is(err, io.EOF) {
			t.Fatalf("read %d bytes: %v", n, err)
		}
		if want := append([]byte("hello"), make([]byte, 9995)...); !bytes.Equal(data[:n], want) {
			t.Fatal("preallocation changed the contents")
		}
		if err := f.Preallocate(-1); err == nil {
			t.Fatal("negative size accepted")
		}
	})
}

func TestReadOnlyFileRefusesChanges(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "f")
		must(t, WriteFileSync(fsys, name, []byte("abc")))
		f, err := fsys.OpenRead(name)
		must(t, err)
		if _, err := f.WriteAt([]byte("x"), 0); err == nil {
			t.Fatal("write accepted")
		}
		if f.Truncate(0) == nil || f.Preallocate(10) == nil {
			t.Fatal("change of size accepted")
		}
		must(t, f.Close())
		for what, err := range map[string]error{
			"close": f.Close(), "sync": f.Sync(), "truncate": f.Truncate(1), "preallocate": f.Preallocate(1),
		} {
			if !errors.Is(err, fs.ErrClosed) {
				t.Fatalf("%s after close: %v", what, err)
			}
		}
		if _, err := fsys.OpenRead(dir); !errors.Is(err, syscall.EISDIR) {
			t.Fatalf("a directory opened as a file: %v", err)
		}
	})
}

func TestHandleOnRemovedFileWorks(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "f")
		f, err := fsys.Create(name)
		must(t, err)
		defer f.Close()
		_, err = f.WriteAt([]byte("abc"), 0)
		must(t, err)
		must(t, fsys.Remove(name))
		_, err = f.WriteAt([]byte("d"), 3)
		must(t, err)
		must(t, f.Sync())
		buf := make([]byte, 4)
		if _, err := f.ReadAt(buf, 0); err != nil || string(buf) != "abcd" {
			t.Fatalf("read %q: %v", buf, err)
		}
	})
}

func TestRemoveAllTakesTheTreeAndNothingElse(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		must(t, fsys.MkdirAll(filepath.Join(dir, "a/b/c")))
		must(t, fsys.MkdirAll(filepath.Join(dir, "ab")))
		must(t, WriteFileSync(fsys, filepath.Join(dir, "a/1"), nil))
		must(t, WriteFileSync(fsys, filepath.Join(dir, "a/b/2"), []byte("x")))
		must(t, RemoveAll(fsys, filepath.Join(dir, "a")))
		must(t, RemoveAll(fsys, filepath.Join(dir, "a")))
		names, err := fsys.List(dir)
		must(t, err)
		if !slices.Equal(names, []string{"ab"}) {
			t.Fatalf("left: %q", names)
		}
	})
}

func TestWriteFileSyncNeverReplaces(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "f")
		must(t, WriteFileSync(fsys, name, []byte("one")))
		if err := WriteFileSync(fsys, name, []byte("two")); !errors.Is(err, fs.ErrExist) {
			t.Fatalf("second create: %v", err)
		}
		data, err := ReadFile(fsys, name)
		if err != nil || string(data) != "one" {
			t.Fatalf("read %q: %v", data, err)
		}
	})
}

// class reduces an error to what callers may branch on.
func class(err error) string {
	for _, known := range []error{
		io.EOF, fs.ErrNotExist, syscall.ENOTEMPTY, fs.ErrExist, syscall.ENOTDIR, syscall.EISDIR, ErrLocked,
	} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if err != nil {
		return "other"
	}
	return "ok"
}

// world is one file system under the random operations of TestMemBehavesLikeOS.
type world struct {
	fs    FS
	root  string
	files []File
	locks []io.Closer
}

// step does one operation, described by the numbers drawn from rng, and returns all that can be seen.
func (w *world) step(rng *rand.Rand) string {
	paths := []string{"a", "b", "c", "d/a", "d/b", "d/e/a", "d", "d/e", "g", "."}
	path := func() string { return filepath.Join(w.root, paths[rng.IntN(len(paths))]) }
	handle := func() File { return w.files[rng.IntN(len(w.files))] }
	open := func(f File, err error) string {
		if err == nil {
			w.files = append(w.files, f)
		}
		return "open " + class(err)
	}
	kind := rng.IntN(17)
	if len(w.files) == 0 && kind > 9 {
		kind = 0
	}
	switch kind {
	case 0:
		return open(w.fs.Create(path()))
	case 1:
		return open(w.fs.Open(path()))
	case 2:
		return open(w.fs.OpenRead(path()))
	case 3:
		if p := path(); p != w.root { // the test needs it
			return "remove " + class(w.fs.Remove(p))
		}
		return ""
	case 4:
		return "rename " + class(w.fs.Rename(path(), path()))
	case 5:
		return "link " + class(w.fs.Link(path(), path()))
	case 6:
		names, err := w.fs.List(path())
		return fmt.Sprint("list ", names, class(err))
	case 7:
		return "mkdir " + class(w.fs.MkdirAll(path()))
	case 8:
		return "syncdir " + class(w.fs.SyncDir(path()))
	case 9:
		if len(w.locks) > 0 && rng.IntN(2) == 0 {
			last := len(w.locks) - 1
			err := w.locks[last].Close()
			w.locks = w.locks[:last]
			return "unlock " + class(err)
		}
		lock, err := w.fs.Lock(path(), fmt.Sprint("holder ", rng.IntN(1000)))
		if err == nil {
			w.locks = append(w.locks, lock)
		}
		return "lock " + class(err)
	case 10, 11:
		data := bytes.Repeat([]byte{byte(rng.IntN(256))}, 1+rng.IntN(3000))
		n, err := handle().WriteAt(data, rng.Int64N(10000))
		return fmt.Sprint("write ", n, class(err))
	case 12:
		return "truncate " + class(handle().Truncate(rng.Int64N(10000)))
	case 13:
		return "preallocate " + class(handle().Preallocate(rng.Int64N(10000)))
	case 14:
		return "sync " + class(handle().Sync())
	case 15:
		i := rng.IntN(len(w.files))
		err := w.files[i].Close()
		w.files = slices.Delete(w.files, i, i+1)
		return "close " + class(err)
	default:
		f := handle()
		size, sizeErr := f.Size()
		data := make([]byte, rng.IntN(12000))
		n, err := f.ReadAt(data, rng.Int64N(10000))
		return fmt.Sprintf("read %d %s %d %s %x", size, class(sizeErr), n, class(err), data)
	}
}

func TestMemBehavesLikeOS(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	mem := NewMem()
	must(t, mem.MkdirAll("/r"))
	worlds := []*world{{fs: OS(), root: t.TempDir()}, {fs: mem, root: "/r"}}
	rngs := []*rand.Rand{rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 1))}
	for i := range 10000 {
		disk, model := worlds[0].step(rngs[0]), worlds[1].step(rngs[1])
		if disk != model {
			t.Fatalf("step %d:\n os: %.300s\nmem: %.300s", i, disk, model)
		}
	}
	for _, f := range worlds[0].files {
		must(t, f.Close())
	}
}
