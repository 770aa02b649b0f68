// Package vfs is the small door through which the engine reaches a disk.
//
// It exists so that tests can do what disks do: lose power, fail, and fill up. There are three
// file systems behind one interface:
//
//   - OS is the real one. Sync is fdatasync, SyncDir is fsync of the directory.
//   - Mem keeps everything in memory and knows what a power loss may take: see Mem.CrashClone.
//   - Faulty wraps either and lets a hook fail any operation, before or after it took effect.
//
// Use:
//
//	fsys := vfs.OS()
//	f, err := fsys.Create("data/000001.seg")
//	...
//	err = f.Sync()               // the bytes and the size are durable now,
//	err = fsys.SyncDir("data")   // and now the name is too
//
// The rule every caller must know: File.Sync makes contents and size durable; the *name* of a
// created, renamed, linked or removed file is durable only after SyncDir of its directory.
//
// All implementations are safe for concurrent use. No goroutines are started here.
package vfs

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
)

// FS is what the engine needs of a file system. Names are paths as the os package takes them.
// Errors satisfy errors.Is with fs.ErrNotExist, fs.ErrExist and the usual syscall numbers.
type FS interface {
	// Create makes a new file, mode 0o644, open for reading and writing. An existing name is an error.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// OpenRead opens an existing file for reading only.
	OpenRead(name string) (File, error)
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// Rename moves a file over whatever file has the name `to`, atomically. An existing directory is never replaced.
	Rename(from, to string) error
	// Link gives the file `from` a second name. An existing `to` is an error.
	Link(from, to string) error
	// List returns the base names in dir, sorted.
	List(dir string) ([]string, error)
	// MkdirAll makes a directory and its missing parents, mode 0o755.
	MkdirAll(dir string) error
	// SyncDir makes the names in dir durable. It says nothing about the name of dir itself.
	SyncDir(dir string) error
	// Lock takes an exclusive advisory lock on the file name, creates it if needed, and writes
	// holder (one line: who has it) into it. When someone else has it, in this process or another,
	// the error is a *LockedError. Closing the result frees the lock; the file is never removed.
	Lock(name, holder string) (io.Closer, error)
}

// File is an open file. ReadAt and WriteAt may be called concurrently.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes contents and size durable (fdatasync). After an error nothing is known about
	// what is on disk, and a second Sync proves nothing: never retry it.
	Sync() error
	// Truncate sets the size. Bytes that come into being read as zeros.
	Truncate(size int64) error
	// Preallocate reserves disk space so that the file is at least size bytes long; new bytes read
	// as zeros, old ones stay. When the space is not there, the error is ENOSPC and the size is as
	// before. Do not call it while another goroutine makes the same file longer.
	Preallocate(size int64) error
	Size() (int64, error)
}

// ErrLocked is what a *LockedError is, for errors.Is.
var ErrLocked = errors.New("vfs: locked")

// ErrSync marks an error of WriteFileSync whose bytes were written, and could not be synced.
var ErrSync = errors.New("vfs: sync failed")

// LockedError says who has the lock that could not be taken.
type LockedError struct {
	Name   string // the lock file
	Holder string // what the holder wrote into it; empty when it could not be read
}

func (e *LockedError) Error() string {
	holder := e.Holder
	if holder == "" {
		holder = "an unknown process"
	}
	return fmt.Sprintf("lock %s: taken by %s", e.Name, holder)
}

// Is makes errors.Is(err, ErrLocked) true.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// RemoveAll removes dir and everything below it. A name that does not exist is no error.
func RemoveAll(fsys FS, dir string) error {
	err := fsys.Remove(dir)
	if err == nil || isNotExist(err) {
		return nil
	}
	names, listErr := fsys.List(dir)
	if listErr != nil {
		return err // not a directory: the first error is the one that counts
	}
	for _, name := range names {
		if err := RemoveAll(fsys, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := fsys.Remove(dir); err != nil && !isNotExist(err) {
		return err
	}
	return nil
}

// ReadFile returns the whole contents of a file.
func ReadFile(fsys FS, name string) (data []byte, err error) {
	f, err := fsys.OpenRead(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	data = make([]byte, size)
	n, err := f.ReadAt(data, 0)
	if errors.Is(err, io.EOF) { // shorter than it was a moment ago
		err = nil
	}
	return data[:n], err
}

// WriteFileSync creates a file with the given contents and syncs it. Its name is durable only after
// SyncDir. If anything fails the name is removed again, as far as the disk lets us; ErrSync tells a failed sync.
func WriteFileSync(fsys FS, name string, data []byte) error {
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		if err = f.Sync(); err != nil {
			err = fmt.Errorf("%w: %w", ErrSync, err)
		}
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = fsys.Remove(name) // the first error is the one to report
	}
	return err
}
