//go:build unix

package server

import "golang.org/x/sys/unix"

// cpuSeconds is the processor time that the process has used.
func cpuSeconds() (system, user float64) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0, 0
	}
	return seconds(usage.Stime), seconds(usage.Utime)
}

func seconds(t unix.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
