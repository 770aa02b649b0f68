package bitcask

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/raftcask/raftcask/internal/vfs"
)

// A full disk refuses direct writes too, keeps what it has, leaves the reserve to the
// merge, and takes writes again after it.
func TestUnsyncedStoreOnAFullDiskRecovers(t *testing.T) {
	fs := vfs.NewMem()
	o := tinyOptions(fs)
	o.Durability = Never
	s := mustOpen(t, fs, o)
	someSealed(t, s)
	fs.SetLimit(fs.Used() + 40_000)
	want := fillDisk(t, s)
	if got := contents(t, s); !maps.Equal(got, want) {
		t.Fatalf("on the full disk the store holds %v, should hold %v", got, want)
	}
	s.lendReserve() // a merge has the reserve: it is not for writers
	for _, write := range []func() error{
		func() error { return s.Put([]byte("k1"), nil) },
		func() error { return s.Delete([]byte("k1")) },
	} {
		if err := write(); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("a write into the merge's reserve: %v", err)
		}
	}
	s.returnReserve()
	must(t, s.Merge(t.Context()))
	for n := range 7 {
		key := fmt.Sprint("k", n)
		must(t, s.Put([]byte(key), []byte("again")))
		want[key] = "again"
	}
	must(t, s.Close())
	s = mustOpen(t, fs, o)
	if got := contents(t, s); !maps.Equal(got, want) {
		t.Fatalf("opened again the store holds %v, should hold %v", got, want)
	}
	must(t, s.Close())
}
