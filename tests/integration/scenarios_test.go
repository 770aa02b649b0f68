package integration

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs/diskfault"
	"github.com/raftcask/raftcask/tests/integration/netfault"
)

// The scenarios in this file are bugs that other systems had; BUGS.md says which, and lists those that other files hold.

// TestPausedLeaderServesNoStaleRead stops leader after leader for longer than an election. The read that waits in its socket is
// answered in the moment in which it goes on, before it can know that it leads no more (etcd #20418).
func TestPausedLeaderServesNoStaleRead(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	for i := range 3 {
		old := c.leader()
		conn, value := dialRedis(t, old.resp), fmt.Sprint("round ", i)
		if got := conn.do("SET", "k", value+" before"); got != status("OK") {
			t.Fatal(got)
		}
		old.pause()
		other := c.others(old)[0]
		eventually(t, readyTimeout, "the others have a leader", func() error { return othersLead(t, other, old) })
		eventually(t, readyTimeout, "the others take a write", func() error {
			if got := dialRedis(t, other.resp).do("SET", "k", value); got != status("OK") {
				return fmt.Errorf("SET: %v", got)
			}
			return nil
		})
		// Only now, after the write was acknowledged, do the reads begin: an older value would be wrong.
		if _, err := conn.Write(append(encode("GET", "k"), encode("GET", "k")...)); err != nil {
			t.Fatal(err)
		}
		old.resume()
		for range 2 {
			got, err := conn.receive()
			if err != nil {
				t.Fatalf("%s: %v", old.id, err)
			}
			if got != value && !unsettled(got) {
				t.Fatalf("stale read: %s was paused while %q was written, and says %q", old.id, value, got)
			}
		}
		c.waitReady()
	}
}

// TestHistoryWithPausedLeadersIsLinearizable pauses leader after leader while clients of every node read and write registers.
// Unlike the test above it knows nothing of what a read should return: the history must tell.
func TestHistoryWithPausedLeadersIsLinearizable(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	c := startCluster(t, 3)
	h := startRegisters(t, c, rng)
	for range 4 {
		h.waitForProgress(t, 100)
		old := c.leader()
		old.pause()
		other := c.others(old)[0]
		eventually(t, readyTimeout, "the others have a leader", func() error { return othersLead(t, other, old) })
		h.waitForProgress(t, 300) // so that most registers have a newer value
		old.resume()
	}
	h.waitForProgress(t, 100)
	h.stop()
	h.check(t)
}

// TestNewLeaderServesWhatWasAcknowledgedBefore kills a leader right after it has acknowledged a write, before the others can know
// that it is committed, and makes their disks slow, so that whoever leads next takes long to find out. It must not
// answer from its state before that (I9).
func TestNewLeaderServesWhatWasAcknowledgedBefore(t *testing.T) {
	t.Parallel()
	c := startSick(t, 3)
	for i := range 2 {
		old, value := c.leader(), fmt.Sprint("round ", i)
		var readers []*redis
		for _, n := range c.others(old) {
			n.sick.fault(diskfault.Rule{Name: "slow", Ops: []string{"sync"}, Path: "*.seg", Delay: 100 * time.Millisecond})
			readers = append(readers, dialRedis(t, n.resp))
		}
		if got := dialRedis(t, old.resp).do("SET", "k", value); got != status("OK") {
			t.Fatal(got)
		}
		old.kill()
		for _, r := range readers {
			eventually(t, readyTimeout, "the others serve", func() error {
				got := r.do("GET", "k")
				if got != value && !unsettled(got) {
					t.Fatalf("stale read: %q was acknowledged, and the next leader says %q", value, got)
				}
				if got != value {
					return fmt.Errorf("GET: %v", got)
				}
				return nil
			})
		}
		for _, n := range c.others(old) {
			n.sick.heal()
		}
		old.start()
		c.waitReady()
		c.waitCaughtUp(old, time.Minute)
	}
}

