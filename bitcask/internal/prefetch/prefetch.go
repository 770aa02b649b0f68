// Package prefetch asks the processor for memory before it is needed, and does not wait for it.
//
//	prefetch.Bytes(where)  // then something else that takes a hundred nanoseconds,
//	copy(where, data)      // and this waits for nothing
//
// A put of the engine touches some ten lines of memory that no cache has. One after the other they would cost more than all
// that it computes. On processors other than amd64 and arm64 nothing happens.
package prefetch

import "unsafe"

const (
	lineBytes = 64
	maxBytes  = 1 << 10 // about as many lines as a processor can have on their way at once
)

// Bytes asks for the lines of b, or of its first KiB.
func Bytes(b []byte) {
	if len(b) == 0 {
		return
	}
	start := unsafe.Pointer(unsafe.SliceData(b))
	before := int(uintptr(start) % lineBytes) // b need not begin with a line
	lines(start, (before+min(len(b), maxBytes)+lineBytes-1)/lineBytes)
}

// Slice is Bytes for other elements.
func Slice[T any](s []T) {
	if len(s) > 0 {
		Bytes(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(s[0]))))
	}
}
