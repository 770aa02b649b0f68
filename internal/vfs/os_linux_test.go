package vfs

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs/vfstest"
)

// TestPreallocateOnFullDiskGivesBackWhatItFound: ext4 keeps the blocks that it found before it ran out.
func TestPreallocateOnFullDiskGivesBackWhatItFound(t *testing.T) {
	root := vfstest.SmallDisk(t, 4<<20)
	f, err := OS().Create(filepath.Join(root, "f"))
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("abc"), 0)
	must(t, err)
	must(t, f.Sync())
	before := freeBlocks(t, root)
	if err := f.Preallocate(1 << 30); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("preallocate 1 GiB: %v", err)
	}
	if size, err := f.Size(); err != nil || size != 3 {
		t.Fatalf("size after a failed preallocation: %d, %v", size, err)
	}
	if after := freeBlocks(t, root); after != before {
		t.Errorf("%d blocks free, %d before", after, before)
	}
}

func freeBlocks(t *testing.T, root string) uint64 {
	t.Helper()
	var stat syscall.Statfs_t
	must(t, syscall.Statfs(root, &stat))
	return stat.Bfree
}

func TestLockIsTakenEvenIfTheHolderCannotBeWritten(t *testing.T) {
	// Writes to /dev/full fail with ENOSPC, as they would on a full disk; the lock must be had all the same.
	lock, err := OS().Lock("/dev/full", "me")
	must(t, err)
	must(t, lock.Close())
}
