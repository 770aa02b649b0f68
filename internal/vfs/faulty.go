package vfs

import (
	"errors"
	"io"
	"slices"
	"strconv"
	"sync/atomic"
)

// OpKind is a kind of file system operation.
type OpKind uint8

// The operations that a hook sees.
const (
	OpCreate OpKind = iota + 1
	OpOpen          // Open and OpenRead
	OpRead
	OpWrite
	OpSync
	OpTruncate
	OpPreallocate
	OpRename
	OpLink
	OpRemove
	OpSyncDir
	OpList
	OpMkdir
	OpClose // of a file or of a lock
	OpLock
	OpSize
	OpWriteBack
	OpMap // fails without effect, whatever the Fault says; touching a map is no operation
)

var opNames = [...]string{
	"none", "create", "open", "read", "write", "sync", "truncate", "preallocate", "rename",
	"link", "remove", "syncdir", "list", "mkdir", "close", "lock", "size", "write back", "map",
}

func (k OpKind) String() string {
	if int(k) < len(opNames) {
		return opNames[k]
	}
	return "op " + strconv.Itoa(int(k))
}

// Op is an operation that is about to happen.
type Op struct {
	Kind OpKind
	Name string // the file or directory; of a rename or link the old name; of an open file the name it was opened by
	Seq  int64  // counts all operations of one Faulty from 1
	To   string // the new name of a rename or link
	Len  int    // bytes of a read or write
}

// Fault is how an operation fails.
type Fault struct {
	// Err is returned to the caller. A nil Err is io.ErrShortWrite, so that no fault goes unseen.
	Err error
	// AfterPersisting performs the operation first: the caller sees an error and the disk has the change.
	AfterPersisting bool
	// PartialBytes are read or written before a read or write fails.
	PartialBytes int
	// Mangle makes a read or write succeed with other bytes: it changes those that were read, or a copy of those to write.
	// Nothing else of the fault counts then.
	Mangle func(p []byte)
	// Then is called before the error is returned, and after what is persisted.
	Then func()
}

func (f *Fault) err() error {
	if f.Then != nil {
		f.Then()
	}
	if f.Err == nil {
		return io.ErrShortWrite
	}
	return f.Err
}

// FailOnce makes a hook that fails operation seq only.
func FailOnce(seq int64, f Fault) func(Op) *Fault {
	return func(op Op) *Fault {
		if op.Seq == seq {
			return &f
		}
		return nil
	}
}

// FailFrom makes a hook that fails operation seq and, without effect, all after it: the disk is gone.
func FailFrom(seq int64, f Fault) func(Op) *Fault {
	gone := Fault{Err: f.Err}
	return func(op Op) *Fault {
		switch {
		case op.Seq == seq:
			return &f
		case op.Seq > seq:
			return &gone
		}
		return nil
	}
}

// Faulty passes operations on to another file system unless its hook says otherwise.
type Faulty struct {
	inner FS
	hook  func(Op) *Fault
	seq   atomic.Int64
}

// NewFaulty wraps inner. The hook is called before each operation, by the goroutine that does it,
// so it may block, may look at inner, and may be called concurrently; nil lets the operation pass.
func NewFaulty(inner FS, hook func(Op) *Fault) *Faulty {
	return &Faulty{inner: inner, hook: hook}
}

// Ops is how many operations there have been.
func (f *Faulty) Ops() int64 { return f.seq.Load() }

// fault numbers an operation and asks the hook.
func (f *Faulty) fault(op Op) *Fault {
	op.Seq = f.seq.Add(1)
	if f.hook == nil {
		return nil
	}
	return f.hook(op)
}

// do performs an operation that has no result of its own.
func (f *Faulty) do(op Op, perform func() error) error {
	fault := f.fault(op)
	if fault == nil {
		return perform()
	}
	if fault.AfterPersisting {
		if err := perform(); err != nil {
			return err
		}
	}
	return fault.err()
}

// opened performs an operation that opens something; what opened in spite of a fault is closed.
func opened[T io.Closer](f *Faulty, op Op, perform func() (T, error)) (T, error) {
	var result T
	err := f.do(op, func() (err error) {
		result, err = perform()
		return err
	})
	if err == nil {
		return result, nil
	}
	if any(result) != nil {
		_ = result.Close() // the fault is the error to report
	}
	var none T
	return none, err
}

func (f *Faulty) file(kind OpKind, name string, open func(string) (File, error)) (File, error) {
	inner, err := opened(f, Op{Kind: kind, Name: name}, func() (File, error) { return open(name) })
	if err != nil {
		return nil, err
	}
	return &faultyFile{fs: f, inner: inner, name: name}, nil
}

// Create implements FS.
func (f *Faulty) Create(name string) (File, error) { return f.file(OpCreate, name, f.inner.Create) }

// Open implements FS.
func (f *Faulty) Open(name string) (File, error) { return f.file(OpOpen, name, f.inner.Open) }

// OpenRead implements FS.
func (f *Faulty) OpenRead(name string) (File, error) { return f.file(OpOpen, name, f.inner.OpenRead) }

// Remove implements FS.
func (f *Faulty) Remove(name string) error {
	return f.do(Op{Kind: OpRemove, Name: name}, func() error { return f.inner.Remove(name) })
}

