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
