package vfs

import (
	"errors"
	"syscall"
	"testing"
)

// TestLimitedDiskFillsUpAndEmpties: a write past the end of the disk stores what fits, and removing
// a file makes room again.
func TestLimitedDiskFillsUpAndEmpties(t *testing.T) {
	m := NewMem()
	m.SetLimit(3 * sectorBytes)
	create := func(name string) File {
		t.Helper()
		f, err := m.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	a, b := create("a"), create("b")
	if err := a.Preallocate(2 * sectorBytes); err != nil {
		t.Fatal(err)
	}
	if n, err := b.WriteAt(make([]byte, 700), 0); n != sectorBytes || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a write of 700 bytes into 512 free ones: %d, %v", n, err)
	}
	if err := b.Preallocate(700); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("an allocation on a full disk: %v", err)
	}
	if size, err := b.Size(); err != nil || size != sectorBytes {
		t.Fatalf("the size after a refused allocation is %d, %v", size, err)
	}
	if n, err := a.WriteAt(make([]byte, 2*sectorBytes), 0); n != 2*sectorBytes || err != nil {
		t.Fatalf("a write into allocated space: %d, %v", n, err)
	}
	if m.Used() != 3*sectorBytes {
		t.Fatalf("%d bytes are used", m.Used())
	}
	if err := m.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if n, err := b.WriteAt(make([]byte, 700), 0); n != 700 || err != nil {
		t.Fatalf("a write after a file was removed: %d, %v", n, err)
	}
	m.SetLimit(0)
	if n, err := b.WriteAt(make([]byte, 7000), 0); n != 7000 || err != nil {
		t.Fatalf("a write without a limit: %d, %v", n, err)
	}
}
