package integration

import (
	"testing"
	"time"
)

// TestGracefulStopHandsLeadershipOver stops leader after leader while writers write. When it is gone another one leads already,
// so that nobody waits for an election time-out; the writers go on, and nothing acknowledged is lost.
func TestGracefulStopHandsLeadershipOver(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	load := startWriters(t, c, writerCount)
	load.waitForProgress(t, 200)
	const stops = 3
	for range stops {
		leader := c.leader()
		leader.stop()
		next := runningLeader(c)
		if next == nil || next == leader {
			t.Errorf("the leader %s has ended, and nobody leads: it has not handed over", leader.id)
		}
		load.waitForProgress(t, 200)
		leader.start()
		leader.waitReady()
		c.waitCaughtUp(leader, time.Minute)
	}
	load.stop()
	acked, unknown, refused := load.totals()
	t.Logf("%d writes acknowledged, %d unknown, %d not applied", acked, unknown, refused)
	if unknown > stops*writerCount { // each writer has one write under way
		t.Errorf("%d writes of unknown outcome in %d stops", unknown, stops)
	}
	for _, n := range c.nodes {
		load.check(t, n)
	}
}
