package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/raftcask/raftcask/bench/internal/machine"
)

// report is everything that the result file says.
type report struct {
	when      time.Time
	options   options
	machine   machine.Machine
	latencies []*latencies
	spaces    []*spaces
}

func (r *report) write() error {
	if err := os.MkdirAll(filepath.Dir(r.options.out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(r.options.out, []byte(r.markdown()), 0o644)
}

func (r *report) markdown() string {
	var b strings.Builder
	o, m := &r.options, &r.machine
	fmt.Fprintf(&b, "# What a merge costs, %s\n\n", r.when.Format(time.DateOnly))
	fmt.Fprintf(&b, "- Command: `make bench-merge` (`merge -keys %d -segment %d -rounds %d -seconds %g -turns %d`).\n", o.keys, o.segment, o.rounds, o.length.Seconds(), o.turns)
	fmt.Fprintf(&b, "- Keys of 16 bytes, values of %d, chosen at random; the engine's defaults (merges read 8 MiB/s, and more if dead bytes come faster). Commit %s.\n", valueBytes, m.Commit)
	fmt.Fprintf(&b, "- Machine: %d cores (%s), %s; %s; load average before the run: %s; %s.\n", runtime.NumCPU(), m.CPU, m.Kernel, m.Disk, m.Load, runtime.Version())
	if len(r.latencies) > 0 {
		b.WriteString("\nOne goroutine gets and one puts, turn by turn without and with a merge. Busy: as fast as they can. Steady: at a fixed rate, and an operation's time begins when it should have begun, so that a stall counts for all it holds up, and so does the time that the system takes to wake a sleeper. The target is a ratio of at most 2.\n\n")
		b.WriteString("| load | operation | without: p50, µs | p99 | p99.9 | max | merging: p50, µs | p99 | p99.9 | max | p99 ratio |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
		for _, f := range r.latencies {
			b.WriteString(f.rows())
		}
	}
	if len(r.spaces) > 0 {
		b.WriteString("\nAll keys are overwritten at random, several times over; space amplification is the bytes of all segments and hints by those of the live records, sampled from the second time on. The target is at most 2. The reserve for merges on a full disk comes on top. Held up is the part of the time in which writers wait because dead bytes come faster than merges can go.\n\n")
		b.WriteString("| load | puts/s | space amplification, mean | highest | reserve, MiB | write amplification | held up by merges |\n|---|---:|---:|---:|---:|---:|---:|\n")
		for _, f := range r.spaces {
			b.WriteString(f.row())
		}
	}
	return b.String()
}

func (f *latencies) rows() string {
	var b strings.Builder
	for _, row := range []struct {
		what string
		h    *[2]histogram
	}{{"get", &f.get}, {"put", &f.put}} {
		fmt.Fprintf(&b, "| %s | %s |", f.load.name, row.what)
		for i := range row.h {
			h := &row.h[i]
			fmt.Fprintf(&b, " %.1f | %.1f | %.1f | %.0f |", us(h.at(0.5)), us(h.at(0.99)), us(h.at(0.999)), us(h.max))
		}
		fmt.Fprintf(&b, " **%.2f** |\n", us(row.h[1].at(0.99))/us(row.h[0].at(0.99)))
	}
	return b.String()
}

func (f *spaces) row() string {
	return fmt.Sprintf("| %s | %.0f | **%.2f** | %.2f | %.0f | %.2f | %.0f %% |\n", f.load.name, f.putPerSecond, f.mean, f.highest, f.reserveMiB, f.writeAmplification, 100*f.stalled)
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