// TestFollowerThatRefusesOnceIsReplicatedTo lets a follower fail to store one batch of entries under load. Replication to it
// must go on in the same term (hashicorp/raft#612: it stopped, and heartbeats went on).
func TestFollowerThatRefusesOnceIsReplicatedTo(t *testing.T) {
	t.Parallel()
	c := startSick(t, 3)
	load := startWriters(t, c, writerCount)
	load.waitForProgress(t, 200)
	leader := c.leader()
	term := statusTerm(t, c, leader)
	for i := range 3 {
		follower, rule := c.others(leader)[i%2], fmt.Sprint("refuse-", i)
		follower.sick.fault(diskfault.Rule{Name: rule, Ops: []string{"write"}, Path: "*.seg", Error: "ENOSPC", Count: 1})
		follower.sick.awaitHit(rule)
		load.waitForProgress(t, 200)
		c.waitCaughtUp(follower, 15*time.Second)
	}
	if now := statusTerm(t, c, leader); now != term {
		t.Logf("the term changed from %d to %d: a new term would have hidden a replication that stopped", term, now)
	}
	load.stop()
	for _, n := range c.nodes {
		load.check(t, n)
	}
}

func statusTerm(t *testing.T, c *cluster, n *node) uint64 {
	t.Helper()
	st, ok := c.mustStatus().node(n.id)
	if !ok {
		t.Fatalf("no status of %s", n.id)
	}
	return st.Term
}

// TestTransferToANodeThatIsGoneBlocksNoWrites hands leadership to a follower that does not answer, which must fail, and does so
// again after the next election (hashicorp/raft#696: the flag stayed set, and the node refused every write for ever).
func TestTransferToANodeThatIsGoneBlocksNoWrites(t *testing.T) {
	t.Parallel()
	c, network := startSeparable(t, 3)
	load := startWriters(t, c, writerCount)
	cut := netfault.Rule{Cut: true}
	for range 3 {
		load.waitForProgress(t, 100)
		leader := c.leader()
		target, third := c.others(leader)[0], c.others(leader)[1]
		separate(c, network, []*node{target}, cut, cut)
		transfer := startCLI(t, "cluster", "transfer", target.id, "--addr", leader.resp)
		separate(c, network, []*node{leader}, cut, cut) // and the leader loses the others in the middle of it
		eventually(t, readyTimeout, "the transfer has ended", func() error {
			if transfer.running() {
				return fmt.Errorf("pid %d runs", transfer.cmd.Process.Pid)
			}
			return nil
		})
		network.Heal()
		load.waitForProgress(t, 200)
		makeLead(t, c, leader, third)
		load.waitForProgress(t, 100)
	}
	load.stop()
	for _, n := range c.nodes {
		load.check(t, n)
	}
}

// makeLead transfers leadership to a node, from which it may have been taken a moment ago.
func makeLead(t *testing.T, c *cluster, n, other *node) {
	t.Helper()
	eventually(t, readyTimeout, n.id+" leads again", func() error {
		if now := runningLeader(c); now == n {
			return nil
		}
		o := runCLI(t, 30*time.Second, "cluster", "transfer", n.id, "--addr", other.resp)
		return fmt.Errorf("transfer: %v", o)
	})
}

// TestKillAtAnyStepOfAnInstallLeavesAWholeNode lets a node that is far behind die at steps of taking in the snapshot:
// before files are moved into place, and after the switch of the manifest, while the old files go. It comes back with all the
// data or goes on with what it had, and never with half (rqlite #2747, #2759).
func TestKillAtAnyStepOfAnInstallLeavesAWholeNode(t *testing.T) {
	t.Parallel()
	killDuringInstalls(t,
		diskfault.Rule{Name: "before a file is moved", Ops: []string{"rename"}, Path: "*.seg", Kill: true},
		diskfault.Rule{Name: "while the old files go", Ops: []string{"remove"}, Path: "*.seg", Skip: 1, Kill: true})
}

// TestChaosKillAtFurtherStepsOfAnInstall does the same at more steps, and lets the node fail once without dying.
func TestChaosKillAtFurtherStepsOfAnInstall(t *testing.T) {
	onlyInChaos(t)
	killDuringInstalls(t,
		diskfault.Rule{Name: "while it arrives", Ops: []string{"sync"}, Path: "*.seg", Kill: true},
		diskfault.Rule{Name: "while its hints are written", Ops: []string{"rename"}, Path: "*.hint", Kill: true},
		diskfault.Rule{Name: "after a file was moved", Ops: []string{"rename"}, Path: "*.seg", Kill: true, After: true},
		diskfault.Rule{Name: "a file cannot be moved", Ops: []string{"rename"}, Path: "*.seg", Error: "EIO", Count: 1})
}

