package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/raftcask/raftcask/bench/internal/machine"
)

// A phase runs in a process of its own, so that what it holds in memory is its own too.
const (
	phaseLoad  = "load"  // puts all keys, then dies by SIGKILL, as an unclean stop
	phaseRead  = "read"  // opens what load left, and reads at random
	phaseSync1 = "sync1" // synced puts, one writer, beside raw appends
	phaseSync  = "sync"  // synced puts, many writers
	phaseScale = "scale" // ours alone: many keys, garbage collection, mass delete
)

const (
	valueBytes  = 256
	syncWriters = 64
)

// figures of one phase; what it does not measure is 0.
type figures struct {
	PutPerSecond float64 `json:"put_per_second,omitempty"`

	OpenSeconds   float64 `json:"open_seconds,omitempty"`
	MemoryPerKey  float64 `json:"memory_per_key,omitempty"` // bytes of RSS after opening, less those of the empty process
	Lost          int     `json:"lost,omitempty"`           // keys that the kill cost
	GetPerSecond  float64 `json:"get_per_second,omitempty"`
	Get2PerSecond float64 `json:"get2_per_second,omitempty"`
	GetAllocs     float64 `json:"get_allocs,omitempty"`
	// With a caller's buffer, where the store takes one.
	GetIntoPerSecond float64 `json:"get_into_per_second,omitempty"`
	GetIntoAllocs    float64 `json:"get_into_allocs,omitempty"`

	SyncedPerSecond float64 `json:"synced_per_second,omitempty"`
	RawPerSecond    float64 `json:"raw_per_second,omitempty"` // append + fdatasync, in turn with the former
	// Synced64PerSecond: of many writers.
	Synced64PerSecond float64 `json:"synced64_per_second,omitempty"`

	Scale *scaleFigures `json:"scale,omitempty"`
}

// keyOf is the 16-byte key of a number: numbers in order are keys in no order.
func keyOf(key []byte, n int) []byte {
	x := uint64(n) * 0x9e3779b97f4a7c15
	x ^= x >> 29
	key = binary.BigEndian.AppendUint64(key[:0], x)
	return binary.BigEndian.AppendUint64(key, uint64(n))
}

// random bytes, so that no store gains by compression.
var random = func() []byte {
	b := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}()

func valueOf(n int) []byte {
	at := n * 131 % (len(random) - valueBytes)
	return random[at : at+valueBytes]
}

func runPhase(e engine, phase, dir string, keys int, length time.Duration) (figures, error) {
	switch phase {
	case phaseLoad:
		return load(e, dir, keys)
	case phaseRead:
		return read(e, dir, keys, length)
	case phaseSync1:
		return syncOne(e, dir, length)
	case phaseSync:
		return syncMany(e, dir, length)
	case phaseScale:
		return scale(dir, keys)
	}
	return figures{}, fmt.Errorf("no phase %q", phase)
}

func load(e engine, dir string, keys int) (figures, error) {
	s, err := e.open(dir, false)
	if err != nil {
		return figures{}, err
	}
	began := time.Now()
	key := make([]byte, 0, 16)
	for n := range keys {
		if err := s.put(keyOf(key, n), valueOf(n)); err != nil {
			return figures{}, fmt.Errorf("put %d: %w", n, err)
		}
	}
	return figures{PutPerSecond: rate(keys, began)}, nil // and the process dies without closing
}

func rate(n int, since time.Time) float64 { return float64(n) / time.Since(since).Seconds() }

// resident is the memory of this process that is in use, mapped files included, in bytes.
func resident() int64 { return memory("VmRSS") }

// anonymous is resident without the pages of mapped files, which the system takes back as it likes.
func anonymous() int64 { return memory("RssAnon") }

func memory(field string) int64 {
	debug.FreeOSMemory()
	text, _ := machine.Field("/proc/self/status", field)
	kib, _ := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	return kib << 10
}

