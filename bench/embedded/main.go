// Command embedded compares the engine (package bitcask) with other embedded key-value stores in Go.
//
//	make bench-embedded                              # from the root of the repository
//	cd bench && go run ./embedded -rounds 1          # quicker
//	cd bench && go run ./embedded -only scale        # ours alone, 1 and 10 million keys
//
// Every phase of every store runs in a process of its own: what it holds in memory is its own, and the process that
// loads is killed, so that the one that reads has an unclean stop behind it. The stores take turns, round by round; the
// median round counts, of two the higher figure. Keys have 16 bytes, values 256 random ones, all stores their defaults but for what bench/embedded/stores.go says.
//
// The result is printed and written to bench/results/<date>-embedded.md, with two plots.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/raftcask/raftcask/bench/internal/machine"
	"github.com/raftcask/raftcask/bench/internal/program"
)

type options struct {
	dir    string // parent of the data directories; decides which disk is measured
	out    string // result file; the plots are beside it
	keys   int    // of the table
	rounds int
	length time.Duration // of a timed phase
	only   string        // "", "compare" or "scale"
	scale  []int         // numbers of keys for the scale phase
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		os.Exit(child(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	return program.Run(args, stdout, stderr, parse, measure)
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("embedded", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.dir, "dir", ".", "where the data directories are made: the disk to measure")
	fs.StringVar(&o.out, "out", "", "result file (default results/<date>-embedded.md)")
	fs.IntVar(&o.keys, "keys", 1_000_000, "keys in each store")
	fs.IntVar(&o.rounds, "rounds", 3, "rounds; the median counts, of two the higher figure")
	fs.StringVar(&o.only, "only", "", `"compare" or "scale": one half of it`)
	seconds := fs.Float64("seconds", 3, "length of a timed phase")
	scale := fs.String("scale", "1000000,10000000", "numbers of keys to measure the engine alone with")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	for _, text := range strings.Split(*scale, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 100 {
			fmt.Fprintf(stderr, "bench: -scale: %q is no number of keys\n", text)
			return o, errors.New("bad arguments")
		}
		o.scale = append(o.scale, n)
	}
	if fs.NArg() > 0 || o.rounds < 1 || *seconds <= 0 || o.keys < 100 || (o.only != "" && o.only != "compare" && o.only != "scale") {
		fmt.Fprintln(stderr, "bench: no arguments are taken; -rounds, -seconds and -keys (at least 100) must be positive, -only compare or scale")
		return o, errors.New("bad arguments")
	}
	o.length = time.Duration(*seconds * float64(time.Second))
	if o.out == "" {
		o.out = filepath.Join("results", time.Now().Format(time.DateOnly)+"-embedded.md")
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
	r := report{when: time.Now(), options: o, machine: machine.Describe(ctx, work), rounds: map[string][]figures{}, growth: map[string][]point{}}
	if o.only != "scale" {
		for n := range o.rounds {
			for i := range engines {
				e := engines[(i+n)%len(engines)] // nobody is always first
				f, err := round(ctx, e, work, o.keys, o.length, true)
				if err != nil {
					return err
				}
				r.rounds[e.name] = append(r.rounds[e.name], f)
				fmt.Fprintf(stdout, "round %d %-9s put %9.0f/s  get %9.0f/s  2: %9.0f/s  synced %7.0f/s (raw %.0f/s)  64: %7.0f/s  %5.0f B/key  open %.2f s\n",
					n+1, e.name, f.PutPerSecond, f.GetPerSecond, f.Get2PerSecond, f.SyncedPerSecond, f.RawPerSecond, f.Synced64PerSecond, f.MemoryPerKey, f.OpenSeconds)
			}
		}
		for _, keys := range []int{o.keys / 100, o.keys / 10} {
			for _, e := range engines {
				f, err := round(ctx, e, work, keys, o.length/3, false)
				if err != nil {
					return err
				}
				r.growth[e.name] = append(r.growth[e.name], point{keys, f})
			}
		}
		for _, e := range engines {
			r.growth[e.name] = append(r.growth[e.name], point{o.keys, r.median(e.name)})
		}
	}
	if o.only != "compare" {
		for _, keys := range o.scale {
			f, err := scaled(ctx, work, keys)
			if err != nil {
				return err
			}
			fmt.Fprintf(stdout, "%d keys: %+v\n", keys, f)
			r.scale = append(r.scale, f)
		}
	}
	if err := r.write(); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	fmt.Fprint(stdout, "\n", r.markdown(), "\nwritten to ", o.out, "\n")
	return nil
}

// round runs all phases of one store on fresh directories.
func round(ctx context.Context, e engine, work string, keys int, length time.Duration, synced bool) (all figures, err error) {
	phases := []string{phaseLoad, phaseRead}
	if synced {
		phases = append(phases, phaseSync1, phaseSync)
	}
	dir := filepath.Join(work, e.name)
	for _, phase := range phases {
		if phase == phaseSync1 || phase == phaseSync {
			if err := os.RemoveAll(dir); err != nil {
				return all, err
			}
		}
		f, err := inChild(ctx, e.name, phase, dir, keys, length)
		if err != nil {
			return all, fmt.Errorf("%s, %s: %w", e.name, phase, err)
		}
		if phase == phaseSync {
			all.Synced64PerSecond = f.SyncedPerSecond
			continue
		}
		all.merge(f)
	}
	return all, os.RemoveAll(dir)
}

// scaled runs the two lives of the scale phase.
func scaled(ctx context.Context, work string, keys int) (scaleFigures, error) {
	dir := filepath.Join(work, "scale")
	first, err := inChild(ctx, engines[0].name, phaseScale, dir, keys, 0)
	if err != nil {
		return scaleFigures{}, fmt.Errorf("scale, %d keys: %w", keys, err)
	}
	second, err := inChild(ctx, engines[0].name, phaseScale, dir, keys, 0)
	if err != nil {
		return scaleFigures{}, fmt.Errorf("scale, %d keys, reopened: %w", keys, err)
	}
	f := *second.Scale
	grown := first.Scale
	f.LongestPutMs, f.P9999PutMs, f.SlowPuts, f.Rotations = grown.LongestPutMs, grown.P9999PutMs, grown.SlowPuts, grown.Rotations
	return f, os.RemoveAll(dir)
}

// inChild runs one phase in a process of its own and returns what it printed.
func inChild(ctx context.Context, engine, phase, dir string, keys int, length time.Duration) (figures, error) {
	self, err := os.Executable()
	if err != nil {
		return figures{}, err
	}
	syscall.Sync() // nobody pays for what another phase left to be written
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, self, "child", engine, phase, dir, strconv.Itoa(keys), length.String())
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var f figures
	if jsonErr := json.Unmarshal(out.Bytes(), &f); jsonErr != nil { // a child that printed its result may die as it likes
		return f, fmt.Errorf("%w: %s", errors.Join(err, jsonErr), strings.TrimSpace(errs.String()))
	}
	return f, nil
}

// child is the other side of inChild.
func child(args []string, stdout, stderr io.Writer) int {
	if len(args) != 5 {
		fmt.Fprintln(stderr, "bench: child: five arguments are needed")
		return 2
	}
	e, err := engineOf(args[0])
	keys, err2 := strconv.Atoi(args[3])
	length, err3 := time.ParseDuration(args[4])
	if err := errors.Join(err, err2, err3); err != nil {
		fmt.Fprintln(stderr, "bench: child:", err)
		return 2
	}
	f, err := runPhase(e, args[1], args[2], keys, length)
	if err == nil {
		err = json.NewEncoder(stdout).Encode(f)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	if args[1] == phaseLoad || f.Scale != nil {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // an unclean stop
	}
	return 0
}
