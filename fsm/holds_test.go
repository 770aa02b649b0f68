package fsm

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestSnapshotOnItsWayKeepsTheLogBehindIt: its receiver needs those entries next. Meanwhile the leader writes, takes
// snapshots, merges, and drops the rest of its log.
func TestSnapshotOnItsWayKeepsTheLogBehindIt(t *testing.T) {
	leader, follower := open(t, t.TempDir()), open(t, t.TempDir())
	now := time.Now()
	leader.log.holds.now = func() time.Time { return now }
	leader.fill(t, 1, 300)
	leader.takeSnapshot(t, 300)
	must(t, leader.log.DeleteRange(1, 250))
	meta, stream, err := leader.snapshots.Open(leader.newestID(t))
	must(t, err)
	first := make([]byte, meta.Size/2)
	_, err = io.ReadFull(stream, first)
	must(t, err)

	leader.fill(t, 301, 600) // all of the first 300 are overwritten
	leader.takeSnapshot(t, 600)
	must(t, leader.log.DeleteRange(251, 590))
	must(t, leader.store.Merge(t.Context()))
	leader.fill(t, 601, 900)
	leader.takeSnapshot(t, 900)
	must(t, leader.log.DeleteRange(301, 890))

	rest, err := io.ReadAll(stream)
	must(t, err)
	must(t, stream.Close())
	sink, err := follower.snapshots.Create(1, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	must(t, err)
	_, err = io.Copy(sink, io.MultiReader(bytes.NewReader(first), bytes.NewReader(rest)))
	must(t, err)
	must(t, sink.Close())
	_, in, err := follower.snapshots.Open(sink.ID())
	must(t, err)
	must(t, follower.fsm.Restore(in))
	if v, err := follower.store.Get([]byte("k3")); err != nil || string(v) != "v293" {
		t.Errorf("k3 is %q, %v, and was v293 in that snapshot", v, err)
	}
	if at, _ := leader.log.FirstIndex(); at != meta.Index+1 { // the cache would hide it below
		t.Errorf("the log begins at %d, the receiver needs it from %d on", at, meta.Index+1)
	}
	for i := meta.Index + 1; i <= 900; i++ { // as raft's replication does
		log := new(raft.Log)
		if err := leader.log.GetLog(i, log); err != nil {
			t.Fatalf("entry %d, which the receiver needs next: %v", i, err)
		}
		must(t, follower.log.StoreLog(log))
		follower.fsm.Apply(log)
	}

	now = now.Add(holdGrace + time.Second)
	must(t, leader.log.DeleteRange(301, 890))
	if at, _ := leader.log.FirstIndex(); at != 891 {
		t.Errorf("the log begins at %d, though nobody needs it any more", at)
	}
}

// TestSlowReceiverDoesNotFillTheLeadersDisk: what is kept for it is bounded.
func TestSlowReceiverDoesNotFillTheLeadersDisk(t *testing.T) {
	h := newHolds()
	slow, big := h.take(100, 1000), h.take(200, 3*minHoldBytes)
	if last := h.limit(500, minHoldBytes); last != 100 {
		t.Errorf("the log may go to %d, and is needed from 101 on", last)
	}
	if last := h.limit(500, minHoldBytes+1); last != 200 {
		t.Errorf("the log may go to %d; only the larger snapshot's receiver may keep that much", last)
	}
	slow.release() // too late to count
	big.release()
	if last := h.limit(500, 0); last != 200 {
		t.Errorf("the log may go to %d right after the snapshot was sent", last)
	}
}

func (n *node) newestID(t *testing.T) string {
	t.Helper()
	list, err := n.snapshots.List()
	must(t, err)
	return list[0].ID
}

// TestReceiverIsUntouchedWhereverTheStreamEnds cuts a stream at many places, and sometimes the process dies there. The
// receiver is what it was, takes the whole stream afterwards, and keeps nothing of the failed ones.
func TestReceiverIsUntouchedWhereverTheStreamEnds(t *testing.T) {
	leader, dir := open(t, t.TempDir()), t.TempDir()
	leader.fill(t, 1, 400)
	leader.takeSnapshot(t, 400)
	must(t, leader.log.DeleteRange(1, 400))
	meta, stream, err := leader.snapshots.Open(leader.newestID(t))
	must(t, err)
	whole, err := io.ReadAll(stream)
	must(t, err)
	must(t, stream.Close())

	follower := open(t, dir)
	follower.fill(t, 1, 7)
	check := func(cut int) {
		t.Helper()
		for i := range 7 {
			if v, err := follower.store.Get([]byte(fmt.Sprint("k", i+1))); err != nil || string(v) != fmt.Sprint("v", i+1) {
				t.Fatalf("cut at %d of %d: k%d is %q, %v", cut, len(whole), i+1, v, err)
			}
		}
		if list, _ := follower.snapshots.List(); len(list) != 0 {
			t.Fatalf("cut at %d of %d: a snapshot is listed", cut, len(whole))
		}
	}
	rng := rand.New(rand.NewPCG(1, uint64(len(whole))))
	cuts := []int{0, 1, 15, 16, 17, len(whole) - 5, len(whole) - 4, len(whole) - 1}
	for range 60 {
		cuts = append(cuts, rng.IntN(len(whole)))
	}
	for i, cut := range cuts {
		sink, err := follower.snapshots.Create(1, meta.Index, meta.Term, meta.Configuration, 1, nil)
		must(t, err)
		_, err = sink.Write(whole[:cut])
		must(t, err)
		if i%2 == 0 { // the leader is gone
			must(t, sink.Cancel())
		} else { // this process is: nobody tidies up
			must(t, follower.store.Close())
			follower = open(t, dir)
			// The last entry is committed anew by the next leader.
			must(t, follower.store.Commit(7))
		}
		check(cut)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "incoming-*")); len(left) != 0 {
		t.Errorf("failed streams left %v behind", left)
	}
	must(t, send(t, leader, follower, func([]byte) {}))
	if v, err := follower.store.Get([]byte("k0")); err != nil || string(v) != "v400" {
		t.Errorf("k0 is %q, %v after the whole stream", v, err)
	}
}
