package bitcask

import (
	"encoding/binary"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
)

func benchStore(b *testing.B, keys int) *Store {
	b.Helper()
	db, err := Open(b.TempDir(), &Options{Durability: Never, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Merge: MergePolicy{Disabled: true}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	value := make([]byte, 256)
	for i := range keys {
		if err := db.Put(benchKey(uint64(i)), value); err != nil {
			b.Fatal(err)
		}
	}
	return db
}

func benchKey(n uint64) []byte {
	key := make([]byte, 16)
	binary.BigEndian.PutUint64(key[8:], n)
	return key
}

// BenchmarkPutUnsynced: what a put costs when the disk is not waited for.
func BenchmarkPutUnsynced(b *testing.B) {
	db := benchStore(b, 0)
	value, key, n := make([]byte, 256), make([]byte, 16), uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		binary.BigEndian.PutUint64(key[8:], n%1_000_000)
		n++
		if err := db.Put(key, value); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGetRandom: what a get costs when the page cache holds everything.
func BenchmarkGetRandom(b *testing.B) {
	const keys = 1_000_000
	db := benchStore(b, keys)
	r := rand.New(rand.NewPCG(1, 2))
	key := make([]byte, 16)
	b.Run("get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			binary.BigEndian.PutUint64(key[8:], r.Uint64N(keys))
			if _, err := db.Get(key); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("into", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 256)
		for b.Loop() {
			binary.BigEndian.PutUint64(key[8:], r.Uint64N(keys))
			if _, err := db.GetInto(key, buf[:0]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			key, buf := make([]byte, 16), make([]byte, 0, 256)
			r := rand.New(rand.NewPCG(rand.Uint64(), 2))
			for pb.Next() {
				binary.BigEndian.PutUint64(key[8:], r.Uint64N(keys))
				if _, err := db.GetInto(key, buf[:0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}
