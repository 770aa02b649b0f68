//go:build !linux

package server

import "runtime"

// residentBytes is what the runtime has from the system: near enough where the
// kernel is not asked.
func residentBytes() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys)
}
