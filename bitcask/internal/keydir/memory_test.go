package keydir

import (
	"testing"
	"unsafe"
)

func TestEmptyKeydirIsSmall(t *testing.T) {
	d := New(0)
	if size := unsafe.Sizeof(*d) + shards*unsafe.Sizeof(shard{}); size > 200<<10 {
		t.Fatalf("an empty Keydir has %d bytes", size)
	}
	if size := unsafe.Sizeof(shard{}); size%64 != 0 {
		t.Fatalf("a shard of %d bytes shares a cache line with its neighbor", size)
	}
	if d.Bytes() != 0 {
		t.Fatalf("an empty Keydir holds %d bytes", d.Bytes())
	}
	d.Put([]byte("k"), Item{})
	if d.Bytes() > 1000 {
		t.Fatalf("one key holds %d bytes", d.Bytes())
	}
}

func TestChangingExpiryForEverTakesNoMemory(t *testing.T) {
	d := New(1)
	defer d.Close()
	buf := make([]byte, 16)
	for i := range 200_000 {
		d.Put(benchKey(buf, uint64(i%100)), Item{ExpireAt: int64(i / 100 % 2)})
	}
	if d.Len() != 100 || d.Bytes() > 100<<10 {
		t.Fatalf("%d keys, %d bytes", d.Len(), d.Bytes())
	}
}

func TestOperationsDoNotAllocate(t *testing.T) {
	d := New(1)
	defer d.Close()
	buf := make([]byte, 16)
	for i := range uint64(100_000) {
		d.Put(benchKey(buf, i), Item{})
	}
	n := uint64(1_000_000)
	for name, f := range map[string]func(){
		"Get":              func() { d.Get(benchKey(buf, 5)) },
		"Get of no key":    func() { d.Get(benchKey(buf, 500_000)) },
		"Put over a key":   func() { d.Put(benchKey(buf, 5), Item{Version: 1}) },
		"Put with expiry":  func() { n++; d.Put(benchKey(buf, 6), Item{ExpireAt: int64(n % 2)}) },
		"Put of a new key": func() { n++; d.Put(benchKey(buf, n), Item{}) },
		"PutIfNewer":       func() { d.PutIfNewer(benchKey(buf, 5), Item{Version: 1}) },
		"Move":             func() { d.Move(benchKey(buf, 5), Position{}, Position{}) },
		"Holds":            func() { d.Holds(d.Seek(benchKey(buf, 5)), 0, 0) },
		"DeleteIf":         func() { d.DeleteIf(benchKey(buf, 5), Position{Size: 1}) },
		"Delete":           func() { n--; d.Delete(benchKey(buf, n)) },
		"Scan":             func() { d.Scan(n, 10, func([]byte, Item) {}) },
	} {
		if allocs := testing.AllocsPerRun(2000, f); allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}
