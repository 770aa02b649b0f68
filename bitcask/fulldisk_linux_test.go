package bitcask

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs/vfstest"
)

// TestFullDiskOnARealFileSystem fills a small ext4: writes are refused, reads go on, a
// merge makes room, writes resume, and the store opens again.
func TestFullDiskOnARealFileSystem(t *testing.T) {
	dir := vfstest.SmallDisk(t, 4<<20)
	o := &Options{SegmentBytes: 64 << 10, Logger: quiet, Merge: MergePolicy{Disabled: true, BytesPerSecond: 1 << 40}}
	open := func() *Store {
		t.Helper()
		s, err := Open(dir+"/db", o)
		must(t, err)
		t.Cleanup(func() { _ = s.Close() }) // of a test that failed: the disk is busy until then
		return s
	}
	s := open()
	for n := range 1000 {
		must(t, s.Put(fmt.Append(nil, "k", n%7), make([]byte, 200)))
	}
	must(t, s.Merge(context.Background()))
	for range 3 {
		want := fillDisk(t, s, 2000)
		if got := contents(t, s); !maps.Equal(got, want) {
			t.Fatalf("on the full disk the store holds %d keys, should hold %d", len(got), len(want))
		}
		must(t, s.Close())
		s = open()
		if err := s.Merge(context.Background()); err != nil {
			t.Fatalf("merge on the full disk: %v", err)
		}
		if err := s.Put([]byte("k0"), []byte("there is room")); err != nil {
			t.Fatalf("write after the merge: %v", err)
		}
		want["k0"] = "there is room"
		must(t, s.Close())
		s = open()
		if got := contents(t, s); !maps.Equal(got, want) {
			t.Fatalf("reopened: the store holds %d keys, should hold %d", len(got), len(want))
		}
	}
	if err := s.Put([]byte("large"), make([]byte, 4<<20)); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("a value larger than the disk: %v", err)
	}
	must(t, s.Close())
}
