package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// awaitStill waits until a paused process has stopped in every thread: it may go on for a moment.
func (n *node) awaitStill() {
	n.t.Helper()
	eventually(n.t, readyTimeout, n.id+" stands still", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", n.proc.cmd.Process.Pid))
		if err != nil {
			return err
		}
		for _, name := range threads {
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			// pid (name) state …
			if _, after, _ := strings.Cut(string(text), ") "); !strings.HasPrefix(after, "T") {
				return fmt.Errorf("%s: %.60s", name, text)
			}
		}
		return nil
	})
}

// TestPausedLeaderAnswersNothingFromItsPast freezes the leader until another one is elected and has taken a write. Reads are
// already waiting in the frozen node's sockets, so that it meets them before it has heard of anything. Each must give the
// new value or an error (etcd#20418).
func TestPausedLeaderAnswersNothingFromItsPast(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	for round := range 3 {
		leader := c.leader()
		value := func(when string) string { return fmt.Sprintf("%s-%d", when, round) }
		if openPinned(t, leader.resp).set(context.Background(), "k", value("before")) != acknowledged {
			t.Fatal("a write failed")
		}
		const readers = 32
		conns := make([]*redis, readers)
		for i := range conns {
			conns[i] = dialRedis(t, leader.resp)
			if got := conns[i].do("GET", "k"); got != value("before") {
				t.Fatalf("before the pause: %v", got)
			}
		}
		leader.pause()
		leader.awaitStill()
		for _, conn := range conns {
			if _, err := conn.Write(encode("GET", "k")); err != nil {
				t.Fatal(err)
			}
		}
		next := c.others(leader)[0]
		eventually(t, readyTimeout, "the others take a write", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
			defer cancel()
			if got := openPinned(t, next.resp).set(ctx, "k", value("after")); got != acknowledged {
				return fmt.Errorf("outcome %v", got)
			}
			return nil
		})
		leader.resume()
		answers := map[string]int{}
		for _, conn := range conns {
			got, err := conn.receive()
			if err != nil {
				got = err
			}
			answers[fmt.Sprint(got)]++
		}
		t.Logf("%v", answers)
		if stale := answers[value("before")]; stale > 0 {
			t.Errorf("%d reads were answered with a value that had been overwritten", stale)
		}
		c.waitReady()
	}
}