func killDuringInstalls(t *testing.T, rules ...diskfault.Rule) {
	t.Helper()
	rng := newRand(t)
	c := startSick(t, 3, smallFiles...)
	load, client := newBulk(), openSDK(t, c.addrs())
	load.writeBulk(t, client, 1<<20)
	for _, rule := range rules {
		away := c.follower()
		away.kill()
		writeBeyondTheLog(t, c, load, client)
		away.sick.rules = []diskfault.Rule{rule}
		away.start()
		if rule.Kill {
			if code, err := away.proc.wait(time.Minute); err != nil || code != -1 {
				t.Fatalf("%s: %s was to be killed: exit code %d, %v", rule.Name, away.id, code, err)
			}
			loss, err := diskfault.Cut(away.sick.notes, rng, rng.Float64())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s was killed %s, and then the power failed: %v", away.id, rule.Name, loss)
			away.sick.rules = nil
			away.start()
		} else {
			away.sick.awaitHit(rule.Name)
		}
		away.waitReady()
		// A node that got everything by a snapshot counts fewer entries than the leader until the next one: barriers and the like
		// are in no snapshot.
		load.writeBulk(t, client, 1)
		c.waitCaughtUp(away, time.Minute)
		away.sick.rules = nil
	}
	for _, n := range c.nodes {
		makeLeaderOf(t, c, n)
		load.check(t, n)
	}
}

// writeBeyondTheLog writes until a node that is away needs a snapshot, whoever leads: the others, whose files are small, have cut
// their logs behind what it can have, and were started anew, because they keep the newest entries in memory too. A kill may
// undo a cut, which is on disk from the manifest's next change on: hence the writes before it.
func writeBeyondTheLog(t *testing.T, c *cluster, load *writers, client register) {
	t.Helper()
	leader := c.leader()
	st, _ := c.mustStatus().node(leader.id)
	cut := func() error {
		for _, n := range c.nodes {
			if !n.running() {
				continue
			}
			if first, ok := n.metric("raftcask_log_first_index"); !ok || first <= float64(st.Applied+1) {
				return fmt.Errorf("the log of %s begins at %v (%v)", n.id, first, ok)
			}
		}
		return nil
	}
	eventually(t, time.Minute, fmt.Sprintf("started anew, the logs are cut behind entry %d", st.Applied), func() error {
		load.writeBulk(t, client, 2<<20)
		if err := cut(); err != nil {
			return err
		}
		load.writeBulk(t, client, 2<<20)
		for _, n := range c.nodes {
			if n.running() {
				n.kill()
				n.start()
			}
		}
		for _, n := range c.nodes {
			if n.running() {
				n.waitReady()
			}
		}
		return cut()
	})
}

// writeBulk puts large values on a few keys, so many bytes in all, and notes what became of each.
func (w *writers) writeBulk(t *testing.T, client register, total int) {
	t.Helper()
	const valueBytes, keys = 64 << 10, 50
	for written := 0; written < total; written += valueBytes {
		i := len(w.perWrite[0])
		att := write{key: fmt.Sprint("bulk-", i%keys), value: fmt.Sprint(i, strings.Repeat(".", valueBytes)), start: time.Since(w.begin)}
		ctx, cancel := context.WithTimeout(t.Context(), opTimeout)
		att.outcome = client.set(ctx, att.key, att.value)
		cancel()
		att.end = time.Since(w.begin)
		w.perWrite[0] = append(w.perWrite[0], att)
	}
}

// newBulk is for writeBulk; nothing runs.
func newBulk() *writers {
	return &writers{begin: time.Now(), cancel: func() {}, perWrite: make([][]write, 1)}
}

// makeLeaderOf transfers leadership to a node, whose own data is then what readers get.
func makeLeaderOf(t *testing.T, c *cluster, n *node) {
	t.Helper()
	if leader := c.leader(); leader != n {
		makeLead(t, c, n, leader)
	}
}

