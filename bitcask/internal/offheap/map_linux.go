package offheap

import "golang.org/x/sys/unix"

func mapMemory(size int) ([]byte, error) {
	return unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
}

func unmapMemory(mem []byte) {
	if err := unix.Munmap(mem); err != nil {
		panic("offheap: unmap memory: " + err.Error()) // it was not a mapping: a bug, not a condition
	}
}

// returnPages gives the pages back; the addresses stay ours and read as zeros.
func returnPages(mem []byte) {
	// EAGAIN and the like only mean that the pages stay resident a little longer.
	_ = unix.Madvise(mem, unix.MADV_DONTNEED)
}
