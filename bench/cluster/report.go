package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// report is everything that the result file says.
type report struct {
	when    time.Time
	options options
	machine machine
	disk    diskLatency
	results []result
}

// machine is where and with what it was measured; a part that could not be found out reads "unknown".
type machine struct {
	commit, version   string
	cpu, kernel, disk string
	redis             string
	load              string // averages of the load when the run began: what else the machine was doing
}

func describeMachine(ctx context.Context, bin, dir string) machine {
	m := machine{
		commit:  output(ctx, "git", "rev-parse", "--short=12", "HEAD"),
		version: output(ctx, bin, "version"),
		kernel:  output(ctx, "uname", "-sr"),
		redis:   output(ctx, "redis-server", "--version"),
		cpu:     "unknown",
		disk:    "unknown",
		load:    "unknown",
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.load = strings.Join(strings.Fields(string(text))[:3], ", ")
	}
	if output(ctx, "git", "status", "--porcelain") != "" {
		m.commit += " with uncommitted changes"
	}
	if value, ok := field("/proc/cpuinfo", "model name"); ok {
		m.cpu = value
	}
	if mount, ok := mountOf(dir); ok {
		m.disk = mount
	}
	return m
}

// output returns the first line that a command prints.
func output(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// field returns the value of the first line `name : value` of a file.
func field(file, name string) (string, bool) {
	f, err := os.Open(file)
	if err != nil {
		return "", false
	}
	defer func() { _ = f.Close() }() // only read
	for scan := bufio.NewScanner(f); scan.Scan(); {
		left, right, ok := strings.Cut(scan.Text(), ":")
		if ok && strings.TrimSpace(left) == name {
			return strings.TrimSpace(right), true
		}
	}
	return "", false
}

// mountOf returns file system and device of the mount that holds dir.
func mountOf(dir string) (string, bool) {
	text, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return "", false
	}
	best, found := "", ""
	for line := range strings.Lines(string(text)) {
		parts := strings.Fields(line)
		if len(parts) < 3 {
			continue
		}
		point := filepath.Clean(parts[1])
		inside := point == "/" || dir == point || strings.HasPrefix(dir, point+"/")
		if inside && len(point) >= len(best) {
			best, found = point, parts[2]+" on "+parts[0]
		}
	}
	return found, found != ""
}

// markdown renders the report as the result file.
func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Three raftcask nodes beside one Redis, %s\n\n", r.when.Format(time.DateOnly))
	fmt.Fprintf(&b, "- Command: `make bench` (`cluster -rounds %d -seconds %v`), which runs\n", r.options.rounds, r.options.round.Seconds())
	fmt.Fprintf(&b, "  `redis-benchmark --csv -t set|get -d %d -r %d -c C -P P -n N` against the raftcask leader and against Redis in turn;\n", valueBytes, keyCount)
	fmt.Fprintf(&b, "  N fills a round of about %v; the median of %d rounds by throughput counts, with that round's latencies.\n", r.options.round, r.options.rounds)
	fmt.Fprintf(&b, "- Keys of 16 bytes, values of %d bytes, %d keys, all loaded before (checked before and after, on every node).\n", valueBytes, keyCount)
	fmt.Fprintf(&b, "- raftcask: commit %s, `%s`; three nodes on loopback, fdatasync before every acknowledgement on a majority; GET is linearizable.\n", r.machine.commit, r.machine.version)
	fmt.Fprintf(&b, "- Redis: %s; one node, `appendonly yes`, `appendfsync always`, no RDB saves.\n", r.machine.redis)
	fmt.Fprintf(&b, "- Machine: %d cores (%s), %s; all servers and the load generator share it; load average before the run: %s.\n",
		runtime.NumCPU(), r.machine.cpu, r.machine.kernel, r.machine.load)
	fmt.Fprintf(&b, "- Disk: %s; append of 4 KiB + fdatasync p50 %s, p99 %s; into a preallocated file p50 %s, p99 %s.\n\n",
		r.machine.disk, ms(r.disk.appendP50), ms(r.disk.appendP99), ms(r.disk.preallocatedP50), ms(r.disk.preallocatedP99))

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
