package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/raftcask/raftcask/bench/internal/machine"
)

// report is everything that the result file says.
type report struct {
	when    time.Time
	options options
	machine machine.Machine
	rounds  map[string][]figures // by engine
	growth  map[string][]point   // by engine, ascending
	scale   []scaleFigures
}

// point of a plot.
type point struct {
	keys int
	figures
}

// merge adds what another phase measured.
func (f *figures) merge(g figures) {
	for _, p := range [][2]*float64{
		{&f.PutPerSecond, &g.PutPerSecond}, {&f.OpenSeconds, &g.OpenSeconds}, {&f.MemoryPerKey, &g.MemoryPerKey},
		{&f.GetPerSecond, &g.GetPerSecond}, {&f.Get2PerSecond, &g.Get2PerSecond}, {&f.GetAllocs, &g.GetAllocs},
		{&f.GetIntoPerSecond, &g.GetIntoPerSecond}, {&f.GetIntoAllocs, &g.GetIntoAllocs},
		{&f.SyncedPerSecond, &g.SyncedPerSecond}, {&f.RawPerSecond, &g.RawPerSecond},
	} {
		*p[0] += *p[1]
	}
	f.Lost += g.Lost
}

// whatCounts says what median takes.
func whatCounts(rounds int) string {
	switch {
	case rounds == 2:
		return "each figure is the higher one of the two rounds, by itself"
	case rounds%2 == 0:
		return "each figure is the higher one of the two rounds in the middle, by itself"
	}
	return "the median round counts, each figure by itself"
}

// median of each figure by itself, of an even number the higher one in the middle.
func (r *report) median(engine string) (m figures) {
	middle := func(of func(*figures) float64) float64 {
		var all []float64
		for i := range r.rounds[engine] {
			all = append(all, of(&r.rounds[engine][i]))
		}
		slices.SortFunc(all, cmp.Compare)
		return all[len(all)/2]
	}
	m.PutPerSecond = middle(func(f *figures) float64 { return f.PutPerSecond })
	m.OpenSeconds = middle(func(f *figures) float64 { return f.OpenSeconds })
	m.MemoryPerKey = middle(func(f *figures) float64 { return f.MemoryPerKey })
	m.GetPerSecond = middle(func(f *figures) float64 { return f.GetPerSecond })
	m.Get2PerSecond = middle(func(f *figures) float64 { return f.Get2PerSecond })
	m.GetAllocs = middle(func(f *figures) float64 { return f.GetAllocs })
	m.GetIntoPerSecond = middle(func(f *figures) float64 { return f.GetIntoPerSecond })
	m.GetIntoAllocs = middle(func(f *figures) float64 { return f.GetIntoAllocs })
	m.SyncedPerSecond = middle(func(f *figures) float64 { return f.SyncedPerSecond })
	m.RawPerSecond = middle(func(f *figures) float64 { return f.RawPerSecond })
	m.Synced64PerSecond = middle(func(f *figures) float64 { return f.Synced64PerSecond })
	m.Lost = int(middle(func(f *figures) float64 { return float64(f.Lost) }))
	return m
}

// write makes the result file and the plots beside it.
func (r *report) write() error {
	if err := os.MkdirAll(filepath.Dir(r.options.out), 0o755); err != nil {
		return err
	}
	if len(r.growth) > 0 {
		if err := r.plots(); err != nil {
			return err
		}
	}
	return os.WriteFile(r.options.out, []byte(r.markdown()), 0o644)
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Embedded engines side by side, %s\n\n", r.when.Format(time.DateOnly))
	fmt.Fprintf(&b, "- Command: `make bench-embedded` (`embedded -keys %d -rounds %d -seconds %v`).\n", r.options.keys, r.options.rounds, r.options.length.Seconds())
	fmt.Fprintf(&b, "- Keys of 16 bytes, values of %d random bytes. Each phase of each store runs in a process of its own, after a sync of all that others left; the stores take turns; %s.\n", valueBytes, whatCounts(r.options.rounds))
	fmt.Fprintf(&b, "- pogreb v0.10.2, pebble v2.1.7, nutsdb v1.0.4, rosedb v2.4.0, mills: go.mills.io/bitcask/v2 v2.1.3; their defaults. raftcask: commit %s.\n", r.machine.Commit)
	fmt.Fprintf(&b, "- Machine: %d cores (%s), %s; %s; load average before the run: %s; %s.\n", runtime.NumCPU(), r.machine.CPU, r.machine.Kernel, r.machine.Disk, r.machine.Load, runtime.Version())
	if len(r.rounds) > 0 {
		r.table(&b)
	}
	if len(r.scale) > 0 {
		r.scaleTable(&b)
	}
	return b.String()
}

