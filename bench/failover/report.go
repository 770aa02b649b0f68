package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/raftcask/raftcask/bench/internal/machine"
)

// Targets of the medians.
const (
	killTarget = time.Second
	stopTarget = 150 * time.Millisecond
)

type report struct {
	when         time.Time
	options      options
	machine      machine.Machine
	version      string
	kills, stops []gap
	steady       steadyRun
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# For how long nobody can write, %s\n\n", r.when.Format(time.DateOnly))
	fmt.Fprintf(&b, "- Command: `make bench-failover` (`failover -runs %d -steady %v`): three `raftcask serve` at default settings on loopback,\n", r.options.runs, r.options.steady)
	fmt.Fprintf(&b, "  %d writers of %d-byte values through one client of the Go SDK, without a pause. A gap is the longest time between two\n", writers, valueBytes)
	fmt.Fprintf(&b, "  successful writes of any writer, from the signal to the leader until %v after its end.\n", watch)
	fmt.Fprintf(&b, "- raftcask: commit %s, `%s`.\n", r.machine.Commit, r.version)
	fmt.Fprintf(&b, "- Machine: %d cores (%s), %s, %s; load average before the run: %s.\n\n", runtime.NumCPU(), r.machine.CPU, r.machine.Kernel, r.machine.Disk, r.machine.Load)
	b.WriteString("| the leader ends by | runs | gap, median | least | most | target (median) | | unknown outcomes | not applied |\n")
	b.WriteString("|---|---:|---:|---:|---:|---:|---|---:|---:|\n")
	row(&b, "kill -9", r.kills, killTarget)
	row(&b, "SIGTERM", r.stops, stopTarget)
	b.WriteString("\nEvery gap, ms:\n\n")
	fmt.Fprintf(&b, "- kill -9: %s\n- SIGTERM: %s\n", every(r.kills), every(r.stops))
	if s := r.steady; s.length > 0 {
		verdict := "met"
		if s.elections > 0 {
			verdict = "missed"
		}
		fmt.Fprintf(&b, "\nUndisturbed for %v, with %d writes, and %.1f GB written and synced beside them in pieces of 8 MiB: **%d elections** (target 0: %s); the longest gap was %d ms, the slowest write took %d ms, %d outcomes were unknown, %d writes were not applied.\n",
			s.length.Round(time.Second), s.writes, float64(s.diskBytes)/1e9, s.elections, verdict, s.gap.longest.Milliseconds(), s.gap.slowest.Milliseconds(), s.gap.unknown, s.gap.refused)
	}
	return b.String()
}

func row(b *strings.Builder, name string, gaps []gap, target time.Duration) {
	if len(gaps) == 0 {
		return
	}
	sorted := sortedGaps(gaps)
	unknown, refused := 0, 0
	for _, g := range gaps {
		unknown, refused = unknown+g.unknown, refused+g.refused
	}
	verdict := "met"
	if median(sorted) > target {
		verdict = "missed"
	}
	fmt.Fprintf(b, "| %s | %d | **%d ms** | %d ms | %d ms | %d ms | %s | %d | %d |\n", name, len(gaps), median(sorted).Milliseconds(),
		sorted[0].Milliseconds(), sorted[len(sorted)-1].Milliseconds(), target.Milliseconds(), verdict, unknown, refused)
}

func sortedGaps(gaps []gap) []time.Duration {
	var all []time.Duration
	for _, g := range gaps {
		all = append(all, g.longest)
	}
	slices.Sort(all)
	return all
}

// median of a sorted list: of two in the middle their mean.
func median(sorted []time.Duration) time.Duration {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func every(gaps []gap) string {
	var all []string
	for _, g := range gaps {
		all = append(all, fmt.Sprint(g.longest.Milliseconds()))
	}
	return strings.Join(all, " ")
}

func (r *report) write(stdout io.Writer) error {
	text := r.markdown()
	fmt.Fprint(stdout, "\n", text)
	if err := os.MkdirAll(filepath.Dir(r.options.out), 0o755); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	if err := os.WriteFile(r.options.out, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	fmt.Fprintln(stdout, "\nwritten to", r.options.out)
	return nil
}
