package prefetch

import (
	"bytes"
	"testing"
)

// TestNothingChanges: what is asked for is as it was, whatever its length and place, and asking allocates nothing.
func TestNothingChanges(t *testing.T) {
	mem := bytes.Repeat([]byte("0123456789"), 600)
	want := bytes.Clone(mem)
	for from := range lineBytes + 1 {
		for _, n := range []int{0, 1, lineBytes - 1, lineBytes, lineBytes + 1, 300, 5000} {
			Bytes(mem[from : from+n])
		}
		Slice(mem[from:])
	}
	if !bytes.Equal(mem, want) {
		t.Fatal("memory was changed")
	}
	if n := testing.AllocsPerRun(100, func() { Bytes(mem); Slice(make([]uint64, 9)) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
