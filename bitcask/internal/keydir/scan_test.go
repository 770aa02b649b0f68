package keydir

import (
	"fmt"
	"testing"
)

func TestScanSeesEveryKeyOnceInAQuietStore(t *testing.T) {
	d := New(11)
	defer d.Close()
	for i := range 50_000 {
		d.Put(fmt.Append(nil, i), Item{})
	}
	for _, count := range []int{-1, 0, 1, 10, 1000, 1_000_000} {
		seen := make(map[string]bool)
		calls := 0
		for cursor := uint64(0); ; {
			got := 0
			next := d.Scan(cursor, count, func(key []byte, _ Item) {
				got++
				if seen[string(key)] {
					t.Fatalf("count %d: %s seen twice", count, key)
				}
				seen[string(key)] = true
			})
			calls++
			if got > max(count, 1)+500 {
				t.Fatalf("count %d: %d keys in one call", count, got)
			}
			if next == 0 {
				break
			}
			if next <= cursor || next >= 1<<48 {
				t.Fatalf("count %d: cursor %d after %d", count, next, cursor)
			}
			cursor = next
		}
		if len(seen) != 50_000 {
			t.Fatalf("count %d: %d keys seen", count, len(seen))
		}
		if count == 10 && calls < 1000 {
			t.Fatalf("count %d was ignored: %d calls", count, calls)
		}
	}
}

func TestScanRefusesForeignCursors(t *testing.T) {
	d := New(1)
	defer d.Close()
	d.Put([]byte("k"), Item{})
	for _, cursor := range []uint64{1 << 48, 1<<64 - 1} {
		if next := d.Scan(cursor, 10, func([]byte, Item) { t.Fatal("a key") }); next != 0 {
			t.Fatalf("cursor %d leads to %d", cursor, next)
		}
	}
}

// Keys that are there all the time are seen although, between the calls, shards grow and shrink,
// and although every call goes to another replica with other tables.
func TestScanKeepsItsGuaranteeThroughGrowthShrinkingAndReplicas(t *testing.T) {
	rng := seeded(t)
	seed := rng.Uint64()
	large := keysWhere(New(seed), rng, 4000, func(h uint64) bool { return h>>54 >= 1016 })
	small := keysWhere(New(seed), rng, 4000, func(uint64) bool { return true })
	for round := range 10 {
		replicas := []*Keydir{New(seed), New(seed)}
		stable, passing := large[:800], large[800:]
		if round%3 == 0 {
			stable, passing = small[:800], small[800:]
		}
		for _, d := range replicas {
			for _, i := range rng.Perm(len(stable)) {
				d.Put([]byte(stable[i]), Item{})
			}
		}
		seen := make(map[string]bool)
		for cursor, first := uint64(0), true; first || cursor != 0; first = false {
			d := replicas[rng.IntN(2)]
			cursor = d.Scan(cursor, 1+rng.IntN(60), func(key []byte, _ Item) { seen[string(key)] = true })
			changed := replicas[rng.IntN(2)]
			if from := rng.IntN(len(passing)); rng.IntN(2) == 0 {
				for _, key := range passing[from:] {
					changed.Put([]byte(key), Item{ExpireAt: rng.Int64N(2)})
				}
			} else {
				for _, key := range passing[:from] {
					changed.Delete([]byte(key))
				}
			}
		}
		for _, key := range stable {
			if !seen[key] {
				t.Fatalf("round %d: key %x was there all the time and not seen", round, key)
			}
		}
		for _, d := range replicas {
			verify(t, d)
			d.Close()
		}
	}
}

func TestRangeStopsAndAllowsChanges(t *testing.T) {
	d := New(5)
	defer d.Close()
	for i := range 10_000 {
		d.Put(fmt.Append(nil, i), Item{})
	}
	n := 0
	d.Range(func([]byte, Item) bool { n++; return n < 100 })
	if n != 100 {
		t.Fatalf("%d calls, want 100", n)
	}
	d.Range(func(key []byte, _ Item) bool {
		if _, existed := d.Delete(key); !existed {
			t.Fatalf("key %s was not there", key)
		}
		return true
	})
	if d.Len() != 0 || d.Bytes() != 0 {
		t.Fatalf("%d keys, %d bytes left", d.Len(), d.Bytes())
	}
}
