package bitcask

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// TestOverwrittenValueStaysGoneAfterAnAbortedMerge: the aborted merge has seen the expired record that hides the old one.
func TestOverwrittenValueStaysGoneAfterAnAbortedMerge(t *testing.T) {
	fs := vfs.NewMem()
	now := time.UnixMilli(1_000_000)
	o := &Options{FS: fs, SegmentBytes: 4096, Merge: MergePolicy{Disabled: true}, Scrub: ScrubPolicy{Disabled: true}, Now: func() time.Time { return now }}
	s, err := Open("db", o)
	must(t, err)
	must(t, s.Put([]byte("k"), []byte("old")))
	must(t, s.Put([]byte("keepA"), []byte("x")))
	// seal segment A
	s.appender.mu.Lock()
	must(t, s.rotate())
	s.appender.mu.Unlock()
	must(t, s.PutWithTTL([]byte("k"), []byte("new"), time.Second))
	s.appender.mu.Lock()
	must(t, s.rotate())
	s.appender.mu.Unlock()
	must(t, s.Put([]byte("z"), []byte("z")))
	must(t, s.buildHints(s.ctx))
	now = now.Add(time.Hour)
	segs := sortedSegments(s.liveSegments())
	B := segs[1]
	// first attempt: fails after the record was looked at (a full disk at the output; here: stop before install)
	ctx, cancel := context.WithCancel(context.Background())
	m := &merger{store: s, ctx: ctx, inputs: []*segment{B}, isIn: map[uint32]bool{B.id: true}, oldestElse: 1, now: s.mergeTime()}
	m.budget = newPace(func() float64 { return 1 })
	cancel2 := time.AfterFunc(50*time.Millisecond, cancel)
	defer cancel2.Stop()
	err = m.copyLive() // the budget waits, the context ends
	t.Log("first attempt:", err)
	m.abort()
	// second attempt, through the ordinary door
	must(t, s.mergeSegments(context.Background(), []*segment{B}))
	must(t, s.Close())
	s, err = Open("db", o)
	must(t, err)
	v, err := s.Get([]byte("k"))
	t.Logf("after reopen: %q %v", v, err)
	if err == nil {
		t.Error("RESURRECTED")
	}
	must(t, s.Close())
}

// TestSnapshotSavedAfterAMergeSurvivesAnOrderlyStop: the checkpoint was taken before a merge retired its segments, and saved after.
func TestSnapshotSavedAfterAMergeSurvivesAnOrderlyStop(t *testing.T) {
	fs := vfs.NewMem()
	o := &Options{FS: fs, SegmentBytes: 4096, Merge: MergePolicy{Disabled: true}, Scrub: ScrubPolicy{Disabled: true}}
	s, err := Open("db", o)
	must(t, err)
	for i := range 100 {
		must(t, s.Put([]byte(fmt.Sprintf("k%d", i%10)), make([]byte, 100)))
	}
	cp, err := s.Checkpoint()
	must(t, err)
	must(t, s.Merge(context.Background()))
	must(t, cp.Save("snap", nil))
	cp.Release()
	must(t, s.Close())
	s, err = Open("db", o)
	if err != nil {
		t.Fatal("REOPEN FAILS: ", err)
	}
	must(t, s.Close())
}

// B: truncation against the install of a merge.
func TestTruncationDuringAMerge(t *testing.T) {
	fs := vfs.NewMem()
	o := replicatedOptions(fs)
	o.SegmentBytes = 1 << 20
	o.Merge.Disabled = true
	s, err := Open("db", o)
	must(t, err)
	idx := uint64(1)
	put := func(k string) {
		must(t, s.Append([]Entry{dataEntry(idx, 1, 1, k, "0123456789012345678901234567890123456789")}))
		idx++
	}
	for i := range 12000 {
		put(fmt.Sprintf("key%06d", i%6000))
	}
	must(t, s.Commit(idx-1))
	s.ForgetBefore(idx)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, _, err := s.Read([]byte(fmt.Sprintf("key%06d", i%6000)), nil); err != nil {
				t.Error("read:", err)
				return
			}
		}
	})
	for range 60 {
		for i := range 200 {
			put(fmt.Sprintf("key%06d", i))
		}
		must(t, s.Commit(idx-1))
		s.ForgetBefore(idx)
		done := make(chan error, 1)
		go func() { done <- s.Merge(context.Background()) }()
		var merr error
	loop:
		for {
			select {
			case merr = <-done:
				break loop
			default:
				put("uncommitted")
				idx--
				must(t, s.TruncateAfter(idx-1))
			}
		}
		if merr != nil {
			t.Log("merge:", merr)
		}
	}
	close(stop)
	wg.Wait()
	must(t, s.Close())
	s, err = Open("db", o)
	if err != nil {
		t.Fatal("REOPEN FAILS: ", err)
	}
	for i := range 6000 {
		if _, _, err := s.Read([]byte(fmt.Sprintf("key%06d", i)), nil); err != nil {
			t.Fatal("after reopen", err)
		}
	}
	must(t, s.Close())
}

