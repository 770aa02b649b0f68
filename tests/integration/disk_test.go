package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs/diskfault"
)

// smallFiles make a short test seal, merge, snapshot and truncate.
var smallFiles = []string{"--segment-bytes", "1MiB", "--snapshot-bytes", "2MiB", "--trailing-bytes", "1MiB"}

// TestPowerCutOfAllNodesLosesNothingAcknowledged cuts the power of the whole cluster in the middle of writes, again and again:
// at first all that was not synced is gone, later a random part of it. What was acknowledged stays.
func TestPowerCutOfAllNodesLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	c := startSick(t, 3, smallFiles...)
	load := startWriters(t, c, writerCount)
	for i := range 3 {
		load.waitForProgress(t, 200+rng.Uint64N(800))
		cutPower(t, rng, float64(i)/3, c.nodes...)
		c.startAll()
		c.waitReady()
	}
	load.waitForProgress(t, 100)
	load.stop()
	for _, n := range c.nodes {
		load.check(t, n)
	}
}

// hang is a disk that does not come back from a sync of the log.
var hang = diskfault.Rule{Name: "hang", Ops: []string{"sync"}, Path: "*.seg", Stall: true}

// TestLeaderWhoseDiskHangsIsReplaced lets every sync of the leader hang. The others go on within seconds, and when the disk is
// back the old leader follows.
func TestLeaderWhoseDiskHangsIsReplaced(t *testing.T) {
	t.Parallel()
	c := startSick(t, 3)
	load := startWriters(t, c, writerCount)
	load.waitForProgress(t, 200)
	old := c.leader()
	old.sick.fault(hang)
	old.sick.awaitHit(hang.Name)
	began := time.Now()
	other := c.others(old)[0]
	eventually(t, 8*time.Second, "another node leads", func() error { return othersLead(t, other, old) }) // the process gives up after 10 s
	load.waitForProgress(t, 100)
	t.Logf("writes go on %v after the disk of %s began to hang", time.Since(began).Round(time.Millisecond), old.id)
	if !old.running() {
		t.Fatalf("%s has ended: its disk was to hang for a while only", old.id)
	}
	old.sick.heal()
	c.waitCaughtUp(old, time.Minute)

	load.stop()
	for _, n := range c.nodes {
		load.check(t, n)
	}
}

// TestChaosNodeWhoseDiskHangsForEverEnds waits until the leader gives up, and starts it again. It takes ten seconds, so that it
// is part of make chaos only.
func TestChaosNodeWhoseDiskHangsForEverEnds(t *testing.T) {
	onlyInChaos(t)
	c := startSick(t, 3)
	load := startWriters(t, c, writerCount)
	load.waitForProgress(t, 200)
	old := c.leader()
	old.sick.fault(hang)
	if code, err := old.proc.wait(30 * time.Second); err != nil || code != 1 {
		t.Errorf("%s, whose disk hangs for ever: exit code %d, %v; want 1", old.id, code, err)
	}
	mustSay(t, old, "the disk does not answer")
	load.waitForProgress(t, 100)
	old.start() // the disk of its next life is healthy
	old.waitReady()
	load.stop()
	for _, n := range c.nodes {
		load.check(t, n)
	}
}

// othersLead is nil when a node follows another leader than old.
func othersLead(t *testing.T, n, old *node) error {
	t.Helper()
	s, err := statusAt(t, n.resp)
	if err == nil && (s.Leader == "" || s.Leader == old.id) {
		err = fmt.Errorf("%s says that %q leads", n.id, s.Leader)
	}
	return err
}

// mustSay looks for the reason in the log of a node.
func mustSay(t *testing.T, n *node, want string) {
	t.Helper()
	if !strings.Contains(n.log(), want) {
		t.Errorf("the log of %s does not say %q", n.id, want)
	}
}

