package offheap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapMemory returns memory of zeros that begins where a huge page can begin. Unless huge, it will have none.
func mapMemory(size int, huge bool) ([]byte, error) {
	mapped := uintptr(size + hugeBytes)
	start, err := unix.MmapPtr(-1, 0, nil, mapped, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	head := -uintptr(start) & (hugeBytes - 1)
	unmap(start, head)
	unmap(unsafe.Add(start, head+uintptr(size)), mapped-head-uintptr(size))
	mem := unsafe.Slice((*byte)(unsafe.Add(start, head)), size)
	advice := unix.MADV_NOHUGEPAGE
	if huge {
		advice = unix.MADV_HUGEPAGE
	}
	_ = unix.Madvise(mem, advice) // fails where there are no huge pages
	return mem, nil
}

// populate has all pages there at once: a fault for each would take many times as long. What the memory holds stays.
func populate(mem []byte) {
	_ = unix.Madvise(mem, unix.MADV_POPULATE_WRITE) // only saves time
}

func unmapMemory(mem []byte) { unmap(unsafe.Pointer(unsafe.SliceData(mem)), uintptr(len(mem))) }

func unmap(start unsafe.Pointer, bytes uintptr) {
	if bytes == 0 {
		return
	}
	if err := unix.MunmapPtr(start, bytes); err != nil {
		panic("offheap: unmap memory: " + err.Error()) // it was not a mapping: a bug, not a condition
	}
}

// returnPages gives the pages back; the addresses stay ours and read as zeros.
func returnPages(mem []byte) {
	// EAGAIN and the like only mean that the pages stay resident a little longer.
	_ = unix.Madvise(mem, unix.MADV_DONTNEED)
}
