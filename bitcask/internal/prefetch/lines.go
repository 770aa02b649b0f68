//go:build amd64 || arm64

package prefetch

import "unsafe"

// lines asks for n lines, at least one.
//
//go:noescape
func lines(at unsafe.Pointer, n int)
