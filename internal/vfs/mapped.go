package vfs

// Mapper is what a File may be besides: its bytes as memory. Map is errors.ErrUnsupported everywhere but on a 64-bit
// Linux, where files of OS have it, those of Mem if Mem.SetMapping says so, and those of Faulty if the wrapped ones do.
// Callers do without elsewhere.
//
// The mapping is shared: it, ReadAt and WriteAt see each other's bytes at once, a killed process loses
// nothing that it wrote there, and Sync makes it durable. It may be longer than the file, which may
// grow under it. Touching what lies beyond the end of the file, or what the disk cannot read, is
// SIGBUS: touch it under debug.SetPanicOnFault. End it with Unmap before the file is closed.
type Mapper interface {
	Map(sizeBytes int, writable bool) ([]byte, error)
	// WriteBack has the system begin to write some pages of the file to the disk, from one offset to before another, without
	// waiting for it. It promises nothing: it saves the next Sync time. errors.ErrUnsupported is for systems that do not do that; any
	// other error means what one of Sync means, and the next Sync may not report it again.
	WriteBack(from, to int64) error
}
