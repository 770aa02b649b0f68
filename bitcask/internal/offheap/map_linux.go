package offheap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapMemory returns memory of zeros. It will have no huge pages: who touches one first waits until it is cleared, up to
// five milliseconds on virtual machines.
func mapMemory(size int) ([]byte, error) {
	start, err := unix.MmapPtr(-1, 0, nil, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	mem := unsafe.Slice((*byte)(start), size)
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE) // fails where there are none
	return mem, nil
}

// populate has all pages there at once: a fault for each would take many times as long. What the memory holds stays.
func populate(mem []byte) {
	_ = unix.Madvise(mem, unix.MADV_POPULATE_WRITE) // only saves time
}

func unmapMemory(mem []byte) {
	if err := unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(mem)), uintptr(len(mem))); err != nil {
		panic("offheap: unmap memory: " + err.Error()) // it was not a mapping: a bug, not a condition
	}
}

// returnPages gives the pages back; the addresses stay ours and read as zeros.
func returnPages(mem []byte) {
	// EAGAIN and the like only mean that the pages stay resident a little longer.
	_ = unix.Madvise(mem, unix.MADV_DONTNEED)
}
