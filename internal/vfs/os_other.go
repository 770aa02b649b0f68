//go:build !linux

package vfs

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"syscall"
)

// syncData is a full fsync here (F_FULLFSYNC on macOS: the os package sees to it).
func syncData(f *osFile) error { return f.f.Sync() }

// allocate leaves it to the caller to extend the file instead.
func allocate(f *osFile, size int64) error {
	if size < 0 {
		return &fs.PathError{Op: "preallocate", Path: f.f.Name(), Err: syscall.EINVAL}
	}
	return errors.ErrUnsupported
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if runtime.GOOS == "windows" { // directories cannot be synced there; NTFS journals names itself
		return d.Close()
	}
	return errors.Join(d.Sync(), d.Close())
}