// TestSlowInstallBesideWritesGivesTheSameData lets a snapshot arrive over a thin line while writes and further snapshots go
// on (NuRaft #407: an old snapshot met a newer state).
func TestSlowInstallBesideWritesGivesTheSameData(t *testing.T) {
	t.Parallel()
	c, network := startSeparable(t, 3, smallFiles...)
	away := c.follower()
	away.kill()
	writeBeyondTheLog(t, c, newBulk(), openSDK(t, c.addrs()))
	leader := c.leader()
	network.Set(leader.id, away.id, netfault.Rule{BytesPerSecond: 2 << 20})
	load := startWriters(t, c, 2)
	away.start()
	load.waitForProgress(t, 300)
	away.waitReady()
	network.Heal()
	load.waitForProgress(t, 1)
	load.stop()
	c.waitCaughtUp(away, time.Minute)
	if installed, _ := away.metric(metricSnapshotInstalled); installed < 1 {
		t.Fatalf("%s caught up without a snapshot: the test did not come to its subject", away.id)
	}
	makeLeaderOf(t, c, away)
	contents := readAll(t, away)
	for _, n := range c.others(away) {
		makeLeaderOf(t, c, n)
		if other := readAll(t, n); !maps.Equal(contents, other) {
			t.Errorf("%s holds %d keys, %s holds %d, and they are not the same", away.id, len(contents), n.id, len(other))
		}
	}
}

// TestKillAtAnyStepOfTheLogLosesNothing kills a node at chosen operations of sealing, snapshots and merges under load, and cuts
// its power (etcd #13766, #14370): first a cluster of one, whose every acknowledged write is on its disk alone, then
// a node of three.
func TestKillAtAnyStepOfTheLogLosesNothing(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			rng := newRand(t)
			c := startSick(t, nodes, smallFiles...)
			load := startWriters(t, c, writerCount)
			for _, rule := range []diskfault.Rule{
				{Name: "before a write", Ops: []string{"write"}, Path: "*.seg"},
				{Name: "before a sync", Ops: []string{"sync"}, Path: "*.seg"},
				{Name: "after a sync", Ops: []string{"sync"}, Path: "*.seg", After: true},
				{Name: "before the manifest's switch", Ops: []string{"rename"}, Path: "MANIFEST"},
				{Name: "after the manifest's switch", Ops: []string{"rename"}, Path: "MANIFEST", After: true},
				{Name: "after the directory's sync", Ops: []string{"syncdir"}, After: true},
				{Name: "before a removal", Ops: []string{"remove"}, Path: "*.seg"},
			} {
				load.waitForProgress(t, 100)
				rule.Kill, rule.Skip = true, rng.IntN(3)
				victim := c.nodes[rng.IntN(nodes)]
				victim.sick.fault(rule)
				if code, err := victim.proc.wait(time.Minute); err != nil || code != -1 {
					t.Fatalf("%s: %s was to be killed: exit code %d, %v", rule.Name, victim.id, code, err)
				}
				loss, err := diskfault.Cut(victim.sick.notes, rng, rng.Float64())
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s was killed %s: %v", victim.id, rule.Name, loss)
				victim.start()
				victim.waitReady()
			}
			load.waitForProgress(t, 100)
			load.stop()
			for _, n := range c.nodes {
				load.check(t, n)
			}
		})
	}
}

// TestClockThatJumpsBringsNothingBack puts the clock of leaders forward and back. Time, as the keys see it, never goes back: a
// key that has expired stays so under the next leader, and no key lives longer than it was told to.
func TestClockThatJumpsBringsNothingBack(t *testing.T) {
	t.Parallel()
	c := startSick(t, 3)
	leader := c.leader()
	conn := dialRedis(t, leader.resp)
	for key, seconds := range map[string]string{"short": "600", "unread": "600", "long": "7200"} {
		if got := conn.do("SET", key, "v", "EX", seconds); got != status("OK") {
			t.Fatal(got)
		}
	}
	leader.sick.setClock(30 * time.Minute)
	if got := conn.do("GET", "short"); got != nil {
		t.Errorf("half an hour later a key that lives ten minutes is %q", got)
	}
	left, ok := conn.do("TTL", "long").(int64)
	if !ok || left > 5400 {
		t.Errorf("half an hour later a key that lives two hours has %d s left", left)
	}
	if got := conn.do("SET", "mark", "v"); got != status("OK") { // carries the leader's time to the others
		t.Fatal(got)
	}
	for _, jump := range []time.Duration{0, -time.Hour} { // the next leaders: one with the right time, one that is behind
		leader.stop()
		next := c.leader()
		next.sick.setClock(jump)
		conn = dialRedis(t, next.resp)
		for _, key := range []string{"short", "unread"} {
			if got := conn.do("GET", key); got != nil {
				t.Errorf("%s, whose clock is %v off: the expired key %q is back: %v", next.id, jump, key, got)
			}
		}
		if now, ok := conn.do("TTL", "long").(int64); !ok || now > left {
			t.Errorf("%s, whose clock is %v off: a key has %d s left, it had %d before", next.id, jump, now, left)
		} else {
			left = now
		}
		leader.start()
		leader.waitReady()
		leader = next
	}
}