// TestFailedSyncEndsItsNode fails one sync of a follower and one of the leader, with the change on disk or not. A node that
// does not know what is on its disk must end; the others go on, and it comes back with its next start.
func TestFailedSyncEndsItsNode(t *testing.T) {
	t.Parallel()
	c := startSick(t, 3)
	load := startWriters(t, c, writerCount)
	for _, after := range []bool{false, true} {
		load.waitForProgress(t, 200)
		victim := c.follower()
		if after {
			victim = c.leader()
		}
		victim.sick.fault(diskfault.Rule{Name: "eio", Ops: []string{"sync"}, Path: "*.seg", Error: "EIO", After: after, Count: 1})
		if code, err := victim.proc.wait(30 * time.Second); err != nil || code != 1 {
			t.Fatalf("%s, a sync of which failed: exit code %d, %v; want 1", victim.id, code, err)
		}
		mustSay(t, victim, "input/output error")
		load.waitForProgress(t, 200)
		victim.start()
		victim.waitReady()
		c.waitCaughtUp(victim, time.Minute)
	}
	load.stop()
	for _, n := range c.nodes {
		load.check(t, n)
	}
}

// TestFullDiskOfOneNodeStopsNobody fills the disk of the leader. It takes no writes any more, another leads, and nothing that
// was acknowledged is lost; with room again the node catches up by itself.
func TestFullDiskOfOneNodeStopsNobody(t *testing.T) {
	t.Parallel()
	c := startSick(t, 3)
	load := startWriters(t, c, writerCount)
	load.waitForProgress(t, 200)
	full := c.leader()
	full.sick.fault(diskfault.Rule{Name: "full", Ops: []string{"write", "preallocate", "create"}, Error: "ENOSPC"})
	full.sick.awaitHit("full")
	other := c.others(full)[0]
	eventually(t, readyTimeout, "another node leads", func() error { return othersLead(t, other, full) })
	load.waitForProgress(t, 500)
	if !full.running() {
		t.Fatalf("%s has ended: a full disk is no reason", full.id)
	}
	full.sick.heal()
	c.waitCaughtUp(full, time.Minute)
	load.stop()
	for _, n := range c.nodes {
		load.check(t, n)
	}
}

// TestSlowDiskOfAFollowerSlowsNobody makes each sync of one follower take 200 ms. The leader needs it for no majority.
func TestSlowDiskOfAFollowerSlowsNobody(t *testing.T) {
	c := startSick(t, 3)
	load := startWriters(t, c, writerCount)
	load.waitForProgress(t, 200)
	leader, slow := c.leader(), c.follower()
	slow.sick.fault(diskfault.Rule{Name: "slow", Ops: []string{"sync"}, Delay: 200 * time.Millisecond})
	slow.sick.awaitHit("slow")
	load.waitForProgress(t, 2000)
	if now := c.leader(); now != leader {
		t.Errorf("%s leads, %s did before a follower's disk became slow", now.id, leader.id)
	}
	slow.sick.heal()
	c.waitCaughtUp(slow, time.Minute)
	load.stop()
	for _, n := range c.nodes {
		load.check(t, n)
	}
}

// TestFlippedBitsAreNeverServed lets a running node read wrong bytes from its disk. A reader gets an error or the right
// value, never another one; and what is on the disk is sound, so that a restart brings the node back.
func TestFlippedBitsAreNeverServed(t *testing.T) {
	t.Parallel()
	c := startSick(t, 1)
	n := c.nodes[0]
	conn := dialRedis(t, n.resp)
	want := strings.Repeat("right", 1000)
	if got := conn.do("SET", "k", want); got != status("OK") {
		t.Fatal(got)
	}
	n.sick.fault(diskfault.Rule{Name: "flip", Ops: []string{"read"}, Path: "*.seg", Flip: true})
	refused := 0
	for range 50 {
		got, err := conn.try("GET", "k")
		if err != nil || isRedisError(got) {
			refused++
		} else if got != want {
			t.Fatalf("GET returned %.80q", got)
		}
		if err != nil {
			break // the node may end: damage is a reason
		}
	}
	if refused == 0 {
		t.Fatal("no read was refused: the fault did not happen")
	}
	n.kill()
	n.start()
	n.waitReady()
	if got := dialRedis(t, n.resp).do("GET", "k"); got != want {
		t.Errorf("after a restart: %.80q", got)
	}
}

func isRedisError(reply any) bool {
	_, ok := reply.(redisError)
	return ok
}
