package vfs

// Mapper is what a File may be besides: its bytes as memory. Only files of OS on a 64-bit Linux are;
// callers do without elsewhere, and so in tests that count or fail operations (Mem, Faulty).
//
// The mapping is shared: it, ReadAt and WriteAt see each other's bytes at once, a killed process loses
// nothing that it wrote there, and Sync makes it durable. It may be longer than the file, which may
// grow under it. Touching what lies beyond the end of the file, or what the disk cannot read, is
// SIGBUS: touch it under debug.SetPanicOnFault.
type Mapper interface {
	Map(sizeBytes int, writable bool) ([]byte, error)
}
