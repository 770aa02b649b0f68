package bitcask

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// mappedDisk is one whose files the engine maps, where the system has maps.
func mappedDisk() *vfs.Mem {
	disk := vfs.NewMem()
	disk.SetMapping(true)
	return disk
}

// TestAcknowledgedWriteAfterAFailedRotationIsKept: the cut of the full segment happens, and the disk reports an error.
// Whatever is acknowledged after that must be in the file, not in the map behind its end.
func TestAcknowledgedWriteAfterAFailedRotationIsKept(t *testing.T) {
	disk := mappedDisk()
	cut := false
	fs := vfs.NewFaulty(disk, func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpTruncate && !cut {
			cut = true
			return &vfs.Fault{Err: syscall.EIO, AfterPersisting: true}
		}
		return nil
	})
	o := tinyOptions(fs)
	o.Durability = Never
	s := mustOpen(t, fs, o)
	want := map[string]string{}
	for n := range 40 {
		key, value := fmt.Sprint("k", n), strings.Repeat("v", 20+580*(n%2)) // a short one fits where a long one did not
		err := s.Put([]byte(key), []byte(value))
		if err == nil {
			want[key] = value
		} else if !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		if cut && err == nil {
			killed := disk.KillClone()
			again := mustOpen(t, nil, tinyOptions(killed))
			if got := contents(t, again); !maps.Equal(got, want) {
				t.Fatalf("after a kill the store holds %d keys, acknowledged were %d", len(got), len(want))
			}
			must(t, again.Close())
		}
	}
	if !cut {
		t.Fatal("no segment was sealed")
	}
	must(t, s.Close())
}

// A write-back may have lost pages that no later sync knows of: like a failed sync it is the end of writing.
func TestFailedWriteBackEndsWriting(t *testing.T) {
	fs := vfs.NewFaulty(mappedDisk(), func(op vfs.Op) *vfs.Fault {
		if op.Kind == vfs.OpWriteBack {
			return &vfs.Fault{Err: syscall.EIO}
		}
		return nil
	})
	s := mustOpen(t, fs, &Options{FS: fs, Durability: Never, Logger: quiet})
	var err error
	for n := 0; err == nil && n < 1000; n++ {
		err = s.Put(fmt.Append(nil, "k", n), make([]byte, 64<<10))
		if n > 2*writeBackBytes>>16 {
			time.Sleep(time.Millisecond) // the write-back is another goroutine's
		}
	}
	if !errors.Is(err, ErrPoisoned) {
		t.Fatalf("after a failed write-back puts say %v", err)
	}
	if err := s.Close(); err != nil && !errors.Is(err, ErrPoisoned) {
		t.Fatal(err)
	}
}

// What is written back may be lost with its pages, and the end of a log that lost some looks as if it had never been written. So a
// store syncs now and then whatever its durability: soon where the system does not write back, else after maxUnsyncedBytes.
func TestUnsyncedStoreIsSyncedNowAndThen(t *testing.T) {
	for _, unsupported := range []bool{true, false} {
		fs := vfs.NewFaulty(mappedDisk(), func(op vfs.Op) *vfs.Fault {
			if op.Kind == vfs.OpWriteBack && unsupported {
				return &vfs.Fault{Err: errors.ErrUnsupported}
			}
			return nil
		})
		s := mustOpen(t, fs, &Options{FS: fs, Durability: Never, Logger: quiet})
		want := int64(writeBackBytes)
		if !unsupported {
			want = maxUnsyncedBytes
		}
		for n := 0; s.appender.active.synced.Load() < want; n++ {
			if n == 1000 {
				t.Fatalf("after %d bytes %d are synced, write-back unsupported: %v", s.Stats().DiskBytes, s.appender.active.synced.Load(), unsupported)
			}
			must(t, s.Put(fmt.Append(nil, "k", n), make([]byte, 128<<10)))
			if int64(n)<<17 > want {
				time.Sleep(time.Millisecond)
			}
		}
		must(t, s.Close())
	}
}
