package main

import (
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestLoadedKeysAreChecked runs the part of the benchmark that needs no raftcask: start Redis, load, check, measure, stop.
func TestLoadedKeysAreChecked(t *testing.T) {
	for _, tool := range []string{"redis-server", "redis-benchmark"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: .ci/deps installs it", err)
		}
	}
	ctx := t.Context()
	redis, err := startRedis(ctx, t.TempDir(), freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := redis.stop(); err != nil {
			t.Error(err)
		}
	}()

	if err := verify(ctx, redis.addr); err == nil || !strings.Contains(err.Error(), "DBSIZE") {
		t.Fatalf("verify of an empty server: %v", err)
	}
	if err := load(ctx, redis.addr); err != nil {
		t.Fatal(err)
	}
	s, err := redisBenchmark(ctx, redis.addr, workload{"set", 4, 2, 0}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if s.opsPerSecond <= 0 || s.p50Ms <= 0 || s.p99Ms < s.p50Ms {
		t.Errorf("redis-benchmark measured %+v", s)
	}
	if err := verify(ctx, redis.addr); err != nil {
		t.Errorf("redis-benchmark writes other keys or values than were loaded: %v", err)
	}

	c, err := dial(ctx, redis.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := expect("OK")(c.do("SET", key(97), "short")); err != nil {
		t.Fatal(err)
	}
	if err := verify(ctx, redis.addr); err == nil || !strings.Contains(err.Error(), key(97)) {
		t.Errorf("verify did not see a short value: %v", err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nothing was accepted
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
