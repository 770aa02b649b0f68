// Command failover measures for how long nobody can write when the leader goes away.
//
//	make bench-failover                                # from the root of the repository
//	cd bench && go run ./failover -runs 3 -steady 0    # shorter
//
// Three `raftcask serve` processes at default settings run on loopback, and eight writers write through one client of the
// Go SDK without a pause. Three things are measured:
//
//   - kill -9 of the leader, again and again: the longest time between two successful writes, of any writer, from just
//     before the kill until the writers have gone on for a while. The killed node comes back before the next run.
//   - the same with SIGTERM: the leader hands over and stops.
//   - a long run with a busy disk, in which nobody is disturbed: how often the leader changed all the same.
//
// The result is printed and written to bench/results/<date>-failover.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/raftcask/raftcask/bench/internal/machine"
	"github.com/raftcask/raftcask/bench/internal/program"
)

const (
	writers    = 8
	valueBytes = 256
	keyCount   = 10_000 // per writer
	// warmUp before a leader goes, and watch after it: what is measured lies in between.
	warmUp = 2 * time.Second
	watch  = 3 * time.Second
)

type options struct {
	raftcask string
	dir      string
	out      string
	runs     int
	steady   time.Duration
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	return program.Run(args, stdout, stderr, parse, measure)
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("failover", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.raftcask, "raftcask", "../bin/raftcask", "the binary to measure")
	fs.StringVar(&o.dir, "dir", ".", "where the data directories are made: the disk to measure")
	fs.StringVar(&o.out, "out", filepath.Join("results", time.Now().Format(time.DateOnly)+"-failover.md"), "result file")
	fs.IntVar(&o.runs, "runs", 10, "kills, and stops")
	fs.DurationVar(&o.steady, "steady", 10*time.Minute, "length of the run without a disturbance; 0: none")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 || o.runs < 0 || o.steady < 0 {
		fmt.Fprintln(stderr, "failover: no arguments are taken; -runs and -steady must not be negative")
		return o, errors.New("bad arguments")
	}
	return o, nil
}

// measure is the whole benchmark, top to bottom.
func measure(ctx context.Context, o options, stdout io.Writer) (err error) {
	bin, err := filepath.Abs(o.raftcask)
	if err != nil {
		return err
	}
	if _, err := os.Stat(bin); err != nil {
		return fmt.Errorf("%w: build it first (make build)", err)
	}
	parent, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(parent, "tmp-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	r := report{when: time.Now(), options: o, machine: machine.Describe(ctx, work), version: machine.Output(ctx, bin, "version")}

	c, err := startCluster(ctx, bin, work)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	load, err := startLoad(c.addrs())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, load.close()) }()
	for _, way := range []struct {
		name   string
		signal syscall.Signal
		into   *[]gap
	}{{"kill -9", syscall.SIGKILL, &r.kills}, {"SIGTERM", syscall.SIGTERM, &r.stops}} {
		for i := range o.runs {
			g, err := strike(ctx, c, load, way.signal)
			if err != nil {
				return fmt.Errorf("%s, run %d: %w", way.name, i+1, err)
			}
			fmt.Fprintf(stdout, "%s %2d: %4d ms without a write; %d unknown, %d not applied\n", way.name, i+1, g.longest.Milliseconds(), g.unknown, g.refused)
			*way.into = append(*way.into, g)
		}
	}
	if o.steady > 0 {
		if r.steady, err = steady(ctx, c, load, work, o.steady, stdout); err != nil {
			return err
		}
	}
	return r.write(stdout)
}

// strike takes the leader away, measures, and brings it back.
func strike(ctx context.Context, c *cluster, load *load, signal syscall.Signal) (gap, error) {
	if err := sleep(ctx, warmUp); err != nil {
		return gap{}, err
	}
	leader, err := c.leader(ctx)
	if err != nil {
		return gap{}, err
	}
	before := load.mark()
	if err := leader.proc.cmd.Process.Signal(signal); err != nil {
		return gap{}, err
	}
	<-leader.proc.exited
	if err := sleep(ctx, watch); err != nil {
		return gap{}, err
	}
	g := load.since(before)
	if err := leader.start(); err != nil {
		return g, err
	}
	return g, c.awaitReady(ctx)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
