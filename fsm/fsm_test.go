package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
)

type node struct {
	store     *bitcask.Store
	log       *LogStore
	fsm       *FSM
	snapshots *SnapshotStore
}

func open(t *testing.T, dir string) *node {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	store, err := bitcask.Open(dir, &bitcask.Options{Replicated: true, SegmentBytes: 4096, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	logs := NewLogStore(store)
	return &node{store, logs, New(store, quiet), NewSnapshotStore(logs, quiet)}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// command is an entry that sets key to value; it was evaluated in term valid.
func command(index, term, valid uint64, key, value string) *raft.Log {
	var b bitcask.Batch
	b.Reset(valid, 0)
	_ = b.Put([]byte(key), []byte(value), 0)
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: b.Detach()}
}

// fill stores and applies entries from to last.
func (n *node) fill(t *testing.T, from, last uint64) {
	t.Helper()
	for i := from; i <= last; i++ {
		log := command(i, 1, 1, fmt.Sprint("k", i%10), fmt.Sprint("v", i))
		must(t, n.log.StoreLog(log))
		if r := n.fsm.Apply(log); r != nil {
			t.Fatalf("apply %d: %v", i, r)
		}
	}
}

func TestDeleteRangeServesBothEnds(t *testing.T) {
	n := open(t, t.TempDir())
	n.fill(t, 1, 50)
	for i := uint64(51); i <= 60; i++ {
		must(t, n.log.StoreLog(command(i, 1, 1, "tail", "x")))
	}
	must(t, n.log.DeleteRange(1, 30))  // compaction
	must(t, n.log.DeleteRange(55, 60)) // a conflict
	first, _ := n.log.FirstIndex()
	last, _ := n.log.LastIndex()
	if first != 31 || last != 54 {
		t.Fatalf("the log is %d to %d, should be 31 to 54", first, last)
	}
	var log raft.Log
	for _, gone := range []uint64{30, 55} {
		if err := n.log.GetLog(gone, &log); !errors.Is(err, raft.ErrLogNotFound) {
			t.Fatalf("entry %d: %v", gone, err)
		}
	}
	replacement := command(55, 2, 2, "tail", "other leader's")
	must(t, n.log.StoreLog(replacement))
	must(t, n.log.GetLog(55, &log))
	if log.Term != 2 || !bytes.Equal(log.Data, replacement.Data) {
		t.Fatalf("entry 55 is of term %d", log.Term)
	}
	if v, err := n.store.Get([]byte("k0")); err != nil || string(v) != "v50" {
		t.Fatalf("forgetting the log lost data: %q, %v", v, err)
	}
}

// TestStoreLogsAgainAfterAFailureReplaces: raft retries from the index that it
// thinks failed, although the first attempt may have left entries behind.
func TestStoreLogsAgainAfterAFailureReplaces(t *testing.T) {
	n := open(t, t.TempDir())
	n.fill(t, 1, 3)
	must(t, n.log.StoreLogs([]*raft.Log{command(4, 1, 1, "a", "lost"), command(5, 1, 1, "a", "lost")}))
	again := command(4, 2, 2, "a", "kept")
	must(t, n.log.StoreLog(again))
	if last, _ := n.log.LastIndex(); last != 4 {
		t.Fatalf("the log ends at %d, should at 4", last)
	}
	n.fsm.Apply(again)
	if v, err := n.store.Get([]byte("a")); err != nil || string(v) != "kept" {
		t.Fatalf("a is %q, %v", v, err)
	}
}

func TestEntryOfAnotherTermIsToldNotApplied(t *testing.T) {
	n := open(t, t.TempDir())
	logs := []*raft.Log{
		command(1, 3, 3, "a", "good"), command(2, 3, 2, "a", "stale"),
		{Index: 3, Term: 3, Type: raft.LogConfiguration, Data: []byte("servers")},
	}
	must(t, n.log.StoreLogs(logs))
	r := n.fsm.ApplyBatch(logs)
	if len(r) != 3 || r[0] != nil || !errors.Is(r[1].(error), ErrStaleTerm) || r[2] != nil {
		t.Fatalf("responses are %v", r)
	}
	if v, _ := n.store.Get([]byte("a")); string(v) != "good" {
		t.Fatalf("a is %q", v)
	}
	if n.fsm.AppliedIndex() != 3 {
		t.Fatalf("a configuration entry did not count: applied is %d", n.fsm.AppliedIndex())
	}
	// After a restart raft applies entries again.
	if r := n.fsm.ApplyBatch(logs[:1]); r[0] != nil {
		t.Fatalf("applying again gave %v", r[0])
	}
	if v, _ := n.store.Get([]byte("a")); string(v) != "good" || n.fsm.AppliedIndex() != 3 {
		t.Fatalf("applying again changed the state: %q at %d", v, n.fsm.AppliedIndex())
	}
}

// takeSnapshot does what raft does.
func (n *node) takeSnapshot(t *testing.T, index uint64) {
	t.Helper()
	snap, err := n.fsm.Snapshot()
	must(t, err)
	defer snap.Release()
	conf := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "a:1"}}}
	sink, err := n.snapshots.Create(1, index, 1, conf, 1, nil)
	must(t, err)
	must(t, snap.Persist(sink))
	must(t, sink.Close())
}