func read(e engine, dir string, keys int, length time.Duration) (f figures, err error) {
	before := resident()
	began := time.Now()
	s, err := e.open(dir, false)
	if err != nil {
		return f, err
	}
	f.OpenSeconds = time.Since(began).Seconds()
	f.MemoryPerKey = float64(resident()-before) / float64(keys)

	for n := range keys {
		if v, err := s.get(keyOf(nil, n), nil); err == nil && string(v) == string(valueOf(n)) {
			continue
		}
		f.Lost++
		if err := s.put(keyOf(nil, n), valueOf(n)); err != nil { // so that all stores are read alike
			return f, fmt.Errorf("put %d again: %w", n, err)
		}
	}
	f.GetPerSecond, f.GetAllocs, err = reads(s, keys, 1, length, false)
	if err == nil {
		f.Get2PerSecond, _, err = reads(s, keys, 2, length, false)
	}
	if err == nil && e.takesBuffer {
		f.GetIntoPerSecond, f.GetIntoAllocs, err = reads(s, keys, 1, length, true)
	}
	return f, errors.Join(err, s.close())
}

// reads gets random keys for a while, and returns the rate and the allocations of one get.
func reads(s store, keys, goroutines int, length time.Duration, into bool) (perSecond, allocs float64, err error) {
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var group sync.WaitGroup
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	began := time.Now()
	for g := range goroutines {
		group.Go(func() {
			n, err := readUntil(s, keys, began.Add(length), uint64(g), into)
			done.Add(int64(n))
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	group.Wait()
	took := time.Since(began)
	runtime.ReadMemStats(&m1)
	if e := failed.Load(); e != nil {
		return 0, 0, *e
	}
	return float64(done.Load()) / took.Seconds(), float64(m1.Mallocs-m0.Mallocs) / float64(done.Load()), nil
}

func readUntil(s store, keys int, end time.Time, seed uint64, into bool) (n int, err error) {
	rng := rand.New(rand.NewPCG(seed, 1))
	key, buf := make([]byte, 0, 16), []byte(nil)
	if into {
		buf = make([]byte, 0, valueBytes)
	}
	for ; n%256 != 0 || time.Now().Before(end); n++ {
		v, err := s.get(keyOf(key, rng.IntN(keys)), buf)
		if err != nil {
			return n, err
		}
		if len(v) != valueBytes {
			return n, fmt.Errorf("a value of %d bytes", len(v))
		}
	}
	return n, nil
}

// syncOne measures one writer, and raw appends of as many bytes in turn with it, so that both see the same disk.
func syncOne(e engine, dir string, length time.Duration) (f figures, err error) {
	raw, err := os.Create(filepath.Join(filepath.Dir(dir), "raw"))
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, raw.Close(), os.Remove(raw.Name())) }()
	s, err := e.open(dir, true)
	if err != nil {
		return f, err
	}
	const turns = 6
	var puts, appends int
	var putTime, appendTime time.Duration
	line := make([]byte, 16+valueBytes)
	for range turns {
		for began := time.Now(); ; puts++ {
			if took := time.Since(began); took > length/turns {
				putTime += took
				break
			}
			if err := s.put(keyOf(nil, puts), valueOf(puts)); err != nil {
				return f, err
			}
		}
		for began := time.Now(); ; appends++ {
			if took := time.Since(began); took > length/turns/2 {
				appendTime += took
				break
			}
			if _, err := raw.Write(line); err != nil {
				return f, err
			}
			if err := syscall.Fdatasync(int(raw.Fd())); err != nil {
				return f, err
			}
		}
	}
	f.SyncedPerSecond, f.RawPerSecond = float64(puts)/putTime.Seconds(), float64(appends)/appendTime.Seconds()
	return f, s.close()
}

func syncMany(e engine, dir string, length time.Duration) (f figures, err error) {
	s, err := e.open(dir, true)
	if err != nil {
		return f, err
	}
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var group sync.WaitGroup
	began := time.Now()
	for w := range syncWriters {
		group.Go(func() {
			for n := w; time.Since(began) < length; n += syncWriters {
				if err := s.put(keyOf(nil, n), valueOf(n)); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	group.Wait()
	f.SyncedPerSecond = rate(int(done.Load()), began)
	if e := failed.Load(); e != nil {
		err = *e
	}
	return f, errors.Join(err, s.close())
}
