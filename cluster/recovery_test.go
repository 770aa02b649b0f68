package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
)

func smallSnapshots(cfg *Config) {
	cfg.Engine.SegmentBytes = 64 << 10
	cfg.Limits.SnapshotBytes = 256 << 10
	cfg.Limits.TrailingBytes = 32 << 10
}

// fill writes n values of size bytes, one entry each, and returns the last.
func fill(t *testing.T, n *testNode, prefix string, count, size int) {
	t.Helper()
	for i := range count {
		value := bytes.Repeat([]byte{byte('a' + i%26)}, size)
		if err := tryPut(n, fmt.Sprint(prefix, i), string(value)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRestartedNodeWithoutLeaderDoesNotWarnOfSnapshots: it has more log than a snapshot is due at, and nothing to put
// into one.
func TestRestartedNodeWithoutLeaderDoesNotWarnOfSnapshots(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	leader := c.leader()
	fill(t, leader, "fill", 300, 1<<10)
	for _, n := range c.running() {
		c.kill(n)
	}
	var log lockedBuffer
	c.log, c.change = slog.New(slog.NewTextHandler(&log, nil)), smallSnapshots
	n := c.mustStart(leader.id, leader.peerAddr, 3)
	time.Sleep(4 * snapshotCheck)
	if have, due := n.group.store.Stats().LogBytes, n.cfg.Limits.SnapshotBytes; have < due {
		t.Fatalf("the log has %d bytes; a snapshot is due at %d", have, due)
	}
	if strings.Contains(log.String(), "snapshot") {
		t.Errorf("it says:\n%s", log.String())
	}
}

// lockedBuffer keeps what is logged.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// awaitCompaction waits until a node's log begins after index.
func awaitCompaction(t *testing.T, n *testNode, index uint64) {
	t.Helper()
	until(t, 20*time.Second, func() error {
		if first := n.group.store.FirstIndex(); first <= index {
			return fmt.Errorf("the log of %s begins at %d, and should begin after %d", n.id, first, index)
		}
		return nil
	})
}

func TestFollowerFarBehindInstallsASnapshot(t *testing.T) {
	c := newTestCluster(t, smallSnapshots)
	c.three()
	leader := c.leader()
	fill(t, leader, "early", 10, 100)
	behind := c.others(leader)[0]
	last := behind.group.store.LastIndex()
	c.kill(behind)
	fill(t, leader, "late", 300, 4<<10)
	awaitCompaction(t, leader, last+100)
	until(t, 10*time.Second, func() error {
		if kept := leader.group.store.Stats().LogBytes; kept > 512<<10 || leader.group.Counters().Snapshots == 0 {
			return fmt.Errorf("%d bytes of log are kept behind %d snapshots", kept, leader.group.Counters().Snapshots)
		}
		return nil
	})
	leader = c.restartAll()

	back := c.mustStart(behind.id, behind.peerAddr, 3)
	c.awaitReady(back)
	fill(t, leader, "end", 1, 1)
	c.awaitValue(back, "end0", "a")
	if first := back.group.store.FirstIndex(); first <= last {
		t.Errorf("its log begins at %d: it did not install a snapshot", first)
	}
	for _, key := range []string{"early9", "late0", "late299"} {
		want, _ := leader.local(key)
		if got, ok := back.local(key); !ok || got != want {
			t.Errorf("%s is missing or wrong after the install", key)
		}
	}
	if back.group.store.Len() != leader.group.store.Len() {
		t.Errorf("%d keys, the leader has %d", back.group.store.Len(), leader.group.store.Len())
	}

	// Everybody starts again from snapshot and log, and a new node joins.
	leader = c.restartAll()
	fresh := c.mustStart("n4", "", 0, leader.GossipAddr())
	c.awaitReady(fresh)
	if sent := leader.group.Counters(); sent.SnapshotRaw == 0 || sent.SnapshotWire > sent.SnapshotRaw/2 {
		t.Errorf("%d bytes of letters that repeat went over the wire as %d", sent.SnapshotRaw, sent.SnapshotWire)
	}
	c.write("again", "1")
	for _, n := range c.running() {
		c.awaitValue(n, "again", "1")
		if got, ok := n.local("late150"); !ok || len(got) != 4<<10 {
			t.Errorf("late150 is missing on %s", n.id)
		}
	}
}

// restartAll ends the running nodes, starts them again and returns the leader. Their log stores' caches are empty
// then: a cache still serves entries that the log has forgotten.
func (c *testCluster) restartAll() *testNode {
	c.t.Helper()
	for _, n := range c.running() {
		c.kill(n)
		c.mustStart(n.id, n.peerAddr, 3)
	}
	c.awaitReady(c.running()...)
	return c.leader()
}

// TestRestartRightAfterAnInstall: the log is empty then, and raft's index of the snapshot is that of a barrier,
// beyond what the engine has applied.
func TestRestartRightAfterAnInstall(t *testing.T) {
	c := newTestCluster(t, smallSnapshots)
	c.three()
	leader := c.leader()
	behind := c.others(leader)[0]
	c.kill(behind)
	fill(t, leader, "k", 200, 4<<10)
	awaitCompaction(t, leader, 50)
	leader = c.restartAll()
	want := leader.group.AppliedIndex()
	if err := leader.group.session().barrier(context.Background()); err != nil { // the engine never sees it
		t.Fatal(err)
	}
	until(t, 10*time.Second, func() error { return leader.group.session().snapshot(context.Background()) })
	if at := leader.group.session().raft.LastIndex(); at <= want {
		t.Fatalf("the log ends at %d, the engine is at %d: the test needs a difference", at, want)
	}
	for range 2 {
		behind = c.mustStart(behind.id, behind.peerAddr, 3)
		c.awaitReady(behind)
		until(t, 20*time.Second, func() error {
			if got := behind.group.AppliedIndex(); got != want {
				return fmt.Errorf("it is at %d, not %d", got, want)
			}
			return nil
		})
		if first := behind.group.store.FirstIndex(); first != 0 {
			t.Fatalf("its log begins at %d: the test needs an empty one", first)
		}
		c.kill(behind)
	}
	behind = c.mustStart(behind.id, behind.peerAddr, 3)
	c.write("end", "1")
	c.awaitValue(behind, "end", "1")
}

// TestLogThatRaftBelievesInIsNotThere: hashicorp/raft#697. A leader that was cut off keeps a long end of the log
// that conflicts; it is so far behind that it gets a snapshot, which replaces its log. raft remembers the old end
// and refuses every AppendEntries. Without the watchdog the node gets one snapshot after the other.
func TestLogThatRaftBelievesInIsNotThere(t *testing.T) {
	c := newTestCluster(t, smallSnapshots)
	c.three()
	old := c.leader()
	fill(t, old, "common", 5, 10)
	s := old.group.session()
	term := s.raft.CurrentTerm()
	c.isolate(old, true)
	// The proposer would keep two in flight; raft itself takes any number.
	var batch bitcask.Batch
	for range 600 {
		batch.Reset(term, 0)
		s.raft.Apply(append([]byte(nil), batch.Bytes()...), 0)
	}
	end := s.raft.LastIndex()
	var leader *testNode
	until(t, 20*time.Second, func() error {
		for _, n := range c.others(old) {
			if n.group.IsLeader() {
				leader = n
				return nil
			}
		}
		return errors.New("nobody else leads")
	})
	fill(t, leader, "new", 250, 4<<10)
	for _, n := range c.others(old) {
		awaitCompaction(t, n, 100)
	}
	if last := leader.group.store.LastIndex(); last >= end {
		t.Fatalf("the log of the old leader ends at %d, which must be beyond %d", end, last)
	}
	// As in restartAll: no cached entries.
	for _, n := range c.others(old) {
		c.kill(n)
		c.mustStart(n.id, n.peerAddr, 3)
	}
	until(t, 20*time.Second, func() error {
		for _, n := range c.others(old) {
			if n.group.IsLeader() {
				leader = n
				return nil
			}
		}
		return errors.New("nobody else leads")
	})
	c.isolate(old, false)
	until(t, 30*time.Second, func() error {
		if got, _ := old.local("new249"); len(got) != 4<<10 {
			return errors.New("the old leader does not catch up")
		}
		return nil
	})
	// Until then it gets snapshots only, which bring new writes too.
	until(t, 20*time.Second, func() error {
		restarts := old.group.Counters().Restarts
		if st := old.Status(context.Background()); restarts == 0 || st.Restarts != restarts {
			return fmt.Errorf("%d restarts, the status shows %d: if raft got out by itself, hashicorp/raft#697 is fixed", restarts, st.Restarts)
		}
		return nil
	})
	fill(t, leader, "end", 1, 1)
	c.awaitValue(old, "end0", "a")
	if err := old.fatal.Load(); err != nil {
		t.Errorf("fatal: %v", *err)
	}
}

// TestLeadershipTransferThatHangs: hashicorp/raft#696 and its kin. While the message to the chosen successor is
// not answered, raft refuses every write, here for 10 s; the watchdog ends that sooner.
func TestLeadershipTransferThatHangs(t *testing.T) {
	c := newTestCluster(t, func(cfg *Config) { cfg.Timing.Transfer = 5 * time.Second })
	nodes := c.three()
	c.write("k", "1")
	for _, n := range nodes {
		c.awaitValue(n, "k", "1")
	}
	leader := c.leader()
	successor := c.others(leader)[0]
	hole, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	s := leader.group.session()
	s.transport.CloseStreams() // no pooled connection to the successor
	leader.conns.redirect(successor.peerAddr, hole.Addr().String())
	start := time.Now()
	if err := leader.group.Transfer(context.Background(), successor.id); err == nil && leader.group.session() == s && leader.group.IsLeader() {
		t.Error("the transfer succeeded without an answer")
	}
	leader.conns.redirect(successor.peerAddr, "")
	c.write("after", "1")
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("writes resumed after %s", took)
	} else {
		t.Logf("writes resumed after %s, %d restarts", took.Round(time.Millisecond), leader.group.Counters().Restarts)
	}
	if leader.group.Counters().Restarts == 0 {
		t.Error("raft was not restarted")
	}
	c.awaitValue(leader, "after", "1")
}

func TestRestartInsideTheProcess(t *testing.T) {
	c := newTestCluster(t, nil)
	nodes := c.three()
	c.write("before", "1")
	for i, n := range nodes {
		if err := n.group.restart(fmt.Errorf("test %d", i)); err != nil {
			t.Fatal(err)
		}
		c.write("k", fmt.Sprint(i))
	}
	for _, n := range nodes {
		c.awaitValue(n, "k", "2")
		if n.group.Counters().Restarts != 1 {
			t.Errorf("%d restarts of %s", n.group.Counters().Restarts, n.id)
		}
	}
}

func TestExpiredKeysAreSwept(t *testing.T) {
	var skip atomic.Int64
	c := newTestCluster(t, func(cfg *Config) {
		cfg.Engine.Now = func() time.Time { return time.Now().Add(time.Duration(skip.Load())) }
		cfg.Timing.Sweep = 20 * time.Millisecond
	})
	n := c.mustStart("n1", "", 1)
	c.awaitReady(n)
	errs := n.group.Propose(context.Background(), 3000, func(tx *Tx, i int) {
		expireAt := int64(0)
		if i%3 != 0 {
			expireAt = tx.Now() + 3_600_000
		}
		_ = tx.Put([]byte(fmt.Sprint(i)), []byte("x"), expireAt)
	})
	if errs != nil {
		t.Fatal(errs)
	}
	if n.group.store.Len() != 3000 {
		t.Fatalf("%d keys", n.group.store.Len())
	}
	skip.Store(int64(2 * time.Hour))
	until(t, 20*time.Second, func() error {
		if left := n.group.store.Len(); left != 1000 {
			return fmt.Errorf("%d keys are left", left)
		}
		return nil
	})
	until(t, 5*time.Second, func() error {
		if swept := n.group.Counters().ExpiredKeys; swept != 2000 {
			return fmt.Errorf("%d keys were counted", swept)
		}
		return nil
	})
}

// TestInterruptedBootstrap: raft writes the term, and then the first entry. A crash between the two must not leave
// a node that can never be bootstrapped.
func TestInterruptedBootstrap(t *testing.T) {
	c := newTestCluster(t, nil)
	n := c.mustStart("n1", "", 0)
	if err := n.group.stable.SetUint64(keyCurrentTerm, 1); err != nil {
		t.Fatal(err)
	}
	c.kill(n)
	n = c.mustStart("n1", "", 1)
	c.awaitReady(n)
	if err := tryPut(n, "k", "1"); err != nil {
		t.Error(err)
	}
}

// TestLeaderServesOnlyWhatItHasApplied (I9): a new leader's first evaluation and its first read see everything
// that was acknowledged before it was elected.
func TestLeaderServesOnlyWhatItHasApplied(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	for i := range 5 {
		c.write("n", fmt.Sprint(i))
		old := c.leader()
		c.isolate(old, true)
		var got string
		until(t, 20*time.Second, func() error {
			for _, n := range c.others(old) {
				errs := n.group.Propose(context.Background(), 1, func(tx *Tx, _ int) { got = value(tx, "n") })
				if errs == nil {
					return nil
				}
				if n.group.ConfirmLeader(context.Background()) == nil {
					got, _ = n.local("n")
					return nil
				}
			}
			return errors.New("nobody serves")
		})
		if got != fmt.Sprint(i) {
			t.Errorf("the new leader served n = %s, %d was acknowledged", got, i)
		}
		c.isolate(old, false)
		c.awaitReady(old)
	}
}

var _ raft.StreamLayer = (*cuttableLayer)(nil)
