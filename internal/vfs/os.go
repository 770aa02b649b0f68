package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/gofrs/flock"
)

// osFS is the file system of the machine.
type osFS struct{}

func (osFS) Create(name string) (File, error) {
	return asFile(openOS(name, os.O_RDWR|os.O_CREATE|os.O_EXCL))
}

func (osFS) Open(name string) (File, error) { return asFile(openOS(name, os.O_RDWR)) }

// asFile keeps a nil *osFile from becoming a File that is not nil.
func asFile(f *osFile, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (osFS) OpenRead(name string) (File, error) {
	f, err := openOS(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	// Unlike O_RDWR, O_RDONLY opens directories too.
	if info, err := f.f.Stat(); err != nil || info.IsDir() {
		if err == nil {
			err = &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
		}
		_ = f.Close() // nothing was written through it
		return nil, err
	}
	return f, nil
}

func (osFS) Remove(name string) error     { return os.Remove(name) }
func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) Link(from, to string) error   { return os.Link(from, to) }
func (osFS) MkdirAll(dir string) error    { return os.MkdirAll(dir, 0o755) }
func (osFS) SyncDir(dir string) error     { return syncDir(dir) }

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Lock relies on flock(2): the lock belongs to an open file description, so a second opener is
// refused in this process just as in another, and the kernel frees it when the process dies.
func (osFS) Lock(name, holder string) (io.Closer, error) {
	lock := flock.New(name, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	if !ok {
		text, _ := os.ReadFile(name) // only for the message; empty is said as "unknown"
		return nil, &LockedError{Name: name, Holder: strings.TrimSpace(string(text))}
	}
	// The line is for people. On a full disk it cannot be written, and the store must open all
	// the same, or nobody could ever delete anything from it.
	_ = os.WriteFile(name, []byte(holder+"\n"), 0o644)
	return lock, nil
}

// osFile adds what os.File lacks. conn keeps the descriptor alive while a system call uses it, so
// that a concurrent Close cannot make us sync a stranger's file.
type osFile struct {
	f    *os.File
	conn syscall.RawConn
}

func openOS(name string, flag int) (*osFile, error) {
	f, err := os.OpenFile(name, flag, 0o644)
	if err != nil {
		return nil, err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		_ = f.Close() // nothing was written through it
		return nil, err
	}
	return &osFile{f: f, conn: conn}, nil
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error)  { return f.f.ReadAt(p, off) }
func (f *osFile) WriteAt(p []byte, off int64) (int, error) { return f.f.WriteAt(p, off) }
func (f *osFile) Truncate(size int64) error                { return f.f.Truncate(size) }
func (f *osFile) Close() error                             { return f.f.Close() }
func (f *osFile) Sync() error                              { return syncData(f) }

func (f *osFile) Size() (int64, error) {
	info, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f *osFile) Preallocate(size int64) error {
	old, err := f.Size()
	if err != nil {
		return err
	}
	if size == 0 {
		return nil // fallocate(2) refuses a length of 0
	}
	err = allocate(f, size)
	if errors.Is(err, errors.ErrUnsupported) {
		if size <= old {
			return nil
		}
		return f.Truncate(size)
	}
	if err != nil {
		// Some file systems keep what they found before they ran out. Give it back.
		_ = f.Truncate(old) // the first error is the one to report
	}
	return err
}

// control runs a system call on the descriptor, repeats it while signals interrupt it, and names
// it in the error.
func (f *osFile) control(op string, call func(fd uintptr) error) error {
	var err error
	ctlErr := f.conn.Control(func(fd uintptr) {
		for {
			if err = call(fd); !errors.Is(err, syscall.EINTR) {
				return
			}
		}
	})
	if ctlErr != nil {
		err = fs.ErrClosed
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: f.f.Name(), Err: err}
	}
	return nil
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
