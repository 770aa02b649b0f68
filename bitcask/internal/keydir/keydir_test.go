package keydir

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// inUse leaves out what was freed and not returned yet.
func (d *Keydir) inUse() int64 { return d.pool.Bytes() - d.pool.Idle() }

func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func position(rng *rand.Rand) Position {
	return Position{Segment: rng.Uint32(), Offset: rng.Uint32(), Size: rng.Uint32()}
}

// keysWhere draws keys until n of them have a hash that is wanted.
func keysWhere(d *Keydir, rng *rand.Rand, n int, wanted func(h uint64) bool) []string {
	var keys []string
	for len(keys) < n {
		key := binary.LittleEndian.AppendUint64(nil, rng.Uint64())
		key = append(key, make([]byte, rng.IntN(20))...)
		if wanted(d.hash(key)) {
			keys = append(keys, string(key))
		}
	}
	return keys
}

// verify checks the invariants of every shard.
func verify(t *testing.T, d *Keydir) {
	t.Helper()
	for i := range d.shards {
		s := &d.shards[i]
		var tombstones, bytes, occupied int
		for at := range s.slots {
			slot := &s.slots[at]
			if slot.addr == 0 {
				continue
			}
			occupied++
			r := s.holding.record(slot)
			bytes += r.bytes()
			if r.tombstone() {
				tombstones++
			}
			if found, ok := s.find(d.hash(r.key()), r.key()); !ok || found != at {
				t.Fatalf("shard %d: record %q in slot %d is not reachable", i, r.key(), at)
			}
			if found, ok := s.candidate(d.hash(r.key())); !ok || found.hash != slot.hash {
				t.Fatalf("shard %d: record %q in slot %d is no candidate", i, r.key(), at)
			}
		}
		if occupied != s.used || occupied-tombstones != s.keys {
			t.Fatalf("shard %d: %d slots, %d tombstones; counted %d used, %d keys", i, occupied, tombstones, s.used, s.keys)
		}
		if len(s.slots) > 0 && occupied == len(s.slots) {
			t.Fatalf("shard %d: no empty slot", i)
		}
		if s.holding == nil {
			continue
		}
		if a := &s.holding.arena; a.bytes-a.garbage != bytes {
			t.Fatalf("shard %d: %d bytes are live, not %d-%d", i, bytes, a.bytes, a.garbage)
		}
	}
}

// compare checks that all ways to read agree with the model.
func compare(t *testing.T, d *Keydir, model map[string]Item) {
	t.Helper()
	verify(t, d)
	keys, expiring := 0, 0
	for key, want := range model {
		if got, ok := d.Get([]byte(key)); !ok || got != want {
			t.Fatalf("key %x: got %+v (%v), want %+v", key, got, ok, want)
		}
		if !want.Tombstone {
			keys++
			if want.ExpireAt != 0 {
				expiring++
			}
		}
	}
	if d.Len() != keys || d.Expiring() != expiring {
		t.Fatalf("Len %d and Expiring %d, want %d and %d", d.Len(), d.Expiring(), keys, expiring)
	}
	collect := func(walk func(fn func(key []byte, it Item) bool)) map[string]Item {
		got := make(map[string]Item)
		walk(func(key []byte, it Item) bool {
			if _, twice := got[string(key)]; twice {
				t.Fatalf("key %x seen twice", key)
			}
			got[string(key)] = it
			return true
		})
		return got
	}
	view := d.View()
	defer view.Close()
	for name, got := range map[string]map[string]Item{
		"Range": collect(d.Range),
		"View":  collect(func(fn func([]byte, Item) bool) { view.Range(nil, fn) }),
		"Scan": collect(func(fn func([]byte, Item) bool) {
			for cursor, first := uint64(0), true; first || cursor != 0; first = false {
				cursor = d.Scan(cursor, 10, func(key []byte, it Item) { fn(key, it) })
			}
		}),
	} {
		if !maps.Equal(got, model) {
			t.Fatalf("%s: %d keys differ from the %d of the model", name, len(got), len(model))
		}
	}
}

