package keydir

import (
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
)

// contents drains a view.
func contents(t *testing.T, v *View, prefix string) map[string]Item {
	t.Helper()
	got := make(map[string]Item)
	v.Range([]byte(prefix), func(key []byte, it Item) bool {
		if _, twice := got[string(key)]; twice {
			t.Fatalf("key %x seen twice", key)
		}
		got[string(key)] = it
		return true
	})
	return got
}

func TestViewIsTheStoreAtItsOpening(t *testing.T) {
	rng := seeded(t)
	for name, wanted := range map[string]func(uint64) bool{
		"all shards": func(uint64) bool { return true },
		"two shards": func(h uint64) bool { return h>>54 < 2 },
	} {
		t.Run(name, func(t *testing.T) {
			d := New(rng.Uint64())
			keys := keysWhere(d, rng, 1000, wanted)
			model := make(map[string]Item)
			type open struct {
				view *View
				want map[string]Item
			}
			var views []open
			for round := range 60 {
				for range 500 {
					modelStep(t, rng, d, model, keys[rng.IntN(len(keys))], []int{10, 90}[round/5%2])
				}
				switch rng.IntN(8) {
				case 0:
					d.Clear()
					clear(model)
				case 1:
					d.DropTombstones()
					maps.DeleteFunc(model, func(_ string, it Item) bool { return it.Tombstone })
				case 2, 3, 4:
					views = append(views, open{d.View(), maps.Clone(model)})
				default:
					if len(views) == 0 {
						break
					}
					i := rng.IntN(len(views))
					if got := contents(t, views[i].view, ""); !maps.Equal(got, views[i].want) {
						t.Fatalf("view has %d keys, want %d, or others", len(got), len(views[i].want))
					}
					views[i].view.Close()
					views = append(views[:i], views[i+1:]...)
				}
				verify(t, d)
			}
			d.Close()
			for _, o := range views {
				if got := contents(t, o.view, ""); !maps.Equal(got, o.want) {
					t.Fatal("view changed by Close")
				}
				o.view.Close()
			}
			if d.Bytes() != 0 {
				t.Fatalf("%d bytes leaked", d.Bytes())
			}
		})
	}
}

func TestViewRangeKeepsToItsPrefix(t *testing.T) {
	d := New(1)
	defer d.Close()
	for i := range 3000 {
		d.Put(fmt.Appendf(nil, "%c:%d", 'a'+i%3, i), Item{})
	}
	v := d.View()
	defer v.Close()
	got := contents(t, v, "b:")
	for key := range got {
		if !strings.HasPrefix(key, "b:") {
			t.Fatalf("key %s", key)
		}
	}
	if len(got) != 1000 {
		t.Fatalf("%d keys", len(got))
	}
}

func TestViewReleasesWhatItHasPassed(t *testing.T) {
	d := New(1)
	defer d.Close()
	// Few and large shards: freed blocks of less than a page would blur the sums.
	keys := keysWhere(d, seeded(t), 10_000, func(h uint64) bool { return h>>54 < 10 })
	put := func(version uint64) {
		for _, key := range keys {
			d.Put([]byte(key), Item{Version: version})
		}
	}
	put(1)
	alone := d.inUse()

	one, two := d.View(), d.View()
	if d.inUse() != alone {
		t.Fatal("opening a view takes off-heap memory")
	}
	put(2)
	shared := d.inUse()
	if shared <= alone || shared > 2*alone+alone/4 {
		t.Fatalf("%d bytes with two views, %d without: not one copy", shared, alone)
	}
	contents(t, one, "")
	if d.inUse() != shared {
		t.Fatal("what another view needs was given up")
	}
	contents(t, two, "")
	if d.inUse() != alone {
		t.Fatalf("%d bytes after both views have passed, %d before", d.inUse(), alone)
	}
	put(3)
	if d.inUse() != alone {
		t.Fatal("copied for a view that has passed")
	}
	if again := contents(t, one, ""); len(again) != 0 {
		t.Fatalf("a second pass has %d keys", len(again))
	}

	three := d.View()
	put(4)
	n := 0
	three.Range(nil, func([]byte, Item) bool { n++; return n < len(keys)/2 })
	three.Close()
	three.Close()
	if d.inUse() != alone {
		t.Fatalf("%d bytes after Close in the middle, %d before", d.inUse(), alone)
	}
}

func TestClosingAViewEndsItsRange(t *testing.T) {
	d := New(1)
	defer d.Close()
	for i := range 100_000 {
		d.Put(fmt.Append(nil, i), Item{})
	}
	v := d.View()
	n := 0
	v.Range(nil, func([]byte, Item) bool { n++; v.Close(); return true })
	if n == 0 || n > 1000 {
		t.Fatalf("%d keys after Close", n)
	}
}

// A writer writes the same version to every key, one key after another in a fixed order. A view
// that is one moment of that has some version up to a key and the one before it from there on.
func TestViewIsConsistentAcrossShards(t *testing.T) {
	d := New(9)
	defer d.Close()
	const keys = 300
	var stop atomic.Bool
	done := make(chan struct{})
	for i := range keys {
		d.Put(fmt.Append(nil, i), Item{})
	}
	go func() {
		defer close(done)
		for version := uint64(1); !stop.Load(); version++ {
			for i := range keys {
				d.Put(fmt.Append(nil, i), Item{Version: version})
			}
		}
	}()
	for range 150 {
		v := d.View()
		got := contents(t, v, "")
		v.Close()
		for i := 1; i < keys; i++ {
			before, after := got[fmt.Sprint(i-1)].Version, got[fmt.Sprint(i)].Version
			if after > before || got["0"].Version > after+1 {
				t.Errorf("key %d has version %d, key %d version %d", i-1, before, i, after)
			}
		}
	}
	stop.Store(true)
	<-done
}
