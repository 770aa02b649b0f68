package main

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/raftcask/raftcask/bench/internal/machine"
)

// report is everything that the result file says.
type report struct {
	when    time.Time
	options options
	machine machine.Machine
	version string // of raftcask
	redis   string
	disk    diskLatency
	results []result
}

// markdown renders the report as the result file.
func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Three raftcask nodes beside one Redis, %s\n\n", r.when.Format(time.DateOnly))
	fmt.Fprintf(&b, "- Command: `make bench` (`cluster -rounds %d -seconds %v`), which runs\n", r.options.rounds, r.options.round.Seconds())
	fmt.Fprintf(&b, "  `redis-benchmark --csv -t set|get -d %d -r %d -c C -P P -n N` against the raftcask leader and against Redis in turn;\n", valueBytes, keyCount)
	fmt.Fprintf(&b, "  N fills a round of about %v; the median of %d rounds by throughput counts, with that round's latencies.\n", r.options.round, r.options.rounds)
	fmt.Fprintf(&b, "- Keys of 16 bytes, values of %d bytes, %d keys, all loaded before (checked before and after, on every node).\n", valueBytes, keyCount)
	fmt.Fprintf(&b, "- raftcask: commit %s, `%s`; three nodes on loopback, fdatasync before every acknowledgement on a majority; GET is linearizable.\n", r.machine.Commit, r.version)
	fmt.Fprintf(&b, "- Redis: %s; one node, `appendonly yes`, `appendfsync always`, no RDB saves.\n", r.redis)
	fmt.Fprintf(&b, "- Machine: %d cores (%s), %s; all servers and the load generator share it; load average before the run: %s.\n",
		runtime.NumCPU(), r.machine.CPU, r.machine.Kernel, r.machine.Load)
	fmt.Fprintf(&b, "- Disk: %s; append of 4 KiB + fdatasync p50 %s, p99 %s; into a preallocated file p50 %s, p99 %s.\n\n",
		r.machine.Disk, ms(r.disk.appendP50), ms(r.disk.appendP99), ms(r.disk.preallocatedP50), ms(r.disk.preallocatedP99))

	b.WriteString("| workload | raftcask ops/s | p50 ms | p99 ms | Redis ops/s | p50 ms | p99 ms | ratio | target | |\n")
	b.WriteString("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|\n")
	for _, res := range r.results {
		ours, theirs := median(res.raftcask), median(res.redis)
		ratio := ours.opsPerSecond / theirs.opsPerSecond
		target, verdict := "–", ""
		if res.target > 0 {
			target, verdict = fmt.Sprintf("%.2f", res.target), "missed"
			if ratio >= res.target {
				verdict = "met"
			}
		}
		fmt.Fprintf(&b, "| %s | %.0f | %.3f | %.3f | %.0f | %.3f | %.3f | **%.2f** | %s | %s |\n", res.workload,
			ours.opsPerSecond, ours.p50Ms, ours.p99Ms, theirs.opsPerSecond, theirs.p50Ms, theirs.p99Ms, ratio, target, verdict)
	}
	b.WriteString("\nEvery round, ops/s (raftcask / Redis):\n\n")
	for _, res := range r.results {
		fmt.Fprintf(&b, "- %s: %s / %s\n", res.workload, rounds(res.raftcask), rounds(res.redis))
	}
	return b.String()
}

func rounds(samples []sample) string {
	var parts []string
	for _, s := range samples {
		parts = append(parts, fmt.Sprintf("%.0f", s.opsPerSecond))
	}
	return strings.Join(parts, " ")
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }
