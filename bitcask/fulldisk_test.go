package bitcask

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// fillDisk overwrites a few keys until the disk is full, and returns what the store
// must hold then.
func fillDisk(t *testing.T, s *Store, valueBytes int) map[string]string {
	t.Helper()
	want := map[string]string{}
	for n := range 100_000 {
		key, value := fmt.Sprint("k", n%7), fmt.Sprintf("%d %s", n, strings.Repeat("w", valueBytes))
		err := s.Put([]byte(key), []byte(value))
		if errors.Is(err, ErrNoSpace) {
			return want
		}
		must(t, err)
		want[key] = value
	}
	t.Fatal("the disk never filled up")
	return nil
}

// someSealed writes enough for a few sealed segments, and lets the store take its reserve.
func someSealed(t *testing.T, s *Store) {
	t.Helper()
	for n := range 40 {
		must(t, s.Put(fmt.Append(nil, "k", n%7), make([]byte, 200)))
	}
	must(t, s.buildHints(s.ctx))
	must(t, s.keepReserve())
}

// TestMergeRunsOnAFullDisk: the disk is full, most of it is dead, and nothing but a merge
// can make room. It can thanks to the reserve, and writes resume by themselves.
func TestMergeRunsOnAFullDisk(t *testing.T) {
	for _, c := range []struct {
		name    string
		reserve int64
		merge   func(s *Store) error
		works   bool
	}{
		{"asked for", 0, func(s *Store) error { return s.Merge(t.Context()) }, true},
		{"in the background", 0, func(s *Store) error { return s.maintainOnce() }, true},
		{"without a reserve", -1, func(s *Store) error { return s.Merge(t.Context()) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := vfs.NewMem()
			o := tinyOptions(fs)
			o.Merge.ReserveBytes = c.reserve
			s := mustOpen(t, fs, o)
			someSealed(t, s)
			fs.SetLimit(fs.Used() + 40_000)
			want := fillDisk(t, s, 200)
			if got := contents(t, s); !maps.Equal(got, want) {
				t.Fatalf("on the full disk the store holds %v, should hold %v", got, want)
			}
			if !s.Stats().DiskFull {
				t.Error("Stats does not say that the disk is full")
			}
			used := fs.Used()
			fs.SetLimit(used) // not a sector is left
			err := c.merge(s)
			if !c.works {
				if !errors.Is(err, ErrNoSpace) {
					t.Fatalf("a merge on a full disk without a reserve: %v", err)
				}
				must(t, s.Close())
				return
			}
			must(t, err)
			if left := fs.Used() - s.spare.bytes; left > used/4 {
				t.Errorf("the merge left %d of %d bytes", left, used)
			}
			must(t, s.Put([]byte("k0"), []byte("there is room")))
			want["k0"] = "there is room"
			if got := contents(t, s); !maps.Equal(got, want) {
				t.Fatalf("after the merge the store holds %v, should hold %v", got, want)
			}
			if st := s.Stats(); st.DiskFull || s.spare.lent.Load() {
				t.Errorf("after the merge: disk full %v, reserve lent %v", st.DiskFull, s.spare.lent.Load())
			}
			must(t, s.Close())
			s = mustOpen(t, fs, o)
			if got := contents(t, s); !maps.Equal(got, want) {
				t.Fatalf("reopened: the store holds %v, should hold %v", got, want)
			}
			must(t, s.Close())
		})
	}
}

// TestFullDiskMergesAStoreWithALargeManifest: as one with thousands of segments has. A merge writes a second one.
func TestFullDiskMergesAStoreWithALargeManifest(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	c, err := s.Checkpoint()
	must(t, err)
	must(t, c.Save("large", make([]byte, 2*reserveSlack)))
	c.Release()
	someSealed(t, s)
	fs.SetLimit(fs.Used() + 300_000)
	fillDisk(t, s, 200)
	fs.SetLimit(fs.Used())
	must(t, s.Merge(t.Context()))
	must(t, s.Put([]byte("k"), []byte("there is room")))
	must(t, s.Close())
}

// TestFullDiskMergesAroundAnUnreadableSegment: the emptiest segment cannot be read. Room is made of the others.
func TestFullDiskMergesAroundAnUnreadableSegment(t *testing.T) {
	for name, merge := range map[string]func(s *Store) error{
		"asked for":         func(s *Store) error { return s.Merge(t.Context()) },
		"in the background": func(s *Store) error { return s.maintainOnce() },
	} {
		t.Run(name, func(t *testing.T) {
			disk, bad := vfs.NewMem(), false
			fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
				if bad && op.Kind == vfs.OpRead && op.Name == segmentName("db", 1) {
					return &vfs.Fault{Err: syscall.EIO}
				}
				return nil
			})
			s := mustOpen(t, fs, tinyOptions(fs))
			someSealed(t, s)
			disk.SetLimit(disk.Used() + 40_000)
			want := fillDisk(t, s, 200)
			disk.SetLimit(disk.Used())
			bad = true
			if err := merge(s); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrNoSpace) {
				t.Errorf("merging on the full disk: %v", err)
			}
			bad = false
			must(t, s.Put([]byte("k0"), []byte("there is room")))
			want["k0"] = "there is room"
			if got := contents(t, s); !maps.Equal(got, want) {
				t.Fatalf("the store holds %v, should hold %v", got, want)
			}
			must(t, s.Close())
		})
	}
}

// TestFullDiskNeverEndsAStoreOfDeadBytes: a store that writes for ever over few keys
// goes on for ever on a small disk.
func TestFullDiskNeverEndsAStoreOfDeadBytes(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	someSealed(t, s)
	fs.SetLimit(fs.Used() + 30_000)
	for range 12 {
		want := fillDisk(t, s, 200)
		must(t, s.maintainOnce())
		if got := contents(t, s); !maps.Equal(got, want) {
			t.Fatalf("the store holds %v, should hold %v", got, want)
		}
	}
	must(t, s.Close())
}

// TestWritesDoNotEatTheReserve: while merges live on the reserve every write is refused, and
// after them until the reserve is whole again.
func TestWritesDoNotEatTheReserve(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, tinyOptions(fs))
	someSealed(t, s)
	s.lendReserve()
	fs.SetLimit(fs.Used() + s.spare.bytes/2)
	for range 2 {
		if err := s.Put([]byte("k"), []byte("v")); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("a write while the reserve is lent: %v", err)
		}
		if s.spare.users > 0 {
			s.returnReserve() // there is no room for it
		}
	}
	fs.SetLimit(0)
	must(t, s.Put([]byte("k"), []byte("v")))
	if size, err := fileSize(fs, joinPath("db", reserveName)); err != nil || size != s.spare.bytes || size == 0 {
		t.Fatalf("the reserve has %d bytes, %v; should have %d", size, err, s.spare.bytes)
	}
	must(t, s.Close())
}

// TestStoreOpensOnAFullDisk: killed on a full disk, with its hints gone, a store opens
// and reads; it writes again as soon as there is room.
func TestStoreOpensOnAFullDisk(t *testing.T) {
	for _, replicated := range []bool{false, true} {
		disk := vfs.NewMem()
		o := tinyOptions(disk)
		o.Replicated = replicated
		s := mustOpen(t, disk, o)
		write := func(n int) error {
			key, value := fmt.Sprint("k", n%7), fmt.Sprint(n, strings.Repeat("w", 200))
			if !replicated {
				return s.Put([]byte(key), []byte(value))
			}
			index, _ := s.Applied()
			if err := s.Append([]Entry{dataEntry(index+1, 1, 1, key, value)}); err != nil {
				return err
			}
			return s.Commit(index + 1)
		}
		for n := range 40 {
			must(t, write(n))
		}
		must(t, s.buildHints(s.ctx))
		must(t, s.Merge(t.Context()))
		want := contents(t, s)
		fs := disk.KillClone()
		must(t, s.Close())
		names, err := fs.List("db")
		must(t, err)
		hints := 0
		for _, name := range names {
			if strings.HasSuffix(name, ".hint") {
				must(t, fs.Remove("db/"+name))
				hints++
			}
		}
		fs.SetLimit(1)
		o = tinyOptions(fs)
		o.Replicated = replicated
		s = mustOpen(t, fs, o)
		if got := contents(t, s); hints == 0 || !maps.Equal(got, want) {
			t.Fatalf("without %d hints, on a full disk: the store holds %v, should hold %v", hints, got, want)
		}
		if err := write(41); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("a write on the full disk: %v", err)
		}
		fs.SetLimit(0)
		must(t, write(41))
		must(t, s.buildHints(s.ctx))
		for _, seg := range s.liveSegments() {
			if seg.id != s.activeID() && !seg.hinted.Load() {
				t.Errorf("segment %d has no hint although there is room", seg.id)
			}
		}
		must(t, s.Close())
	}
}

// TestNewStoreOnAFullDiskSaysSo: there is nothing to open yet.
func TestNewStoreOnAFullDiskSaysSo(t *testing.T) {
	fs := vfs.NewMem()
	fs.SetLimit(1)
	if _, err := Open("db", tinyOptions(fs)); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("Open gave %v", err)
	}
	fs.SetLimit(0)
	must(t, mustOpen(t, fs, tinyOptions(fs)).Close())
}