// modelStep does one random operation on both and compares what it returns.
func modelStep(t *testing.T, rng *rand.Rand, d *Keydir, model map[string]Item, key string, deletes int) {
	t.Helper()
	want, existed := model[key]
	it := Item{Position: position(rng), Version: rng.Uint64N(maxVersion + 1)}
	if rng.IntN(3) == 0 {
		it.ExpireAt = rng.Int64() - rng.Int64() // before 1970 too
	}
	from := want.Position
	if rng.IntN(2) == 0 {
		from.Offset++
	}
	hit := existed && from == want.Position
	k := []byte(key)
	if rng.IntN(100) < deletes {
		if rng.IntN(4) == 0 {
			if got := d.DeleteIf(k, from); got != hit {
				t.Fatalf("DeleteIf %x: %v, want %v", key, got, hit)
			}
			if hit {
				delete(model, key)
			}
			return
		}
		if old, ok := d.Delete(k); ok != existed || old != want {
			t.Fatalf("Delete %x: %+v (%v), want %+v (%v)", key, old, ok, want, existed)
		}
		delete(model, key)
		return
	}
	switch rng.IntN(4) {
	case 0:
		if got := d.Holds(d.Seek(k), from.Segment, from.Offset); got != hit {
			t.Fatalf("Holds %x: %v, want %v", key, got, hit)
		}
		if got := d.Move(k, from, it.Position); got != hit {
			t.Fatalf("Move %x: %v, want %v", key, got, hit)
		}
		if hit {
			want.Position = it.Position
			model[key] = want
		}
	case 1:
		if rng.IntN(3) == 0 {
			it.Version = want.Version
		}
		it.Tombstone = rng.IntN(10) == 0
		newer := !existed || it.Version >= want.Version
		old, ok, stored := d.PutIfNewer(k, it)
		if old != want || ok != existed || stored != newer {
			t.Fatalf("PutIfNewer %x: %+v (%v, %v), want %+v (%v, %v)", key, old, ok, stored, want, existed, newer)
		}
		if newer {
			model[key] = it
		}
	default:
		if old, ok := d.Put(k, it); ok != existed || old != want {
			t.Fatalf("Put %x: %+v (%v), want %+v (%v)", key, old, ok, want, existed)
		}
		model[key] = it
	}
}

func TestBehavesLikeAMap(t *testing.T) {
	rng := seeded(t)
	shapes := map[string]func(h uint64) bool{
		"all shards":    func(uint64) bool { return true },
		"three shards":  func(h uint64) bool { s := h >> 54; return s == 0 || s == 517 || s == 1023 },
		"one cluster":   func(h uint64) bool { return h>>51 == 1234 },
		"end of a ring": func(h uint64) bool { return h>>51 == 1<<13-1 }, // probing goes on at slot 0
	}
	for name, wanted := range shapes {
		t.Run(name, func(t *testing.T) {
			d := New(rng.Uint64())
			n := 3000
			if name != "all shards" {
				n = 200
			}
			keys := keysWhere(d, rng, n, wanted)
			for range 20 { // keys of any length
				keys = append(keys, string(make([]byte, 1+rng.IntN(maxKeyBytes))))
			}
			model := make(map[string]Item)
			for round := range 15 {
				deletes := []int{5, 95, 40, 60}[round%4]
				for range 1000 {
					modelStep(t, rng, d, model, keys[rng.IntN(len(keys))], deletes)
				}
				compare(t, d, model)
				switch round % 5 {
				case 3:
					d.DropTombstones()
					maps.DeleteFunc(model, func(_ string, it Item) bool { return it.Tombstone })
					compare(t, d, model)
				case 4:
					d.Clear()
					clear(model)
					compare(t, d, model)
				}
			}
			for key := range model {
				d.Delete([]byte(key))
			}
			if d.Bytes() != 0 {
				t.Fatalf("%d bytes held without a key", d.Bytes())
			}
		})
	}
}

