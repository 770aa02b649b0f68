// Command cluster compares a three-node raftcask with one Redis that syncs every write.
//
//	make bench                                     # from the root of the repository
//	cd bench && go run ./cluster -seconds 5        # longer rounds
//
// It starts `raftcask dev` (three processes, fsync on) and `redis-server --appendonly yes --appendfsync always` on loopback,
// puts the same keys into both, and runs redis-benchmark against the leader and against Redis in turn: round by round, so
// that both see the same machine. The median round counts. Redis keeps one copy and raftcask a majority of three on the
// same disk and cores, so the ratio is the figure to watch; the absolute numbers are those of one machine on one day.
//
// The result is printed and written to bench/results/<date>-cluster.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/raftcask/raftcask/bench/internal/machine"
	"github.com/raftcask/raftcask/bench/internal/program"
)

const (
	valueBytes = 256
	keyCount   = 100_000 // redis-benchmark -r: keys are key:000000000000 … key:000000099999, 16 bytes each
)

// options are the command line.
type options struct {
	raftcask string        // path of the binary
	dir      string        // parent of the data directories; decides which disk is measured
	out      string        // result file; empty: results/<date>-cluster.md
	port     int           // first RESP port of raftcask; Redis takes the one 100 above
	rounds   int           // rounds per workload and system
	round    time.Duration // aimed length of one round
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	return program.Run(args, stdout, stderr, parse, compare)
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("cluster", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.raftcask, "raftcask", "../bin/raftcask", "the binary to measure")
	fs.StringVar(&o.dir, "dir", ".", "where the data directories are made: the disk to measure")
	fs.StringVar(&o.out, "out", "", "result file (default results/<date>-cluster.md)")
	fs.IntVar(&o.port, "port", 17379, "first RESP port of raftcask; Redis listens 100 above")
	fs.IntVar(&o.rounds, "rounds", 3, "rounds per workload and system; the median counts")
	seconds := fs.Float64("seconds", 2.5, "aimed length of a round")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 || o.rounds < 1 || *seconds <= 0 {
		fmt.Fprintln(stderr, "bench: no arguments are taken; -rounds and -seconds must be positive")
		return o, errors.New("bad arguments")
	}
	o.round = time.Duration(*seconds * float64(time.Second))
	if o.out == "" {
		o.out = filepath.Join("results", time.Now().Format(time.DateOnly)+"-cluster.md")
	}
	return o, nil
}

// compare is the whole benchmark, top to bottom.
func compare(ctx context.Context, o options, stdout io.Writer) (err error) {
	bin, err := filepath.Abs(o.raftcask)
	if err != nil {
		return err
	}
	if _, err := os.Stat(bin); err != nil {
		return fmt.Errorf("%w: build it first (make build)", err)
	}
	for _, tool := range []string{"redis-server", "redis-benchmark"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: on Debian it is in redis-server or redis-tools", err)
		}
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

	about := machine.Describe(ctx, work) // before anything here loads it
	fmt.Fprintln(stdout, "measuring the disk; load average before:", about.Load)
	disk, err := probeDisk(work)
	if err != nil {
		return fmt.Errorf("measure the disk: %w", err)
	}

	raftcask, err := startRaftcask(ctx, bin, filepath.Join(work, "raftcask"), o.port)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raftcask.stop()) }()
	redis, err := startRedis(ctx, filepath.Join(work, "redis"), o.port+100)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, redis.stop()) }()

	leader, err := raftcask.leader(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "raftcask leader %s, redis %s; loading %d keys into each\n", leader, redis.addr, keyCount)
	for _, addr := range []string{leader, redis.addr} {
		if err := load(ctx, addr); err != nil {
			return fmt.Errorf("load %s: %w", addr, err)
		}
	}

	results, err := measure(ctx, o, leader, redis.addr, stdout)
	if err != nil {
		return err
	}

	after, err := raftcask.leader(ctx)
	if err != nil {
		return err
	}
	if after != leader {
		return fmt.Errorf("the leader moved from %s to %s during the run: part of it measured forwarding; run it again", leader, after)
	}
	for _, addr := range append(raftcask.addrs, redis.addr) {
		if err := verify(ctx, addr); err != nil {
			return fmt.Errorf("after the run, %s: %w", addr, err)
		}
	}

	report := report{
		when: time.Now(), options: o, machine: about, disk: disk, results: results,
		version: machine.Output(ctx, bin, "version"), redis: machine.Output(ctx, "redis-server", "--version"),
	}
	text := report.markdown()
	fmt.Fprint(stdout, "\n", text)
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	if err := os.WriteFile(o.out, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	fmt.Fprintln(stdout, "\nwritten to", o.out)
	return nil
}

// workload is one line of the table.
type workload struct {
	command  string // set, get
	clients  int
	pipeline int
	target   float64 // raftcask / Redis to reach; 0: for information
}

// workloads, and the least that raftcask should reach of one Redis.
var workloads = []workload{
	{"set", 1, 1, 0.3},
	{"set", 16, 1, 0.25},
	{"set", 64, 1, 0.35},
	{"set", 256, 1, 0.5},
	{"set", 64, 16, 0.4},
	{"get", 1, 1, 0},
	{"get", 16, 1, 0},
	{"get", 64, 1, 0.5},
	{"get", 256, 1, 0},
}

func (w workload) String() string {
	name := strings.ToUpper(w.command) + ", " + strconv.Itoa(w.clients)
	if w.clients == 1 {
		name += " client"
	} else {
		name += " clients"
	}
	if w.pipeline > 1 {
		name += " × pipeline " + strconv.Itoa(w.pipeline)
	}
	return name
}

// result holds the rounds of one workload.
type result struct {
	workload
	raftcask, redis []sample
}

// measure runs every workload: first a short run of each system, to learn how many requests fill a round, then the rounds in turn.
func measure(ctx context.Context, o options, raftcask, redis string, stdout io.Writer) ([]result, error) {
	var results []result
	for _, w := range workloads {
		r := result{workload: w}
		systems := []struct {
			addr     string
			requests int
			samples  *[]sample
		}{{raftcask, 0, &r.raftcask}, {redis, 0, &r.redis}}

		for i := range systems {
			probe, err := redisBenchmark(ctx, systems[i].addr, w, max(500, w.clients*w.pipeline*10))
			if err != nil {
				return nil, err
			}
			systems[i].requests = max(int(probe.opsPerSecond*o.round.Seconds()), w.clients*w.pipeline*20)
		}
		for range o.rounds {
			for _, s := range systems {
				sample, err := redisBenchmark(ctx, s.addr, w, s.requests)
				if err != nil {
					return nil, err
				}
				*s.samples = append(*s.samples, sample)
			}
		}
		a, b := median(r.raftcask), median(r.redis)
		fmt.Fprintf(stdout, "%-28s raftcask %8.0f/s  redis %8.0f/s  ratio %.2f\n", w, a.opsPerSecond, b.opsPerSecond, a.opsPerSecond/b.opsPerSecond)
		results = append(results, r)
	}
	return results, nil
}
