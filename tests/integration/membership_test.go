package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftcask/raftcask/client"
)

// membersOutput is what `raftcask cluster members --output json` prints.
type membersOutput struct {
	Leader  string
	Voters  int
	Members []struct{ ID, Vote, Role string }
}

func (c *cluster) members() (membersOutput, error) {
	c.t.Helper()
	var m membersOutput
	o := runCLI(c.t, 30*time.Second, "cluster", "members", "--output", "json", "--addr", c.addrList())
	if o.code != 0 {
		return m, fmt.Errorf("raftcask cluster members: %v", o)
	}
	return m, json.Unmarshal([]byte(o.stdout), &m)
}

// awaitVoters waits until the leader is one of exactly these voters.
func (c *cluster) awaitVoters(ids ...string) {
	c.t.Helper()
	eventually(c.t, readyTimeout, fmt.Sprintf("voters %v", ids), func() error {
		m, err := c.members()
		if err != nil {
			return err
		}
		got := map[string]bool{}
		for _, member := range m.Members {
			if member.Vote == "voter" {
				got[member.ID] = true
			}
		}
		for _, id := range ids {
			if !got[id] {
				return fmt.Errorf("%s does not vote: %+v", id, m)
			}
		}
		if len(got) != len(ids) || m.Leader == "" {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
}

// mustChange runs a subcommand of cluster that has to succeed.
func (c *cluster) mustChange(args ...string) string {
	c.t.Helper()
	o := runCLI(c.t, 60*time.Second, append([]string{"cluster"}, args...)...)
	if o.code != 0 {
		c.t.Fatalf("raftcask cluster %v: %v", args, o)
	}
	return o.stdout
}

// mustRefuse runs one that has to fail and say why, in one line.
func (c *cluster) mustRefuse(why string, code int, args ...string) {
	c.t.Helper()
	o := runCLI(c.t, 60*time.Second, append([]string{"cluster"}, args...)...)
	if o.code != code || !strings.Contains(o.stderr, why) || strings.Count(strings.TrimSpace(o.stderr), "\n") > 0 {
		c.t.Errorf("raftcask cluster %v: %v; want exit code %d and one line that says %q", args, o, code, why)
	}
}

// addNode starts a node that joins by gossip.
func (c *cluster) addNode(id string, flags ...string) *node {
	c.t.Helper()
	n := newNode(c.t, c.dir, id, append([]string{"--join", c.nodes[0].gossip + "," + c.nodes[len(c.nodes)-1].gossip}, flags...)...)
	c.nodes = append(c.nodes, n)
	n.start()
	n.waitReady()
	return n
}

// awaitEnd waits for a process to end by itself, well.
func (n *node) awaitEnd() {
	n.t.Helper()
	code, err := n.proc.wait(stopTimeout)
	if err != nil || code != 0 {
		n.t.Errorf("%s ended with code %d, %v; want 0", n.id, code, err)
	}
}

// sdkLoad writes counters through the SDK: each INCR must be applied exactly once.
type sdkLoad struct {
	sdk  *client.Client
	stop atomic.Bool
	wg   sync.WaitGroup
	done []atomic.Int64 // INCRs acknowledged, by writer
	errs chan error
}

func startSDKLoad(t testing.TB, addrs []string, writers int) *sdkLoad {
	t.Helper()
	l := &sdkLoad{sdk: openSDK(t, addrs).Client, done: make([]atomic.Int64, writers), errs: make(chan error, writers)}
	for w := range writers {
		l.wg.Go(func() {
			key := fmt.Sprintf("counter-%d", w)
			for !l.stop.Load() {
				got, err := l.sdk.Incr(context.Background(), key)
				if err != nil {
					l.errs <- fmt.Errorf("writer %d: %w", w, err)
					return
				}
				if want := l.done[w].Add(1); got != want {
					l.errs <- fmt.Errorf("writer %d: the counter is %d after %d increments", w, got, want)
					return
				}
			}
		})
	}
	return l
}

func (l *sdkLoad) total() (sum int64) {
	for i := range l.done {
		sum += l.done[i].Load()
	}
	return sum
}

// goOn waits until the writers have written more.
func (l *sdkLoad) goOn(t testing.TB, more int64) {
	t.Helper()
	goal := l.total() + more
	eventually(t, 20*time.Second, "the writers go on", func() error {
		if now := l.total(); now < goal {
			return fmt.Errorf("%d of %d", now, goal)
		}
		return nil
	})
}

func (l *sdkLoad) end(t testing.TB) {
	t.Helper()
	l.stop.Store(true)
	l.wg.Wait()
	close(l.errs)
	for err := range l.errs {
		t.Errorf("an error that the SDK does not absorb: %v", err)
	}
}

// TestGrowAndShrinkUnderLoad takes a cluster from 1 to 3 to 5 nodes and back to 3, the first leader among those
// that go, while writers count through the SDK.
func TestGrowAndShrinkUnderLoad(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	load := startSDKLoad(t, c.addrs(), 4)
	load.goOn(t, 100)
	c.addNode("n2")
	c.addNode("n3")
	c.awaitVoters("n1", "n2", "n3")
	load.goOn(t, 100)
	c.addNode("n4")
	n5 := c.addNode("n5")
	c.awaitVoters("n1", "n2", "n3", "n4", "n5")
	load.goOn(t, 100)
	out := c.mustChange("transfer", "n5", "--addr", c.nodes[1].resp)
	if !strings.Contains(out, "n5") {
		t.Errorf("transfer said %q", out)
	}
	c.mustChange("remove", "n1", "--addr", c.nodes[2].resp)
	load.goOn(t, 100)
	c.mustChange("leave", "--addr", n5.resp) // it leads
	n5.awaitEnd()
	load.goOn(t, 100)
	c.awaitVoters("n2", "n3", "n4")
	load.end(t)
	t.Logf("%d increments", load.total())
}

// TestOperatorsMistakesAreRefused tries what must not be done, and what a removed node does.
func TestOperatorsMistakesAreRefused(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	leader := c.leader()
	others := c.others(leader)
	gone, stays := others[0], others[1]
	addr := stays.resp
	c.mustRefuse("no such member", 1, "remove", "nobody", "--addr", addr)
	c.mustRefuse("no such member", 1, "transfer", "nobody", "--addr", addr)
	c.mustRefuse("no node \"n9\" is running", 1, "replace", "n1", "n9", "--addr", addr)
	c.mustRefuse("name the node", 2, "leave")
	c.mustRefuse("takes ID", 2, "remove", "--addr", addr)
	eventually(t, 20*time.Second, "the node has noted that it is a member", func() error {
		text, err := os.ReadFile(gone.data + "/identity.json")
		if err == nil && !strings.Contains(string(text), `"joined": true`) {
			err = fmt.Errorf("%s", text)
		}
		return err
	})
	gone.kill()
	c.mustRefuse("only 1 of the 2 voters would answer", 1, "remove", leader.id, "--addr", addr)
	c.mustRefuse("only 1 of the 2 voters would answer", 1, "leave", "--addr", addr)
	c.mustRefuse("does not answer", 1, "transfer", gone.id, "--addr", addr)
	out := c.mustChange("remove", gone.id, "--addr", addr)
	if !strings.Contains(out, "does not answer, and will be told") {
		t.Errorf("remove said %q", out)
	}
	gone.start() // with the data of a member, which it is no more
	eventually(t, readyTimeout, "it is told", func() error {
		if !strings.Contains(gone.log(), "this node was removed from its cluster") {
			return errors.New("not in its log")
		}
		return nil
	})
	if err := gone.ready(); err == nil {
		t.Error("/readyz of the removed node says that it serves")
	}
	o := runCLI(t, 20*time.Second, "set", "k", "v", "--addr", gone.resp, "--timeout", "1s")
	if o.code == 0 && !strings.Contains(o.stderr, "removed") {
		// The SDK may have found the others by itself: that is its duty.
		t.Logf("set through the removed node: %v", o)
	}
	pin := openPinned(t, gone.resp)
	if err := pin.Get(context.Background(), "k").Err(); err == nil || !strings.Contains(err.Error(), "was removed from its cluster") {
		t.Errorf("a read at the removed node: %v", err)
	}
	gone.stop()
	gone.start()
	code, err := gone.proc.wait(stopTimeout)
	if err != nil || code != 1 || !strings.Contains(gone.log(), "move the directory away") {
		t.Errorf("the directory of a removed node: code %d, %v", code, err)
	}
}

// TestReplaceDeadNode replaces a node whose disk is gone, by the command that an operator would use.
func TestReplaceDeadNode(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	load := startSDKLoad(t, c.addrs(), 2)
	load.goOn(t, 100)
	dead := c.follower()
	dead.kill()
	if err := os.RemoveAll(dead.data); err != nil {
		t.Fatal(err)
	}
	// The same machine, addresses included; only the id is new.
	fresh := *dead
	fresh.id, fresh.data, fresh.logPath = "n4", dead.data+"-new", dead.logPath+"-new"
	fresh.flags = []string{"--join", strings.Join([]string{c.others(dead)[0].gossip, c.others(dead)[1].gossip}, ",")}
	survivors := c.others(dead)
	c.nodes = append(survivors, &fresh)
	fresh.start()
	eventually(t, readyTimeout, "the replacement", func() error {
		o := runCLI(t, 60*time.Second, "cluster", "replace", dead.id, "n4", "--addr", survivors[0].resp)
		if o.code != 0 {
			return fmt.Errorf("%v", o) // gossip has not brought the new node yet
		}
		return nil
	})
	c.awaitVoters(survivors[0].id, survivors[1].id, "n4")
	load.goOn(t, 100)
	load.end(t)
	fresh.waitReady()
}

// TestReadReplicaServesAndNeverVotes runs a node with --non-voter.
func TestReadReplicaServesAndNeverVotes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	c.addNode("r1", "--non-voter")
	replica := openPinned(t, c.nodes[1].resp)
	if replica.set(context.Background(), "k", "v") != acknowledged {
		t.Error("a write through the replica")
	}
	if v, err := replica.get(context.Background(), "k"); v != "v" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	m, err := c.members()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Members) != 2 || m.Members[1].Vote != "non-voter" || m.Voters != 1 {
		t.Errorf("got %+v", m)
	}
	if st, _ := c.mustStatus().node("r1"); st.Role != "non-voter" {
		t.Errorf("its role is %q", st.Role)
	}
	c.mustRefuse("has no vote", 1, "transfer", "r1", "--addr", c.nodes[0].resp)
	c.mustRefuse("last voter", 1, "remove", "n1", "--addr", c.nodes[1].resp)
	o := runCLI(t, 20*time.Second, "serve", "--data", c.dir+"/x", "--non-voter", "--bootstrap-expect", "1")
	if o.code != 2 || !strings.Contains(o.stderr, "--non-voter") {
		t.Errorf("a read replica that founds a cluster: %v", o)
	}
}

// TestRecoverAfterTwoOfThreeAreLost makes the survivor a new cluster, as an operator would.
func TestRecoverAfterTwoOfThreeAreLost(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	client := openSDK(t, c.addrs())
	for i := range 100 {
		if client.set(context.Background(), fmt.Sprintf("k%d", i), "v") != acknowledged {
			t.Fatal("a write failed")
		}
	}
	survivor := c.leader()
	lost := c.others(survivor)
	o := runCLI(t, 30*time.Second, "recover", "--yes", survivor.data)
	if o.code != 1 || !strings.Contains(o.stderr, "in use") {
		t.Errorf("recover of a running node: %v", o)
	}
	for _, n := range lost {
		n.kill()
	}
	survivor.kill()
	o = runCLI(t, 30*time.Second, "recover", survivor.data, lost[0].data)
	if o.code != 1 || !strings.Contains(o.stderr, "which is a majority") {
		t.Errorf("recover with a majority: %v", o)
	}
	o = runCLI(t, 30*time.Second, "recover", survivor.data)
	if o.code != 0 || !strings.Contains(o.stdout, "Nothing was changed") || !strings.Contains(o.stdout, "Lost: every write after entry") {
		t.Errorf("the dry run: %v", o)
	}
	o = runCLI(t, 30*time.Second, "recover", "--yes", survivor.data)
	if o.code != 0 || !strings.Contains(o.stdout, "only member of the new cluster") {
		t.Fatalf("recover: %v", o)
	}
	survivor.start()
	survivor.waitReady()
	alone := openPinned(t, survivor.resp)
	for i := range 100 {
		if v, err := alone.get(context.Background(), fmt.Sprintf("k%d", i)); v != "v" || err != nil {
			t.Errorf("k%d: %q, %v", i, v, err)
		}
	}
	lost[0].start() // its old directory: it must not get in
	fresh := newNode(t, c.dir, "n4", "--join", survivor.gossip)
	c.nodes = append(c.nodes, fresh)
	fresh.start()
	fresh.waitReady()
	if alone.set(context.Background(), "after", "v") != acknowledged {
		t.Error("a write to the new cluster")
	}
	eventually(t, readyTimeout, "the members are the survivor and the new node", func() error {
		m, err := statusAt(t, survivor.resp) // the old cluster's node would tell of the old one
		if err != nil {
			return err
		}
		if _, in := m.node("n4"); !in || len(m.Nodes) != 2 {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
	if err := lost[0].ready(); err == nil {
		t.Error("a node of the lost cluster says that it serves")
	}
}

// TestStaleReadsTellTheirAge reads at the last node of three, which says how old its data is, and refuses what may not
// be so old.
func TestStaleReadsTellTheirAge(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	all := openSDK(t, c.addrs())
	if all.set(context.Background(), "k", "v") != acknowledged {
		t.Fatal("a write failed")
	}
	for range 20 { // each node in turn, bounded: at most a moment old, so that the write is seen in the end
		age, known := time.Hour, false
		fresh := all.With(client.Stale(time.Millisecond).Tell(func(a time.Duration, k bool) { age, known = a, k }))
		if v, err := fresh.Get(context.Background(), "k"); string(v) != "v" || err != nil || !known {
			t.Errorf("got %q, %v, age %v (%t)", v, err, age, known)
		}
		if _, err := fresh.Get(context.Background(), "none"); !errors.Is(err, client.ErrNotFound) {
			t.Errorf("a key that is not there: %v", err)
		}
	}
	last := c.follower()
	pin := openPinned(t, last.resp)
	read := func(bound string) (int64, any, error) {
		got, err := pin.Do(context.Background(), "RAFTCASK", "READ", bound, "GET", "k").Slice()
		if err != nil {
			return 0, nil, err
		}
		return got[0].(int64), got[1], nil
	}
	if _, v, err := read("500"); v != "v" || err != nil {
		t.Errorf("got %v, %v", v, err)
	}
	for _, n := range c.others(last) {
		n.kill()
	}
	cut := time.Now()
	time.Sleep(1500 * time.Millisecond) // the age that is told has to reach this
	least := time.Since(cut).Milliseconds()
	if age, v, err := read("ANY"); v != "v" || err != nil || age < least {
		t.Errorf("got %v, %v, at most %d ms old; the others are gone for %d ms", v, err, age, least)
	}
	if _, v, err := read("1000"); err == nil {
		t.Errorf("it answered %v with data that is too old", v)
	}
	if _, err := pin.get(context.Background(), "k"); err == nil {
		t.Error("a linearizable read was answered without a majority")
	}
	lone := openSDK(t, []string{last.resp})
	if v, err := lone.With(client.Stale(client.AnyAge)).Get(context.Background(), "k"); string(v) != "v" || err != nil {
		t.Errorf("the SDK, any age: %q, %v", v, err)
	}
}