func TestKeysOfEveryLength(t *testing.T) {
	d := New(7)
	defer d.Close()
	key := make([]byte, maxKeyBytes)
	for i := range key {
		key[i] = byte(i * 7)
	}
	var lengths []int
	for n := 1; n <= maxKeyBytes; n += 1 + n/40 {
		lengths = append(lengths, n)
	}
	for n := maxKeyBytes - 100; n <= maxKeyBytes; n++ { // around the size of a chunk
		lengths = append(lengths, n)
	}
	for _, expire := range []int64{0, 5, 0, -1} { // records are moved as they gain and lose their expiry
		for _, n := range lengths {
			d.Put(key[:n], Item{Position: Position{Size: uint32(n)}, ExpireAt: expire})
		}
		verify(t, d)
		for _, n := range lengths {
			if it, ok := d.Get(key[:n]); !ok || it.Size != uint32(n) || it.ExpireAt != expire {
				t.Fatalf("key of %d bytes: %+v (%v)", n, it, ok)
			}
		}
	}
	for _, n := range lengths {
		d.Delete(key[:n])
	}
	if d.Len() != 0 || d.Bytes() != 0 {
		t.Fatalf("%d keys, %d bytes left", d.Len(), d.Bytes())
	}
}

func TestOnlyLargeKeysInOneShard(t *testing.T) {
	d := New(7)
	defer d.Close()
	rng := seeded(t)
	model := make(map[string]Item)
	for len(model) < 60 { // addresses of several MiB: tags give bits to them
		key := make([]byte, maxKeyBytes-rng.IntN(60))
		binary.LittleEndian.PutUint64(key, rng.Uint64())
		if d.hash(key)>>54 < 8 {
			it := Item{Version: rng.Uint64N(100)}
			d.Put(key, it)
			model[string(key)] = it
		}
	}
	compare(t, d, model)
	for key := range model {
		if rng.IntN(2) == 0 {
			d.Delete([]byte(key))
			delete(model, key)
		}
	}
	compare(t, d, model)
}

func TestOutOfRangeIsABugOfTheCaller(t *testing.T) {
	d := New(0)
	for what, put := range map[string]func(){
		"key":     func() { d.Put(make([]byte, maxKeyBytes+1), Item{}) },
		"version": func() { d.Put([]byte("k"), Item{Version: maxVersion + 1}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s out of range: no panic", what)
				}
			}()
			put()
		}()
	}
	d.Put([]byte("k"), Item{Version: maxVersion}) // and no lock is left taken
}

func TestEverythingIsSafeAfterClose(t *testing.T) {
	d := New(0)
	for i := range 1000 {
		d.Put(fmt.Appendf(nil, "key %d", i), Item{Version: 1})
	}
	view := d.View()
	d.Close()
	d.Close()
	if _, ok := d.Get([]byte("key 1")); ok || d.Len() != 0 {
		t.Fatal("keys after Close")
	}
	if _, ok := d.Put([]byte("key 1"), Item{}); ok {
		t.Fatal("Put after Close replaced something")
	}
	if _, _, stored := d.PutIfNewer([]byte("key 1"), Item{}); stored || d.Len() != 0 {
		t.Fatal("stored after Close")
	}
	if _, ok := d.Delete([]byte("key 1")); ok || d.DeleteIf([]byte("key 1"), Position{}) || d.Move([]byte("key 1"), Position{}, Position{}) {
		t.Fatal("changed after Close")
	}
	d.DropTombstones()
	d.Clear()
	d.Range(func([]byte, Item) bool { t.Fatal("ranged over a key after Close"); return false })
	d.View().Close()
	if next := d.Scan(0, 10, func([]byte, Item) { t.Fatal("scanned a key after Close") }); next != 0 {
		t.Fatal("cursor after Close")
	}
	n := 0
	view.Range(nil, func(_ []byte, it Item) bool { n++; return it.Version == 1 })
	if n != 1000 {
		t.Fatalf("a view opened before Close has %d keys", n)
	}
	view.Close()
	if d.Bytes() != 0 {
		t.Fatalf("%d bytes held after Close", d.Bytes())
	}
}

