package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// diskLatency is what one append of 4 KiB followed by fdatasync costs: the floor under every synced write.
type diskLatency struct {
	appendP50, appendP99             time.Duration // the file grows
	preallocatedP50, preallocatedP99 time.Duration // the file has its size already
}

const (
	probeWrites = 1500
	probeBytes  = 4096
)

func probeDisk(dir string) (diskLatency, error) {
	var d diskLatency
	var err error
	if d.appendP50, d.appendP99, err = probe(filepath.Join(dir, "probe"), false); err != nil {
		return d, err
	}
	d.preallocatedP50, d.preallocatedP99, err = probe(filepath.Join(dir, "probe-preallocated"), true)
	return d, err
}

func probe(name string, preallocate bool) (p50, p99 time.Duration, err error) {
	f, err := os.Create(name)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(name)) }()
	fd := int(f.Fd())
	if preallocate {
		if err := syscall.Fallocate(fd, 0, 0, probeWrites*probeBytes); err != nil {
			return 0, 0, fmt.Errorf("preallocate: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return 0, 0, err
	}

	block := make([]byte, probeBytes)
	took := make([]time.Duration, probeWrites)
	for i := range took {
		begin := time.Now()
		if _, err := f.WriteAt(block, int64(i)*probeBytes); err != nil {
			return 0, 0, err
		}
		if err := syscall.Fdatasync(fd); err != nil {
			return 0, 0, fmt.Errorf("fdatasync: %w", err)
		}
		took[i] = time.Since(begin)
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100], nil
}
