package vfs

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// Map implements Mapper. It refuses where address space is too small to map segments freely.
func (f *osFile) Map(sizeBytes int, writable bool) (mem []byte, err error) {
	if strconv.IntSize < 64 {
		return nil, errors.ErrUnsupported
	}
	protection := unix.PROT_READ
	if writable {
		protection |= unix.PROT_WRITE
	}
	err = f.control("mmap", func(fd uintptr) error {
		mem, err = unix.Mmap(int(fd), 0, sizeBytes, protection, unix.MAP_SHARED)
		return err
	})
	return mem, err
}

// WriteBack implements Mapper.
func (f *osFile) WriteBack(from, to int64) error {
	err := f.control("sync_file_range", func(fd uintptr) error {
		return unix.SyncFileRange(int(fd), from, to-from, unix.SYNC_FILE_RANGE_WRITE)
	})
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL): // a sandbox, pages of another size
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return err
}

// Unmap ends a mapping. Nobody may touch it any more.
func Unmap(mem []byte) error { return unix.Munmap(mem) }

// Protect makes a mapping read-only, and detaches it.
func Protect(mem []byte) error {
	return errors.Join(unix.Mprotect(mem, unix.PROT_READ), Detach(mem))
}

// Detach takes the pages of a mapping out of this process's memory; they stay in the page cache, dirty ones too, and come
// back when they are touched. mem begins with a page.
func Detach(mem []byte) error {
	if len(mem) == 0 {
		return nil
	}
	return unix.Madvise(mem, unix.MADV_DONTNEED)
}

// AdviseRandom says that reads come in no order, so that reading ahead would be wasted.
func AdviseRandom(mem []byte) error { return unix.Madvise(mem, unix.MADV_RANDOM) }

// PageBytes is the size of a page of memory, and its alignment.
const PageBytes = 4 << 10

// Populate has the pages of a writable mapping ready for writing, so that their first touch costs nothing. mem begins and
// ends with a page.
func Populate(mem []byte) error { return unix.Madvise(mem, unix.MADV_POPULATE_WRITE) }
