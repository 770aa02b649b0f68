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

// Line asks for the cache line at an address.
func Line[T any](at *T) { line(unsafe.Pointer(at)) }

// Bytes asks for the lines of b, or of its first KiB.
func Bytes(b []byte) {
	b = b[:min(len(b), maxBytes)]
	for i := 0; i < len(b); i += lineBytes {
		line(unsafe.Pointer(&b[i]))
	}
	if len(b) > 0 {
		line(unsafe.Pointer(&b[len(b)-1])) // b need not begin with a line
	}
}
