package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// steadyRun is a long time in which nobody was disturbed.
type steadyRun struct {
	length    time.Duration
	elections uint64 // terms that began
	writes    uint64
	gap       gap
	diskBytes int64 // written beside the cluster
}

// steady lets the writers go on, with a busy disk, and counts terms.
func steady(ctx context.Context, c *cluster, load *load, dir string, length time.Duration, stdout io.Writer) (steadyRun, error) {
	if err := sleep(ctx, warmUp); err != nil {
		return steadyRun{}, err
	}
	_, before, err := c.status(ctx)
	if err != nil {
		return steadyRun{}, err
	}
	load.mark()
	written, start := load.count(), time.Now()
	disk, stop := context.WithCancel(ctx)
	defer stop()
	type outcome struct {
		bytes int64
		err   error
	}
	busy := make(chan outcome, 1)
	go func() { // ends with disk, and is waited for
		n, err := keepDiskBusy(disk, filepath.Join(dir, "busy"))
		busy <- outcome{n, err}
	}()
	for elapsed := time.Duration(0); elapsed < length; elapsed = time.Since(start) {
		if err := sleep(ctx, min(length-elapsed, time.Minute)); err != nil {
			return steadyRun{}, err
		}
		fmt.Fprintf(stdout, "steady, %v: %d writes\n", time.Since(start).Round(time.Second), load.count()-written)
	}
	r := steadyRun{length: time.Since(start), gap: load.since(0), writes: load.count() - written}
	stop()
	end := <-busy
	_, after, err := c.status(ctx)
	r.elections, r.diskBytes = after-before, end.bytes
	return r, errors.Join(err, end.err)
}

// keepDiskBusy writes and syncs 8 MiB at a time, over and over one file of 256 MiB, with a pause as long as each took.
func keepDiskBusy(ctx context.Context, name string) (written int64, err error) {
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(name)) }()
	piece := make([]byte, 8<<20)
	for i := int64(0); ; i++ {
		start := time.Now()
		if _, err := f.WriteAt(piece, i%32*int64(len(piece))); err != nil {
			return written, err
		}
		if err := f.Sync(); err != nil {
			return written, err
		}
		written += int64(len(piece))
		if sleep(ctx, time.Since(start)) != nil {
			return written, nil // it is over
		}
	}
}