// Rename implements FS.
func (f *Faulty) Rename(from, to string) error {
	return f.do(Op{Kind: OpRename, Name: from, To: to}, func() error { return f.inner.Rename(from, to) })
}

// Link implements FS.
func (f *Faulty) Link(from, to string) error {
	return f.do(Op{Kind: OpLink, Name: from, To: to}, func() error { return f.inner.Link(from, to) })
}

// List implements FS.
func (f *Faulty) List(dir string) (names []string, err error) {
	err = f.do(Op{Kind: OpList, Name: dir}, func() (err error) {
		names, err = f.inner.List(dir)
		return err
	})
	if err != nil {
		return nil, err
	}
	return names, nil
}

// MkdirAll implements FS.
func (f *Faulty) MkdirAll(dir string) error {
	return f.do(Op{Kind: OpMkdir, Name: dir}, func() error { return f.inner.MkdirAll(dir) })
}

// SyncDir implements FS.
func (f *Faulty) SyncDir(dir string) error {
	return f.do(Op{Kind: OpSyncDir, Name: dir}, func() error { return f.inner.SyncDir(dir) })
}

// Lock implements FS.
func (f *Faulty) Lock(name, holder string) (io.Closer, error) {
	inner, err := opened(f, Op{Kind: OpLock, Name: name}, func() (io.Closer, error) { return f.inner.Lock(name, holder) })
	if err != nil {
		return nil, err
	}
	return &faultyLock{fs: f, inner: inner, name: name}, nil
}

type faultyLock struct {
	fs    *Faulty
	inner io.Closer
	name  string
}

// Close frees the lock whatever the hook says, as closing a descriptor does.
func (l *faultyLock) Close() error {
	return l.fs.close(l.name, l.inner)
}

func (f *Faulty) close(name string, inner io.Closer) error {
	fault := f.fault(Op{Kind: OpClose, Name: name})
	err := inner.Close()
	if fault != nil && err == nil {
		err = fault.err()
	}
	return err
}

type faultyFile struct {
	fs    *Faulty
	inner File
	name  string
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	return f.transfer(OpRead, p, off, f.inner.ReadAt)
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	return f.transfer(OpWrite, p, off, f.inner.WriteAt)
}

// transfer is a read or a write: of a faulty one, all, a part, or nothing may happen.
func (f *faultyFile) transfer(kind OpKind, p []byte, off int64, move func([]byte, int64) (int, error)) (int, error) {
	fault := f.fs.fault(Op{Kind: kind, Name: f.name, Len: len(p)})
	if fault == nil {
		return move(p, off)
	}
	if fault.Mangle != nil {
		return mangled(kind, p, off, move, fault.Mangle)
	}
	n := 0
	if fault.AfterPersisting {
		n = len(p)
	} else if fault.PartialBytes > 0 {
		n = min(fault.PartialBytes, len(p))
	}
	if n > 0 {
		if moved, err := move(p[:n], off); err != nil {
			return moved, err
		}
	}
	return n, fault.err()
}

func mangled(kind OpKind, p []byte, off int64, move func([]byte, int64) (int, error), mangle func([]byte)) (int, error) {
	if kind == OpWrite {
		p = slices.Clone(p) // the caller's bytes stay as they are
		mangle(p)
		return move(p, off)
	}
	n, err := move(p, off)
	mangle(p[:n])
	return n, err
}

func (f *faultyFile) Sync() error {
	return f.fs.do(Op{Kind: OpSync, Name: f.name}, f.inner.Sync)
}

func (f *faultyFile) Truncate(size int64) error {
	return f.fs.do(Op{Kind: OpTruncate, Name: f.name}, func() error { return f.inner.Truncate(size) })
}

func (f *faultyFile) Preallocate(size int64) error {
	return f.fs.do(Op{Kind: OpPreallocate, Name: f.name}, func() error { return f.inner.Preallocate(size) })
}

func (f *faultyFile) Size() (size int64, err error) {
	err = f.fs.do(Op{Kind: OpSize, Name: f.name}, func() (err error) {
		size, err = f.inner.Size()
		return err
	})
	if err != nil {
		return 0, err
	}
	return size, nil
}

// Close closes the file whatever the hook says, as close(2) does.
func (f *faultyFile) Close() error { return f.fs.close(f.name, f.inner) }

// Map implements Mapper if the file does. What is read or written through the map is not seen here.
func (f *faultyFile) Map(sizeBytes int, writable bool) ([]byte, error) {
	if fault := f.fs.fault(Op{Kind: OpMap, Name: f.name, Len: sizeBytes}); fault != nil {
		return nil, fault.err()
	}
	mapper, ok := f.inner.(Mapper)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return mapper.Map(sizeBytes, writable)
}

// WriteBack implements Mapper if the file does.
func (f *faultyFile) WriteBack(from, to int64) error {
	mapper, ok := f.inner.(Mapper)
	if !ok {
		return errors.ErrUnsupported
	}
	return f.fs.do(Op{Kind: OpWriteBack, Name: f.name, Len: int(to - from)}, func() error { return mapper.WriteBack(from, to) })
}
