package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/raftcask/raftcask/bitcask"
)

// scaleFigures are of our engine with many keys and short values.
type scaleFigures struct {
	Keys            int     `json:"keys"`
	MemoryPerKey    float64 `json:"memory_per_key"`     // bytes of RSS after reopening, less those of the empty process
	OpenSeconds     float64 `json:"open_seconds"`       // after an unclean stop, from hints
	CollectionMs    float64 `json:"collection_ms"`      // CPU of one garbage collection, the median of nine
	LongestPutMs    float64 `json:"longest_put_ms"`     // while the store grew from nothing
	SlowPuts        int     `json:"slow_puts"`          // of those, that took more than 5 ms
	Rotations       int     `json:"rotations"`          // of segments meanwhile
	P9999PutMs      float64 `json:"p9999_put_ms"`       // 99.99 of 100 puts were faster
	AfterDeletesMiB float64 `json:"after_deletes_mib"`  // memory but for mapped files, when all keys but one in a hundred are deleted
	BeforeDelete    float64 `json:"before_deletes_mib"` // and before
}

const scaleValueBytes = 16

func openScale(dir string) (*bitcask.Store, error) {
	return bitcask.Open(dir, &bitcask.Options{Durability: bitcask.Never, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
}

// scale has two lives: the first fills an empty directory and is killed, the second opens it again.
func scale(dir string, keys int) (figures, error) {
	before := resident()
	began := time.Now()
	s, err := openScale(dir)
	if err != nil {
		return figures{}, err
	}
	opened := time.Since(began)
	if s.Len() == 0 {
		f, err := grow(s, dir, keys)
		return figures{Scale: f}, err
	}
	if s.Len() != keys {
		return figures{}, fmt.Errorf("%d of %d keys are there after the kill", s.Len(), keys)
	}
	f := &scaleFigures{Keys: keys, OpenSeconds: opened.Seconds()}
	f.MemoryPerKey = float64(resident()-before) / float64(keys)
	f.BeforeDelete = float64(anonymous()) / (1 << 20)
	f.CollectionMs = collection()
	for n := range keys {
		if n%100 != 0 {
			if err := s.Delete(keyOf(nil, n)); err != nil {
				return figures{}, err
			}
		}
	}
	f.AfterDeletesMiB = float64(anonymous()) / (1 << 20)
	return figures{Scale: f}, s.Close()
}

// grow fills the store and waits until every sealed segment has its hint.
func grow(s *bitcask.Store, dir string, keys int) (*scaleFigures, error) {
	took := make([]time.Duration, keys)
	key, value := make([]byte, 0, 16), random[:scaleValueBytes]
	for n := range keys {
		k := keyOf(key, n)
		began := time.Now()
		if err := s.Put(k, value); err != nil {
			return nil, err
		}
		took[n] = time.Since(began)
	}
	slices.Sort(took)
	slow, _ := slices.BinarySearch(took, 5*time.Millisecond)
	f := &scaleFigures{Keys: keys, LongestPutMs: ms(took[keys-1]), SlowPuts: keys - slow, P9999PutMs: ms(took[keys-1-keys/10_000])}
	segments, _ := filepath.Glob(filepath.Join(dir, "*.seg")) // the pattern is good
	f.Rotations = len(segments) - 1
	for deadline := time.Now().Add(time.Minute); unhinted(dir) > 1; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return nil, errors.New("the hints are not made")
		}
	}
	return f, nil
}

// collection is the CPU time of one garbage collection, in milliseconds.
func collection() float64 {
	var took []float64
	for range 9 {
		cpu := cpuTime()
		runtime.GC()
		took = append(took, ms(cpuTime()-cpu))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// unhinted counts segments without a hint of their own; the active one never has any.
func unhinted(dir string) (n int) {
	segments, _ := filepath.Glob(filepath.Join(dir, "*.seg")) // the pattern is good
	for _, name := range segments {
		if _, err := os.Stat(strings.TrimSuffix(name, ".seg") + ".hint"); err != nil {
			n++
		}
	}
	return n
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// cpuTime of this process, all threads.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail with these arguments
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