func (r *report) table(b *strings.Builder) {
	b.WriteString("\nPuts without sync by one goroutine; gets of random keys, every value compared once before; memory is RSS after opening, less that of the empty process; the open follows a SIGKILL, and \"lost\" is what that cost; those keys were put again before the gets.\n\n")
	b.WriteString("| engine | put/s | get/s, 1 goroutine | get/s, 2 | allocations per get | memory per key, B | open, s | lost keys |\n|---|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, e := range engines {
		m := r.median(e.name)
		fmt.Fprintf(b, "| %s | %.0f | %.0f | %.0f | %.1f | %.0f | %.2f | %d |\n", e.name, m.PutPerSecond, m.GetPerSecond, m.Get2PerSecond, m.GetAllocs, m.MemoryPerKey, m.OpenSeconds, m.Lost)
		if e.takesBuffer {
			fmt.Fprintf(b, "| %s, caller's buffer | | %.0f | | %.1f | | | |\n", e.name, m.GetIntoPerSecond, m.GetIntoAllocs)
		}
	}
	b.WriteString("\nSynced puts. Raw is an append of the same bytes and fdatasync, in turn with the one writer in one process, to a file that grows: raftcask writes into space that it has reserved, so its fdatasync has no new size to commit.\n\n")
	fmt.Fprintf(b, "| engine | a put waits for | 1 writer/s | of raw | %d writers/s |\n|---|---|---:|---:|---:|\n", syncWriters)
	for _, e := range engines {
		m := r.median(e.name)
		fmt.Fprintf(b, "| %s | %s | %.0f | %.2f | %.0f |\n", e.name, e.syncs, m.SyncedPerSecond, m.SyncedPerSecond/m.RawPerSecond, m.Synced64PerSecond)
	}
	ours := r.median(engines[0].name)
	best := func(of func(figures) float64) (name string, value float64) {
		for _, e := range engines[1:] {
			if v := of(r.median(e.name)); v > value {
				name, value = e.name, v
			}
		}
		return name, value
	}
	b.WriteString("\n| ratio | raftcask : the fastest other | target |\n|---|---|---:|\n")
	for _, row := range []struct {
		what   string
		of     func(figures) float64
		target float64
	}{
		{"put without sync", func(f figures) float64 { return f.PutPerSecond }, 2},
		{"get, 1 goroutine", func(f figures) float64 { return f.GetPerSecond }, 1},
		{"get, 2 goroutines", func(f figures) float64 { return f.Get2PerSecond }, 1},
		{fmt.Sprintf("synced put, %d writers", syncWriters), func(f figures) float64 { return f.Synced64PerSecond }, 1},
	} {
		name, value := best(row.of)
		fmt.Fprintf(b, "| %s | **%.2f** (%s) | %.1f |\n", row.what, row.of(ours)/value, name, row.target)
	}
	fmt.Fprintf(b, "| synced put, 1 writer : raw | **%.2f** | 0.9 |\n", ours.SyncedPerSecond/ours.RawPerSecond)
	base := strings.TrimSuffix(filepath.Base(r.options.out), ".md")
	fmt.Fprintf(b, "\n![gets per second against keys](%s-get.svg) ![memory against keys](%s-memory.svg)\n", base, base)
}

func (r *report) scaleTable(b *strings.Builder) {
	fmt.Fprintf(b, "\nraftcask's engine alone, values of %d bytes, unsynced puts, killed and opened again. Memory per key is RSS; the last two columns leave mapped files out, which are page cache.\n\n", scaleValueBytes)
	b.WriteString("| keys | memory per key, B (key included) | open, s | one collection, ms of CPU | put p99.99, ms | longest put, ms | puts over 5 ms | rotations | memory, MiB | after deleting 99 of 100, MiB |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, f := range r.scale {
		fmt.Fprintf(b, "| %d | %.1f | %.2f | %.2f | %.3f | %.1f | %d | %d | %.0f | %.0f |\n",
			f.Keys, f.MemoryPerKey, f.OpenSeconds, f.CollectionMs, f.P9999PutMs, f.LongestPutMs, f.SlowPuts, f.Rotations, f.BeforeDelete, f.AfterDeletesMiB)
	}
}