// send streams the newest snapshot to another node, as InstallSnapshot does.
func send(t *testing.T, from, to *node, corrupt func([]byte)) error {
	t.Helper()
	list, err := from.snapshots.List()
	must(t, err)
	meta, src, err := from.snapshots.Open(list[0].ID)
	must(t, err)
	data, err := io.ReadAll(src)
	must(t, err)
	must(t, src.Close())
	if int64(len(data)) != meta.Size {
		t.Fatalf("the stream has %d bytes, Size said %d", len(data), meta.Size)
	}
	corrupt(data)
	sink, err := to.snapshots.Create(meta.Version, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	must(t, err)
	if _, err := sink.Write(data); err != nil {
		must(t, sink.Cancel())
		return err
	}
	if err := sink.Close(); err != nil {
		return err
	}
	if list, _ := to.snapshots.List(); len(list) != 0 {
		t.Fatal("a snapshot that was not restored yet is listed: a crash now would skip entries")
	}
	_, in, err := to.snapshots.Open(sink.ID())
	must(t, err)
	return to.fsm.Restore(in)
}

func TestSnapshotBringsAFollowerUp(t *testing.T) {
	leader, dir := open(t, t.TempDir()), t.TempDir()
	leader.fill(t, 1, 200)
	must(t, leader.log.StoreLog(&raft.Log{Index: 201, Term: 1, Type: raft.LogBarrier}))
	leader.takeSnapshot(t, 201) // raft counts the barrier, the FSM never saw it
	must(t, leader.log.DeleteRange(1, 201))
	follower := open(t, dir)
	follower.fill(t, 1, 5)
	must(t, follower.log.StoreLog(command(6, 1, 1, "k1", "uncommitted")))
	if err := send(t, leader, follower, func(b []byte) { b[len(b)/2] ^= 1 }); err == nil {
		t.Fatal("a damaged stream was adopted")
	}
	if v, _ := follower.store.Get([]byte("k5")); string(v) != "v5" {
		t.Fatal("a refused snapshot changed the follower")
	}
	must(t, send(t, leader, follower, func([]byte) {}))
	check := func() {
		t.Helper()
		for i := range 10 {
			key := []byte(fmt.Sprint("k", i))
			want, err := leader.store.Get(key)
			must(t, err)
			if got, err := follower.store.Get(key); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s is %q, %v; should be %q", key, got, err, want)
			}
		}
		list, err := follower.snapshots.List()
		must(t, err)
		if len(list) != 1 || list[0].Index != 201 || len(list[0].Configuration.Servers) != 1 {
			t.Fatalf("the follower lists %+v", list)
		}
		var log raft.Log
		if err := follower.log.GetLog(6, &log); !errors.Is(err, raft.ErrLogNotFound) {
			t.Fatalf("an entry from before the snapshot is still served: %v", err)
		}
	}
	check()
	must(t, follower.store.Close())
	follower = open(t, dir)
	check()
	next := command(202, 2, 2, "k1", "after")
	must(t, follower.log.StoreLog(next))
	if r := follower.fsm.Apply(next); r != nil {
		t.Fatal(r)
	}
}

// TestNoSnapshotWhileRaftReplays: right after a restart raft's index is behind the
// engine's; a snapshot taken then would claim to be older than it is.
func TestNoSnapshotWhileRaftReplays(t *testing.T) {
	dir := t.TempDir()
	n := open(t, dir)
	n.fill(t, 1, 20)
	must(t, n.store.Close())
	n = open(t, dir)
	var log raft.Log
	must(t, n.log.GetLog(20, &log))
	n.fsm.Apply(&log)
	if _, err := n.fsm.Snapshot(); err != nil {
		t.Fatalf("caught up, and still: %v", err)
	}
	must(t, n.store.Close())
	n = open(t, dir)
	must(t, n.log.GetLog(15, &log))
	n.fsm.Apply(&log)
	if applied := n.fsm.AppliedIndex(); applied < 19 {
		t.Fatalf("the engine forgot what was committed: it is at %d", applied)
	}
	if _, err := n.fsm.Snapshot(); err == nil {
		t.Fatal("a snapshot of a later state than its index was taken")
	}
}

// TestSnapshotAfterRestartFromASnapshot: after a restart with nothing behind the snapshot but a no-op, raft feeds nothing. The log must still be cut.
func TestSnapshotAfterRestartFromASnapshot(t *testing.T) {
	dir := t.TempDir()
	n := open(t, dir)
	n.fill(t, 1, 20)
	n.takeSnapshot(t, 20)
	must(t, n.store.Close())
	n = open(t, dir)
	if _, err := n.fsm.Snapshot(); err == nil {
		t.Error("a snapshot was taken before raft had said where it starts")
	}
	saved, err := n.snapshots.List()
	must(t, err)
	n.fsm.StartAt(saved[0].Index)
	s, err := n.fsm.Snapshot()
	must(t, err)
	s.Release()
}

func TestEntryThatNamesTheClusterIsTold(t *testing.T) {
	n := open(t, t.TempDir())
	var told []string
	n.fsm.OnClusterID(func(index, term uint64, id string) { told = append(told, fmt.Sprint(index, term, id)) })
	n.fill(t, 1, 2)
	log := ClusterEntry(4, "c1")
	log.Index, log.Term = 3, 4
	must(t, n.log.StoreLog(&log))
	n.log.cache = logCache{} // as after a restart
	stored := new(raft.Log)
	must(t, n.log.GetLog(3, stored))
	if r := n.fsm.Apply(stored); r != nil {
		t.Fatal(r)
	}
	if len(told) != 1 || told[0] != "3 4c1" {
		t.Errorf("told %q", told)
	}
	if n.store.Len() != 2 {
		t.Errorf("%d keys", n.store.Len())
	}
}
