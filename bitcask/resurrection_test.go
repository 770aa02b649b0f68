package bitcask

import (
	"context"
	"errors"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// seal ends the active segment, so that a merge may take it, and returns it.
func seal(t *testing.T, s *Store) *segment {
	t.Helper()
	s.appender.mu.Lock()
	sealed := s.appender.active
	err := s.rotate()
	s.appender.mu.Unlock()
	must(t, errors.Join(err, s.buildHints(s.ctx)))
	return sealed
}

// TestDeletedKeyStaysDeletedAfterPartialMerge is Bitcask's oldest bug (basho/bitcask#82):
// a merge that does not see the old value drops the tombstone over it, and the
// next start finds the value again.
func TestDeletedKeyStaysDeletedAfterPartialMerge(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("k"), []byte("old")))
	must(t, s.Put([]byte("other"), []byte("keeps the segment alive")))
	seal(t, s)
	must(t, s.Delete([]byte("k")))
	tombstone := seal(t, s)
	must(t, s.mergeSegments(context.Background(), []*segment{tombstone}))
	must(t, s.Close())
	s = mustOpen(t, fs, tinyOptions(fs))
	if v, err := s.Get([]byte("k")); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a deleted key is back after a partial merge: %q, %v", v, err)
	}
	// With the old value in the merge the tombstone has done its work.
	must(t, s.Merge(context.Background()))
	if st := s.Stats(); st.TombstoneBytes != 0 || st.Keys != 1 {
		t.Fatalf("after a full merge %d bytes of tombstones and %d keys are left", st.TombstoneBytes, st.Keys)
	}
	must(t, s.Close())
}

// TestOverwrittenValueStaysOverwrittenWhenMergedLater: the newer value is in the
// file with the lower id, because its segment was merged first. Versions decide, not file names.
func TestOverwrittenValueStaysOverwrittenWhenMergedLater(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("k"), []byte("old")))
	must(t, s.Put([]byte("other"), []byte("live")))
	first := seal(t, s)
	must(t, s.Put([]byte("k"), []byte("new")))
	second := seal(t, s)
	must(t, s.mergeSegments(context.Background(), []*segment{second}))
	must(t, s.mergeSegments(context.Background(), []*segment{first}))
	must(t, s.Close())
	s = mustOpen(t, fs, tinyOptions(fs))
	if v, err := s.Get([]byte("k")); err != nil || string(v) != "new" {
		t.Fatalf("k is %q, %v; should be new", v, err)
	}
	must(t, s.Close())
}

// TestDeleteDuringMergeWins: a key that is deleted while a merge copies it stays
// deleted, also after a restart that finds the copy.
func TestDeleteDuringMergeWins(t *testing.T) {
	disk := vfs.NewMem()
	var s *Store
	merging := false
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if merging && op.Kind == vfs.OpRename && op.To == "db/"+manifestName {
			merging = false
			must(t, s.Delete([]byte("k"))) // the copy is written, the keydir not yet moved
		}
		return nil
	})
	s = mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("k"), []byte("old")))
	must(t, s.Put([]byte("k2"), []byte("dead")))
	must(t, s.Put([]byte("k2"), []byte("live")))
	sealed := seal(t, s)
	merging = true
	must(t, s.mergeSegments(context.Background(), []*segment{sealed}))
	check := func() {
		t.Helper()
		if v, err := s.Get([]byte("k")); !errors.Is(err, ErrNotFound) {
			t.Fatalf("a key deleted during a merge is back: %q, %v", v, err)
		}
		if v, err := s.Get([]byte("k2")); err != nil || string(v) != "live" {
			t.Fatalf("k2 is %q, %v", v, err)
		}
	}
	check()
	must(t, s.Close())
	s = mustOpen(t, fs, tinyOptions(fs))
	check()
	must(t, s.Close())
}

// TestMergeKeepsADamagedSegment: nothing is deleted on doubt (I7).
func TestMergeKeepsADamagedSegment(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	must(t, s.Put([]byte("a"), []byte("first")))
	must(t, s.Put([]byte("b"), []byte("second")))
	must(t, s.Put([]byte("b"), []byte("third")))
	sealed := seal(t, s)
	flip(t, fs, sealed.name, segmentHeaderBytes+70)
	var damage *CorruptError
	if err := s.Merge(context.Background()); !errors.As(err, &damage) || damage.File != sealed.name {
		t.Fatalf("a merge of a damaged segment says %v", err)
	}
	if _, err := fileSize(fs, sealed.name); err != nil {
		t.Fatalf("the damaged segment is gone: %v", err)
	}
	if v, err := s.Get([]byte("b")); err != nil || string(v) != "third" {
		t.Fatalf("an undamaged record of the segment reads as %q, %v", v, err)
	}
	must(t, s.Close())
}
