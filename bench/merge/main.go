// Command merge measures what merges cost the foreground, and what they keep the disk to.
//
//	make bench-merge                           # from the root of the repository
//	cd bench && go run ./merge -only latency   # one half of it
//
// Latency: one goroutine gets and one puts, random keys, while a merge runs and while none does, turn by turn within one
// store. "busy" is as fast as they can; "steady" is at a fixed rate, and then an operation is late from the moment it should
// have begun. Background merges are off, so that the phases are what they are called; the merge is Store.Merge, which
// reads and writes as they do, at the default speed.
//
// Space: all keys are overwritten at random, several times over, with the default background merges. Amplification is
// the bytes of all segments and hints by those of the live records.
//
// The result is printed and written to bench/results/<date>-merge.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/raftcask/raftcask/bench/internal/machine"
	"github.com/raftcask/raftcask/bench/internal/program"
)

type options struct {
	dir     string // parent of the data directories; decides which disk is measured
	out     string // result file
	keys    int
	rounds  int           // of each load: one phase without a merge, one with
	length  time.Duration // of a phase
	only    string        // "", "latency" or "space"
	load    string        // only loads whose names have it
	segment int64         // bytes
	turns   int           // how often all keys are overwritten to measure space
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	return program.Run(args, stdout, stderr, parse, measure)
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("merge", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.dir, "dir", ".", "where the data directories are made: the disk to measure")
	fs.StringVar(&o.out, "out", "", "result file (default results/<date>-merge.md)")
	fs.IntVar(&o.keys, "keys", 1_000_000, "keys in the store, values of 256 bytes")
	fs.IntVar(&o.rounds, "rounds", 2, "turns of each load")
	fs.StringVar(&o.only, "only", "", `"latency" or "space": one half of it`)
	fs.StringVar(&o.load, "load", "", "only loads whose names contain this")
	fs.Int64Var(&o.segment, "segment", 256<<20, "bytes of a segment")
	fs.IntVar(&o.turns, "turns", 8, "how often all keys are overwritten to measure space")
	seconds := fs.Float64("seconds", 8, "length of a phase")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 || o.keys < 100 || o.rounds < 1 || o.turns < 2 || *seconds <= 0 || (o.only != "" && o.only != "latency" && o.only != "space") {
		fmt.Fprintln(stderr, "bench: no arguments are taken; -keys (at least 100), -rounds, -turns (at least 2) and -seconds must be positive, -only latency or space")
		return o, errors.New("bad arguments")
	}
	o.length = time.Duration(*seconds * float64(time.Second))
	if o.out == "" {
		o.out = filepath.Join("results", time.Now().Format(time.DateOnly)+"-merge.md")
	}
	return o, nil
}

// measure is the whole benchmark, top to bottom.
func measure(ctx context.Context, o options, stdout io.Writer) (err error) {
	work, err := os.MkdirTemp(o.dir, "tmp-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	r := report{when: time.Now(), options: o, machine: machine.Describe(ctx, work)}
	if o.only != "space" {
		for _, l := range loads {
			if !strings.Contains(l.name, o.load) {
				continue
			}
			f, err := latency(ctx, filepath.Join(work, "latency"), l, o)
			if err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
			r.latencies = append(r.latencies, f)
			fmt.Fprint(stdout, f.rows())
		}
	}
	if o.only != "latency" {
		for _, l := range spaceLoads {
			if !strings.Contains(l.name, o.load) {
				continue
			}
			f, err := space(ctx, filepath.Join(work, "space"), l, o)
			if err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
			r.spaces = append(r.spaces, f)
			fmt.Fprint(stdout, f.row())
		}
	}
	if err := r.write(); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	fmt.Fprint(stdout, "\n", r.markdown(), "\nwritten to ", o.out, "\n")
	return nil
}