func TestConcurrentUse(t *testing.T) {
	d := New(3)
	const writers, keys = 4, 3000
	stop := make(chan struct{})
	var writing, reading sync.WaitGroup
	for w := range writers {
		writing.Go(func() { // each writer has keys of its own, and so knows what it must find
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			model := make(map[string]Item)
			for range 15_000 {
				key := fmt.Sprint(w, "/", rng.IntN(keys))
				want, existed := model[key]
				if got, ok := d.Get([]byte(key)); ok != existed || got != want {
					t.Errorf("key %s: %+v (%v), want %+v (%v)", key, got, ok, want, existed)
					return
				}
				if rng.IntN(3) == 0 {
					d.Delete([]byte(key))
					delete(model, key)
					continue
				}
				it := Item{Position: position(rng), Version: rng.Uint64N(1000), ExpireAt: rng.Int64N(2)}
				d.Put([]byte(key), it)
				model[key] = it
			}
			for key := range model {
				d.Delete([]byte(key))
			}
		})
	}
	read := func(f func()) {
		reading.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
				}
			}
		})
	}
	check := func(key []byte, it Item) bool {
		if len(key) < 3 || key[1] != '/' || it.Version >= 1000 {
			t.Errorf("impossible item %q: %+v", key, it)
			return false
		}
		return true
	}
	read(func() { d.Range(check) })
	read(func() {
		v := d.View()
		defer v.Close()
		v.Range([]byte("2/"), check)
	})
	read(func() {
		for cursor := d.Scan(0, 50, func(key []byte, it Item) { check(key, it) }); cursor != 0; {
			cursor = d.Scan(cursor, 50, func(key []byte, it Item) { check(key, it) })
		}
		_, _ = d.Len(), d.Bytes()
		d.DropTombstones()
	})
	writing.Wait()
	close(stop)
	reading.Wait()
	verify(t, d)
	if d.Len() != 0 || d.Bytes() != 0 {
		t.Fatalf("%d keys, %d bytes left", d.Len(), d.Bytes())
	}
}

func TestBatchIsAsManyPuts(t *testing.T) {
	rng := seeded(t)
	one, all := New(7), New(7)
	defer one.Close()
	defer all.Close()
	type told struct {
		it, old         Item
		existed, stored bool
	}
	all.Expect(100_000, 1_000_000) // too many
	defer func() {
		full := all.inUse()
		all.DropTombstones()
		one.DropTombstones()
		if all.inUse() > full/2 || all.inUse() > 2*one.inUse() {
			t.Errorf("%d bytes, %d when more keys were expected, %d when none were", all.inUse(), full, one.inUse())
		}
	}()
	for range 20 {
		var want, got []told
		b := all.NewBatch()
		put := func() {
			b.PutIfNewer(func(it, old Item, existed, stored bool) { got = append(got, told{it, old, existed, stored}) })
		}
		for range 1 + rng.IntN(3000) {
			key := fmt.Appendf(nil, "key %d", rng.IntN(2000))
			it := Item{Position: position(rng), Version: rng.Uint64N(1000), ExpireAt: int64(rng.IntN(2)), Tombstone: rng.IntN(5) == 0}
			old, existed, stored := one.PutIfNewer(key, it)
			want = append(want, told{it, old, existed, stored})
			if !b.Add(key, it) {
				put()
			}
		}
		put()
		less := func(a, b told) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) }
		slices.SortFunc(want, less)
		slices.SortFunc(got, less)
		if !slices.Equal(want, got) {
			t.Fatal("a batch tells of other changes than as many puts")
		}
		model := make(map[string]Item)
		one.Range(func(key []byte, it Item) bool { model[string(key)] = it; return true })
		compare(t, all, model)
	}
}
