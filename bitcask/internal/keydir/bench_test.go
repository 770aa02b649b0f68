package keydir

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const benchKeys = 1_000_000

// benchKey makes the 16-byte key of a number; numbers in order are keys in no order.
func benchKey(buf []byte, n uint64) []byte {
	binary.LittleEndian.PutUint64(buf, n*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(buf[8:], n)
	return buf[:16]
}

func filled(n int) *Keydir {
	d := New(1)
	buf := make([]byte, 16)
	for i := range n {
		d.Put(benchKey(buf, uint64(i)), Item{Position: Position{1, uint32(i), 100}, Version: uint64(i)})
	}
	return d
}

func BenchmarkGetHit(b *testing.B) {
	d := filled(benchKeys)
	defer d.Close()
	buf := make([]byte, 16)
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := d.Get(benchKey(buf, rng.Uint64N(benchKeys))); !ok {
			b.Fatal("lost key")
		}
	}
	b.ReportMetric(float64(d.Bytes())/benchKeys-16, "B/key+len")
}

func BenchmarkGetMiss(b *testing.B) {
	d := filled(benchKeys)
	defer d.Close()
	buf := make([]byte, 16)
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := d.Get(benchKey(buf, benchKeys+rng.Uint64N(benchKeys))); ok {
			b.Fatal("found what is not there")
		}
	}
}

func BenchmarkPutNew(b *testing.B) {
	d := filled(benchKeys)
	buf := make([]byte, 16)
	n := uint64(benchKeys)
	b.ReportAllocs()
	for b.Loop() {
		d.Put(benchKey(buf, n), Item{Version: n})
		if n++; n == 2*benchKeys { // stay between one and two million
			b.StopTimer()
			d.Close()
			d, n = filled(benchKeys), benchKeys
			b.StartTimer()
		}
	}
	d.Close()
}

func BenchmarkPutOverwrite(b *testing.B) {
	d := filled(benchKeys)
	defer d.Close()
	buf := make([]byte, 16)
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	for b.Loop() {
		d.Put(benchKey(buf, rng.Uint64N(benchKeys)), Item{Version: 7})
	}
}

func BenchmarkDeleteAndPut(b *testing.B) {
	d := filled(benchKeys)
	defer d.Close()
	buf := make([]byte, 16)
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	for b.Loop() {
		key := benchKey(buf, rng.Uint64N(benchKeys))
		d.Delete(key)
		d.Put(key, Item{Version: 7})
	}
}

func BenchmarkGetParallel(b *testing.B) {
	d := filled(benchKeys)
	defer d.Close()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 16)
		rng := rand.New(rand.NewPCG(rand.Uint64(), 1))
		for pb.Next() {
			d.Get(benchKey(buf, rng.Uint64N(benchKeys)))
		}
	})
}

func BenchmarkScanAll(b *testing.B) {
	d := filled(benchKeys)
	defer d.Close()
	for _, count := range []int{10, 1000} {
		b.Run(fmt.Sprint("count=", count), func(b *testing.B) {
			for b.Loop() {
				for cursor := d.Scan(0, count, func([]byte, Item) {}); cursor != 0; {
					cursor = d.Scan(cursor, count, func([]byte, Item) {})
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchKeys, "ns/key")
		})
	}
}

func BenchmarkViewOpenClose(b *testing.B) {
	d := filled(benchKeys)
	defer d.Close()
	for b.Loop() {
		d.View().Close()
	}
}

// BenchmarkTenMillion fills a Keydir with ten million keys: memory per key, the worst on the way (from
// a million on) and at the end, the longest put and how many took more than 5 ms; then how long a shard takes to double its table, to compact, and to be
// copied for a view: the 99th percentile of all shards, because the slowest shows what else ran.
func BenchmarkTenMillion(b *testing.B) {
	const keys = 10_000_000
	for b.Loop() {
		d := New(1)
		buf := make([]byte, 16)
		var worst float64
		var longest time.Duration
		slow := 0
		for i := range uint64(keys) {
			key := benchKey(buf, i)
			start := time.Now()
			d.Put(key, Item{Version: i})
			took := time.Since(start)
			longest = max(longest, took)
			if took > 5*time.Millisecond {
				slow++
			}
			if i%50_000 == 0 && i > 1_000_000 {
				worst = max(worst, float64(d.Bytes())/float64(i+1)-16)
			}
		}
		b.ReportMetric(worst, "worst-B/key+len")
		b.ReportMetric(float64(longest.Microseconds()), "longest-put-µs")
		b.ReportMetric(float64(slow), "puts>5ms")
		b.ReportMetric(float64(d.Bytes())/keys-16, "final-B/key+len")
		pauses := func(name string, f func(s *shard)) {
			took := make([]time.Duration, shards)
			for i := range d.shards {
				start := time.Now()
				f(&d.shards[i])
				took[i] = time.Since(start)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[shards*99/100].Microseconds()), name+"-p99-µs")
		}
		pauses("grow", func(s *shard) { s.resize(d, s.used) })
		pauses("compact", func(s *shard) { s.compact(d) })
		v := d.View()
		pauses("copy", func(s *shard) { s.own(d) })
		v.Close()
		for i := range uint64(keys) {
			d.Delete(benchKey(buf, i))
		}
		b.ReportMetric(float64(d.Bytes()), "B-after-deleting-all")
		d.Close()
	}
}

// BenchmarkLoad is what opening a store does: one item a key, into a keydir that grows.
func BenchmarkLoad(b *testing.B) {
	const keys = 4_000_000
	buf := make([]byte, 16)
	b.Run("one by one", func(b *testing.B) {
		for b.Loop() {
			d := New(1)
			for i := range uint64(keys) {
				d.PutIfNewer(benchKey(buf, i), Item{Version: i})
			}
			d.Close()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/keys, "ns/key")
	})
	b.Run("in batches", func(b *testing.B) {
		for b.Loop() {
			d := New(1)
			d.Expect(keys, 16*keys)
			batch := d.NewBatch()
			for i := range uint64(keys) {
				if !batch.Add(benchKey(buf, i), Item{Version: i}) {
					batch.PutIfNewer(func(Item, Item, bool, bool) {})
				}
			}
			batch.PutIfNewer(func(Item, Item, bool, bool) {})
			d.Close()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/keys, "ns/key")
	})
}
