package bitcask

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// TestAppendOnAFullDiskTellsWhatStayed: entries that a failed Append left in the log can come back after a restart,
// so the caller must not report them as not applied.
func TestAppendOnAFullDiskTellsWhatStayed(t *testing.T) {
	fs := vfs.NewMem()
	options := replicatedOptions(fs)
	options.SegmentBytes = 64 << 10
	s := mustOpen(t, nil, options)
	value := string(make([]byte, 40<<10)) // one segment has room for one
	must(t, s.Append([]Entry{dataEntry(1, 1, 1, "a", value)}))

	three := []Entry{dataEntry(2, 1, 1, "b", value), dataEntry(3, 1, 1, "c", value), dataEntry(4, 1, 1, "d", value)}
	var err error
	for room := int64(4 << 10); s.LastIndex() == 1; room += 4 << 10 {
		if errors.Is(err, ErrIncomplete) {
			t.Fatalf("an append that left nothing: %v", err)
		}
		fs.SetLimit(fs.Used() + room)
		err = s.Append(three)
	}
	if last := s.LastIndex(); last == 4 {
		t.Fatal("all fitted: this test needs an append that fails half-way")
	}
	if !errors.Is(err, ErrNoSpace) || !errors.Is(err, ErrIncomplete) {
		t.Fatalf("append on a full disk: %v", err)
	}
	fs.SetLimit(0)
	must(t, s.TruncateAfter(1))
	must(t, s.Append([]Entry{dataEntry(2, 2, 2, "b", "again")}))
	must(t, s.Close())
}

// TestGroupedWritesBesideAClear: writers who share a commit with one who clears the store get what their order says.
func TestGroupedWritesBesideAClear(t *testing.T) {
	s, err := Open("db", &Options{FS: vfs.NewMem(), Merge: MergePolicy{Disabled: true}, Scrub: ScrubPolicy{Disabled: true}})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	for round := range 200 {
		var writers sync.WaitGroup
		for n := range 8 {
			writers.Go(func() {
				if n == 4 {
					var b Batch
					b.Clear()
					if err := errors.Join(b.Put([]byte("after"), fmt.Append(nil, round), 0), s.Write(&b)); err != nil {
						t.Error(err)
					}
					return
				}
				if err := s.Put(fmt.Append(nil, round, n), []byte("v")); err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
		if v, err := s.Get([]byte("after")); err != nil || string(v) != fmt.Sprint(round) {
			t.Fatalf("round %d: %q, %v", round, v, err)
		}
		if keys := s.Stats().Keys; keys < 1 || keys > 8 {
			t.Fatalf("round %d: %d keys", round, keys)
		}
	}
}

// TestCloseDuringMergeLeavesTheDirectoryAlone: who opens the store next must not find a merge at work in it.
func TestCloseDuringMergeLeavesTheDirectoryAlone(t *testing.T) {
	disk := vfs.NewMem()
	var s *Store
	var closed, late atomic.Bool
	merging, closing := make(chan struct{}), make(chan struct{})
	var once sync.Once
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if closed.Load() {
			late.Store(true)
		}
		if op.Kind != vfs.OpCreate || s == nil {
			return nil
		}
		if s.merging.TryLock() {
			s.merging.Unlock()
			return nil
		}
		once.Do(func() { // the output of the merge
			close(merging)
			<-closing
		})
		return nil
	})
	s = mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("k"), []byte("old")))
	must(t, s.Put([]byte("k"), []byte("new")))
	merged := make(chan error, 1)
	go func() { merged <- s.Merge(context.Background()) }()
	<-merging
	closes := make(chan error, 1)
	go func() {
		err := s.Close()
		closed.Store(true)
		closes <- err
	}()
	<-s.ctx.Done() // Close has begun
	close(closing)
	must(t, <-closes)
	if err := <-merged; !errors.Is(err, ErrClosed) {
		t.Errorf("the merge ended with %v", err)
	}
	if late.Load() {
		t.Error("the merge went on in the directory after Close")
	}
	s = mustOpen(t, disk, tinyOptions(disk))
	if v, err := s.Get([]byte("k")); err != nil || string(v) != "new" {
		t.Errorf("k is %q, %v", v, err)
	}
	must(t, s.Close())
}
