package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"testing"
)

var errDisk = errors.New("disk on fire")

// everyOperation does each kind of operation once and returns the first error.
func everyOperation(fsys FS) error {
	if err := fsys.MkdirAll("d"); err != nil {
		return err
	}
	lock, err := fsys.Lock("d/LOCK", "me")
	if err != nil {
		return err
	}
	f, err := fsys.Create("d/a")
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	_, writeErr := f.WriteAt([]byte("hello"), 0)
	_, readErr := f.ReadAt(make([]byte, 3), 0)
	_, sizeErr := f.Size()
	_, listErr := fsys.List("d")
	return errors.Join(writeErr, readErr, sizeErr, listErr,
		f.Preallocate(10), f.Truncate(5), f.Sync(), f.Close(),
		fsys.Rename("d/a", "d/b"), fsys.Link("d/b", "d/c"), fsys.SyncDir("d"), fsys.Remove("d/c"), lock.Close(),
		openAndClose(fsys.Open("d/b")), openAndClose(fsys.OpenRead("d/b")))
}

func openAndClose(f File, err error) error {
	if err != nil {
		return err
	}
	return f.Close()
}

func TestHookSeesEveryOperationNumbered(t *testing.T) {
	var ops []string
	var seq int64
	fsys := NewFaulty(NewMem(), func(op Op) *Fault {
		if seq++; op.Seq != seq {
			t.Errorf("operation %v has number %d, want %d", op.Kind, op.Seq, seq)
		}
		ops = append(ops, fmt.Sprint(op.Kind, " ", op.Name, op.To))
		return nil
	})
	must(t, everyOperation(fsys))
	want := []string{
		"mkdir d", "lock d/LOCK", "create d/a", "write d/a", "read d/a", "size d/a", "list d", "preallocate d/a",
		"truncate d/a", "sync d/a", "close d/a", "rename d/ad/b", "link d/bd/c", "syncdir d", "remove d/c",
		"close d/LOCK", "open d/b", "close d/b", "open d/b", "close d/b",
	}
	if !slices.Equal(ops, want) {
		t.Fatalf("got  %q\nwant %q", ops, want)
	}
	if fsys.Ops() != int64(len(want)) {
		t.Fatalf("%d operations counted", fsys.Ops())
	}
}

func TestEveryOperationCanFailBeforeAndAfterItsEffect(t *testing.T) {
	count := NewFaulty(NewMem(), nil)
	must(t, everyOperation(count))
	for seq := range count.Ops() {
		for _, after := range []bool{false, true} {
			fault := Fault{Err: errDisk, AfterPersisting: after}
			if err := everyOperation(NewFaulty(NewMem(), FailOnce(seq+1, fault))); !errors.Is(err, errDisk) {
				t.Errorf("operation %d, after persisting %v: %v", seq+1, after, err)
			}
		}
	}
}

func TestFaultBeforeEffectChangesNothingAndAfterEffectChangesAll(t *testing.T) {
	for _, after := range []bool{false, true} {
		m := NewMem()
		must(t, WriteFileSync(m, "f", []byte("old")))
		fsys := NewFaulty(m, func(Op) *Fault { return &Fault{Err: errDisk, AfterPersisting: after} })
		for what, err := range map[string]error{"rename": fsys.Rename("f", "g"), "mkdir": fsys.MkdirAll("d")} {
			if !errors.Is(err, errDisk) {
				t.Fatalf("%s: %v", what, err)
			}
		}
		want := "f=old"
		if after {
			want = "d/ g=old"
		}
		if got := tree(m); got != want {
			t.Fatalf("after %v: %q", after, got)
		}
	}
}

func TestFaultAfterEffectReportsTheRealErrorFirst(t *testing.T) {
	fsys := NewFaulty(NewMem(), func(Op) *Fault { return &Fault{Err: errDisk, AfterPersisting: true} })
	if err := fsys.Remove("absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestPartialWriteLeavesThePrefix(t *testing.T) {
	m := NewMem()
	fault := &Fault{Err: errDisk, PartialBytes: 3}
	fsys := NewFaulty(m, func(op Op) *Fault {
		if op.Kind == OpWrite {
			return fault
		}
		return nil
	})
	f, err := fsys.Create("f")
	must(t, err)
	if n, err := f.WriteAt([]byte("hello"), 0); n != 3 || !errors.Is(err, errDisk) {
		t.Fatalf("wrote %d: %v", n, err)
	}
	if got := tree(m); got != "f=hel" {
		t.Fatal(got)
	}
	fault = &Fault{AfterPersisting: true} // no error named: must not look like success
	if n, err := f.WriteAt([]byte("hello"), 0); n != 5 || !errors.Is(err, io.ErrShortWrite) {
		t.Fatalf("wrote %d: %v", n, err)
	}
	fault = &Fault{Err: errDisk}
	if n, err := f.WriteAt([]byte("XXXXX"), 0); n != 0 || !errors.Is(err, errDisk) {
		t.Fatalf("wrote %d: %v", n, err)
	}
	if got := tree(m); got != "f=hello" {
		t.Fatal(got)
	}
}

func TestFailFromIsForEverAndFailOnceIsNot(t *testing.T) {
	fsys := NewFaulty(NewMem(), FailOnce(2, Fault{Err: errDisk}))
	for i := int64(1); i <= 4; i++ {
		if err := fsys.MkdirAll("d"); (err != nil) != (i == 2) {
			t.Fatalf("once: operation %d: %v", i, err)
		}
	}
	m := NewMem()
	fsys = NewFaulty(m, FailFrom(2, Fault{Err: errDisk, AfterPersisting: true}))
	for i := int64(1); i <= 4; i++ {
		if err := fsys.MkdirAll(fmt.Sprint(i)); (err != nil) != (i >= 2) {
			t.Fatalf("from: operation %d: %v", i, err)
		}
	}
	if got := tree(m); got != "1/ 2/" { // the second took effect, the later ones did not
		t.Fatal(got)
	}
}

func TestFaultOnCloseStillCloses(t *testing.T) {
	m := NewMem()
	fsys := NewFaulty(m, func(op Op) *Fault {
		if op.Kind == OpClose {
			return &Fault{Err: errDisk}
		}
		return nil
	})
	lock, err := fsys.Lock("LOCK", "me")
	must(t, err)
	if err := lock.Close(); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	if _, err := m.Lock("LOCK", "other"); err != nil {
		t.Fatalf("the lock was not freed: %v", err)
	}
}

func TestThenComesBetweenTheChangeAndItsError(t *testing.T) {
	inner := NewMem()
	seen := ""
	fsys := NewFaulty(inner, func(op Op) *Fault {
		if op.Kind != OpWrite {
			return nil
		}
		return &Fault{Err: errDisk, AfterPersisting: true, Then: func() {
			text, err := ReadFile(inner, "a")
			must(t, err)
			seen = string(text)
		}}
	})
	f, err := fsys.Create("a")
	must(t, err)
	if _, err := f.WriteAt([]byte("done"), 0); !errors.Is(err, errDisk) {
		t.Errorf("got %v", err)
	}
	if seen != "done" {
		t.Errorf("Then saw %q", seen)
	}
	must(t, f.Close())
}
