package vfs

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
)

func TestPreallocateOnFullDiskIsENOSPC(t *testing.T) {
	f, err := OS().Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("abc"), 0)
	must(t, err)
	err = f.Preallocate(1 << 42) // 4 TiB: more than any machine that runs this has
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("preallocate 4 TiB: %v", err)
	}
	if size, err := f.Size(); err != nil || size != 3 {
		t.Fatalf("size after a failed preallocation: %d, %v", size, err)
	}
}

func TestLockIsTakenEvenIfTheHolderCannotBeWritten(t *testing.T) {
	// Writes to /dev/full fail with ENOSPC, as they would on a full disk; the lock must be had all the same.
	lock, err := OS().Lock("/dev/full", "me")
	must(t, err)
	must(t, lock.Close())
}