// TestNodesThatSwapAddressesFindTheirPlace restarts two nodes, each with all the addresses of the other (memberlist #157,
// weaviate #5871): what is meant for one must not reach the other, and the cluster heals.
func TestNodesThatSwapAddressesFindTheirPlace(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	load := startWriters(t, c, writerCount)
	load.waitForProgress(t, 200)
	leader := c.leader()
	a, b := c.others(leader)[0], c.others(leader)[1]
	a.stop()
	b.stop()
	a.resp, b.resp, a.http, b.http = b.resp, a.resp, b.http, a.http
	a.peer, b.peer, a.gossip, b.gossip = b.peer, a.peer, b.gossip, a.gossip
	a.start()
	b.start()
	c.waitReady()
	load.waitForProgress(t, 200)
	c.waitCaughtUp(a, time.Minute)
	c.waitCaughtUp(b, time.Minute)
	load.stop()
	s := c.mustStatus()
	for _, n := range c.nodes {
		if st, ok := s.node(n.id); !ok || st.RespAddr != n.resp {
			t.Errorf("%s is at %q by the status, and at %q indeed", n.id, st.RespAddr, n.resp)
		}
		load.check(t, n)
	}
}

// TestLogsAgreeAfterManyTerms cuts off leader after leader under load, and then compares the logs of all nodes entry by entry
// (hashicorp/raft#695: two nodes held different entries of one index and term).
func TestLogsAgreeAfterManyTerms(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	c, network := startSeparable(t, 3)
	load := startWriters(t, c, writerCount)
	for range 4 {
		load.waitForProgress(t, 50+rng.Uint64N(100))
		separate(c, network, []*node{c.leader()}, netfault.Rule{Cut: true}, netfault.Rule{Cut: rng.IntN(2) == 0})
		time.Sleep(faultLength) // the length is the fault
		network.Heal()
	}
	c.waitReady()
	load.waitForProgress(t, 100)
	load.stop()
	for _, n := range c.nodes {
		c.waitCaughtUp(n, time.Minute)
		load.check(t, n)
	}
	for _, n := range c.nodes {
		n.stop()
	}
	first := entriesOf(t, c.nodes[0])
	for _, n := range c.nodes[1:] {
		other := entriesOf(t, n)
		shared := 0
		for at, want := range first {
			if got, both := other[at]; both {
				if shared++; got != want {
					t.Errorf("entry %s is %.200q on %s and %.200q on %s", at, want, c.nodes[0].id, got, n.id)
				}
			}
		}
		t.Logf("%s and %s share %d entries", c.nodes[0].id, n.id, shared)
		if shared < 100 {
			t.Errorf("%s and %s share %d entries only: too few were compared", c.nodes[0].id, n.id, shared)
		}
	}
}

// entriesOf returns what the log of a stopped node holds, by index: its term and effects.
func entriesOf(t *testing.T, n *node) map[string]string {
	t.Helper()
	o := mustCLI(t, time.Minute, "cask", "dump", n.data+"/groups/0000/cask")
	entries := map[string]string{}
	for _, line := range strings.Split(o.stdout, "\n") {
		// "00000001.seg:64 put index 7 term 2 …": where it lies is each node's own affair.
		_, what, _ := strings.Cut(line, " ")
		fields := strings.Fields(what)
		if len(fields) >= 5 && fields[1] == "index" {
			entries[fields[2]] += what + "\n"
		}
	}
	return entries
}