// B2: no readers; is the manifest still true?

// TestWritersDoNotWaitForFilesToBeRemoved: it takes a file system long to remove a large file. Neither a merge nor a checkpoint that
// is saved or adopted holds a lock meanwhile that sealing a segment needs.
func TestWritersDoNotWaitForFilesToBeRemoved(t *testing.T) {
	for _, c := range []struct {
		name   string
		remove func(s *Store) error
	}{
		{"merge", func(s *Store) error { return s.Merge(t.Context()) }},
		{"checkpoint", func(s *Store) error {
			return errors.Join(saveCheckpoint(s, 1), s.Merge(t.Context()), saveCheckpoint(s, 2))
		}},
		{"adoption", func(s *Store) error { return adoptCopy(s, 1) }},
	} {
		removing, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		var opened atomic.Bool
		fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op) *vfs.Fault {
			if opened.Load() && op.Kind == vfs.OpRemove && filepath.Base(op.Name) == "00000001.seg" {
				once.Do(func() { close(removing) })
				<-goOn
			}
			return nil
		})
		s := mustOpen(t, fs, tinyOptions(fs))
		opened.Store(true)
		for range 40 {
			must(t, s.Put([]byte("k"), make([]byte, 100)))
		}
		removed := make(chan error, 1)
		go func() { removed <- c.remove(s) }()
		select {
		case <-removing:
		case <-time.After(time.Minute):
			t.Fatalf("%s: no file is removed", c.name)
		}
		written := make(chan error, 1)
		go func() {
			var err error
			for range 40 {
				err = errors.Join(err, s.Put([]byte("k"), make([]byte, 100)))
			}
			written <- err
		}()
		select {
		case err := <-written:
			must(t, err)
		case <-time.After(time.Minute):
			t.Fatalf("%s: writers wait for a file that is being removed", c.name)
		}
		close(goOn)
		must(t, <-removed)
		must(t, s.Close())
	}
}

// TestCheckpointSavedWhileTheStoreClosesIsNotWrittenOverItsNextOwner: the old manifest names files that the next owner may have
// merged away, and nothing of what that one acknowledges.
func TestCheckpointSavedWhileTheStoreClosesIsNotWrittenOverItsNextOwner(t *testing.T) {
	var armed, syncHeld atomic.Bool
	var manifests atomic.Int32
	syncing, goOn, closed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op) *vfs.Fault {
		switch {
		case !armed.Load():
		case op.Kind == vfs.OpSync && !syncHeld.Swap(true):
			close(syncing)
			<-goOn
		case op.Kind == vfs.OpCreate && filepath.Base(op.Name) == manifestName+".tmp" && manifests.Add(1) == 2:
			select {
			case <-closed:
				t.Error("a manifest is written after Close")
			case <-time.After(100 * time.Millisecond):
			}
		}
		return nil
	})
	o := tinyOptions(fs)
	o.Durability = Never
	s := mustOpen(t, fs, o)
	must(t, s.Put([]byte("k"), []byte("v")))
	c, err := s.Checkpoint()
	must(t, err)
	armed.Store(true)
	saved := make(chan error, 1)
	go func() { saved <- c.Save("late", nil) }()
	<-syncing
	go func() {
		defer close(closed)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	for !s.closed.Load() {
		time.Sleep(time.Millisecond)
	}
	close(goOn)
	if err := <-saved; err != nil && !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	<-closed
	c.Release()
}
