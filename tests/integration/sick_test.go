package integration

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raftcask/raftcask/tests/integration/netfault"
)

// anonymousBytes is the memory of a process that is its own: without the files that it maps.
func (n *node) anonymousBytes() int64 {
	n.t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", n.proc.cmd.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // only read
	for scan := bufio.NewScanner(file); scan.Scan(); {
		var kib int64
		if _, err := fmt.Sscanf(scan.Text(), "RssAnon: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	n.t.Fatal("no RssAnon in /proc/<pid>/status")
	return 0
}

// TestChaosSlowFollowersCostTheLeaderNothing freezes one follower and lets another one crawl, while large
// values are written to the other three. The leader goes on taking snapshots and dropping its log, and what it keeps in
// memory does not grow with what the two lack.
func TestChaosSlowFollowersCostTheLeaderNothing(t *testing.T) {
	onlyInChaos(t)
	c, network := startSeparable(t, 5, "--snapshot-bytes", "32MiB", "--trailing-bytes", "8MiB", "--segment-bytes", "16MiB")
	leader := c.leader()
	frozen, crawling := c.others(leader)[0], c.others(leader)[1]
	conn := openPinned(t, leader.resp)
	write := func(mib int) {
		t.Helper()
		value := string(make([]byte, 2<<20))
		for i := range mib / 2 {
			if conn.set(context.Background(), fmt.Sprintf("large-%d", i%16), value) != acknowledged {
				t.Fatal("a write failed")
			}
		}
	}
	write(128) // what the leader keeps in memory in any case is there now
	before := leader.anonymousBytes()
	snapshots, _ := leader.metric("raftcask_snapshots_total")
	frozen.pause()
	network.Set(leader.id, crawling.id, netfault.Rule{BytesPerSecond: 64 << 10})
	write(384)
	after := leader.anonymousBytes()
	t.Logf("%d MiB before, %d MiB after", before>>20, after>>20)
	if grown := after - before; grown > 160<<20 {
		t.Errorf("the leader's memory grew by %d MiB", grown>>20)
	}
	eventually(t, 20*time.Second, "the leader takes snapshots and drops its log", func() error {
		taken, _ := leader.metric("raftcask_snapshots_total")
		kept, _ := leader.metric("raftcask_log_bytes")
		if taken < snapshots+3 || kept > 80<<20 {
			return fmt.Errorf("%v snapshots, before there were %v; %v bytes of log", taken, snapshots, kept)
		}
		return nil
	})
	if now := c.leader(); now != leader {
		t.Errorf("%s lost its leadership to %s", leader.id, now.id)
	}
	network.Heal()
	frozen.resume()
	for _, n := range []*node{frozen, crawling} {
		c.waitCaughtUp(n, time.Minute)
	}
}

// TestChaosLeaderFrozenInTheMiddleOfASnapshot freezes the leader while it sends one to a follower, which reads it on the thread
// that also votes. The two that are left elect a leader all the same.
func TestChaosLeaderFrozenInTheMiddleOfASnapshot(t *testing.T) {
	onlyInChaos(t)
	rng := newRand(t)
	c, network := startSeparable(t, 3, "--snapshot-bytes", "2MiB", "--trailing-bytes", "256KiB", "--segment-bytes", "4MiB")
	away, leader := c.follower(), c.leader()
	away.kill()
	newDataset(rng).write(t, leader, 80<<20)
	network.Set(leader.id, away.id, netfault.Rule{BytesPerSecond: 1 << 20})
	away.start()
	eventually(t, readyTimeout, "the snapshot is on its way", func() error {
		if parts, _ := filepath.Glob(filepath.Join(away.data, "groups", "0000", "cask", "incoming-*", "*.seg")); len(parts) == 0 {
			return fmt.Errorf("no part of it is in %s", away.data)
		}
		return nil
	})
	leader.pause()
	survivors := c.others(leader)
	eventually(t, 30*time.Second, "the others have a leader", func() error {
		s, err := statusAt(t, survivors[0].resp+","+survivors[1].resp)
		if err == nil && (s.Leader == "" || s.Leader == leader.id) {
			err = fmt.Errorf("%q leads", s.Leader)
		}
		return err
	})
	leader.resume()
	network.Heal()
	c.waitReady()
	for _, n := range c.nodes {
		c.waitCaughtUp(n, time.Minute)
	}
}

// TestDamagedNodeIsReplaced damages the data of a node, as a disk would. The node refuses to start and says what to do; this
// test does that, and the cluster has its three voters again.
func TestDamagedNodeIsReplaced(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	load := startSDKLoad(t, c.addrs(), 2)
	load.goOn(t, 500)
	sick := c.follower()
	sick.stop()
	damage(t, sick)
	sick.start()
	code, err := sick.proc.wait(stopTimeout)
	if err != nil || code != 1 {
		t.Fatalf("a node with damaged data: exit code %d, %v", code, err)
	}
	log := sick.log()
	for _, want := range []string{".seg", "damage", "cluster replace", "new id"} {
		if !strings.Contains(log, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	fresh := newNode(t, c.dir, "n4", sick.flags...) // an empty directory and a new id, as it said
	survivors := c.others(sick)
	c.nodes = append(survivors, fresh)
	fresh.start()
	eventually(t, readyTimeout, "the new node is known", func() error {
		o := runCLI(t, 60*time.Second, "cluster", "replace", sick.id, "n4", "--addr", survivors[0].resp)
		if o.code != 0 {
			return fmt.Errorf("%v", o)
		}
		return nil
	})
	c.awaitVoters(survivors[0].id, survivors[1].id, "n4")
	load.goOn(t, 100)
	load.end(t)
	c.waitCaughtUp(fresh, readyTimeout)
	lines := strings.Split(strings.TrimSpace(log), "\n")
	t.Logf("it said: %s", lines[len(lines)-1])
}

// damage flips a bit in the middle of what a node has stored.
func damage(t *testing.T, n *node) {
	t.Helper()
	segments, _ := filepath.Glob(filepath.Join(n.data, "groups", "0000", "cask", "*.seg"))
	if len(segments) == 0 {
		t.Fatalf("%s has no segments", n.id)
	}
	file, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // the write is checked
	const at = 4096 + 777               // in the first frames, long synced
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := file.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}
