//go:build !race

// One goroutine counts bytes here for millions of operations: the race detector has nothing to find, slowly.

package keydir

import "testing"

// The price of a key is that of a shard of ten thousand keys, from the emptiest table to the fullest:
// with all 1024 shards, that would be 7 to 14 million keys. What was freed and not returned is not counted: with so many keys
// that is two bytes per key at most.
func TestBytesPerKeyAtTenMillionKeys(t *testing.T) {
	d := New(1)
	defer d.Close()
	const filled = 8 // shards
	buf := make([]byte, 16)
	var n, worst float64
	for i := uint64(0); n < 14_000*filled; i++ {
		key := benchKey(buf, i)
		if d.hash(key)>>54 >= filled {
			continue
		}
		d.Put(key, Item{Version: i})
		n++
		if n > 7_300*filled { // the doubling is behind all of them
			worst = max(worst, float64(d.inUse())/n-16)
		}
	}
	t.Logf("at most %.1f bytes + key", worst)
	if worst > 38 {
		t.Fatalf("%.1f bytes per key", worst)
	}
}

func TestBytesPerKeyAtAMillionKeysAndReturnOfMemory(t *testing.T) {
	d := New(1)
	defer d.Close()
	buf := make([]byte, 16)
	const keys = 1_000_000
	for i := range uint64(keys) {
		d.Put(benchKey(buf, i), Item{Version: i})
	}
	full := d.inUse()
	t.Logf("%.1f bytes + key", float64(full)/keys-16)
	if full > keys*(16+39) {
		t.Fatalf("%.1f bytes per key", float64(full)/keys-16)
	}
	for i := range uint64(keys * 9 / 10) {
		d.Delete(benchKey(buf, i))
	}
	if d.Bytes() > full/6 { // a tenth of the keys, and garbage, and coarser steps in smaller shards
		t.Fatalf("%d bytes with all keys, %d with a tenth", full, d.Bytes())
	}
	for i := uint64(keys * 9 / 10); i < keys; i++ {
		d.Delete(benchKey(buf, i))
	}
	if d.Bytes() != 0 {
		t.Fatalf("%d bytes with no key", d.Bytes())
	}
}
