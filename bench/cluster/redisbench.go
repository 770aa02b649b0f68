package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
)

// sample is what one run of redis-benchmark measured.
type sample struct {
	opsPerSecond float64
	p50Ms, p99Ms float64
}

// redisBenchmark runs one workload with the given number of requests.
func redisBenchmark(ctx context.Context, addr string, w workload, requests int) (sample, error) {
	args, err := benchmarkArgs(addr, w, requests)
	if err != nil {
		return sample{}, err
	}
	cmd := exec.CommandContext(ctx, "redis-benchmark", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return sample{}, fmt.Errorf("%s at %s: redis-benchmark: %w\n%s%s", w, addr, err, &stdout, &stderr)
	}
	s, err := parseSample(stdout.Bytes())
	if err != nil {
		return sample{}, fmt.Errorf("%s at %s: redis-benchmark: %w\n%s%s", w, addr, err, &stdout, &stderr)
	}
	return s, nil
}

func benchmarkArgs(addr string, w workload, requests int) ([]string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return []string{
		"-h", host, "-p", port, "--csv", "-t", w.command,
		"-d", strconv.Itoa(valueBytes), "-r", strconv.Itoa(keyCount),
		"-c", strconv.Itoa(w.clients), "-P", strconv.Itoa(w.pipeline), "-n", strconv.Itoa(requests),
	}, nil
}

// parseSample reads the output of redis-benchmark --csv: one header and one line of numbers.
func parseSample(out []byte) (sample, error) {
	start := bytes.Index(out, []byte(`"test"`)) // warnings may come first
	if start < 0 {
		return sample{}, errors.New("no table in its output")
	}
	rows, err := csv.NewReader(bytes.NewReader(out[start:])).ReadAll()
	if err != nil {
		return sample{}, err
	}
	if len(rows) != 2 {
		return sample{}, fmt.Errorf("%d lines in its table, want a header and one result", len(rows))
	}
	var s sample
	for name, field := range map[string]*float64{"rps": &s.opsPerSecond, "p50_latency_ms": &s.p50Ms, "p99_latency_ms": &s.p99Ms} {
		i := slices.Index(rows[0], name)
		if i < 0 {
			return sample{}, fmt.Errorf("no column %s in its table", name)
		}
		if *field, err = strconv.ParseFloat(rows[1][i], 64); err != nil {
			return sample{}, fmt.Errorf("column %s: %w", name, err)
		}
	}
	return s, nil
}

// median returns the sample in the middle by throughput, with the latencies of that same round.
func median(samples []sample) sample {
	sorted := slices.SortedFunc(slices.Values(samples), func(a, b sample) int { return cmp.Compare(a.opsPerSecond, b.opsPerSecond) })
	return sorted[len(sorted)/2]
}
