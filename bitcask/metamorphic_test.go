package bitcask

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftcask/raftcask/internal/vfs"
)

// metaOp is one step of a history that every configuration is put through.
type metaOp struct {
	kind    string // put, delete, batch, clear, ttl, wait, get, scan
	changes []change
	key     string
	ttl     time.Duration
}

// metaHistory makes up a history. It depends on the seed alone.
func metaHistory(rng *rand.Rand, n int) []metaOp {
	ops := make([]metaOp, n)
	for i := range ops {
		key := fmt.Sprint("k", rng.IntN(30))
		value := fmt.Sprintf("v%d %s", i, strings.Repeat("m", rng.IntN(300)))
		switch r := rng.IntN(100); {
		case r < 40:
			ops[i] = metaOp{kind: "put", changes: []change{{key: key, value: value}}}
		case r < 52:
			ops[i] = metaOp{kind: "delete", changes: []change{{key: key, delete: true}}}
		case r < 62:
			ops[i] = metaOp{kind: "batch", changes: randomChange(rng, i)}
		case r < 70:
			ops[i] = metaOp{kind: "ttl", key: key, changes: []change{{key: key, value: value}}, ttl: time.Duration(1+rng.IntN(50)) * time.Second}
		case r < 75:
			ops[i] = metaOp{kind: "wait", ttl: time.Duration(rng.IntN(20)) * time.Second}
		case r < 97:
			ops[i] = metaOp{kind: "get", key: key}
		default:
			ops[i] = metaOp{kind: "scan"}
		}
	}
	return ops
}

// metaModel is the map that every result is compared with.
type metaModel struct {
	values  map[string]string
	expires map[string]time.Time
	now     time.Time
}

func (m *metaModel) apply(op metaOp) {
	m.now = m.now.Add(time.Millisecond)
	switch op.kind {
	case "wait":
		m.now = m.now.Add(op.ttl)
	case "get", "scan":
	default:
		for _, c := range op.changes {
			switch {
			case c.clear:
				clear(m.values)
				clear(m.expires)
				continue
			case c.delete:
				delete(m.values, c.key)
			default:
				m.values[c.key] = c.value
			}
			delete(m.expires, c.key)
		}
		if op.kind == "ttl" {
			m.expires[op.key] = m.now.Add(op.ttl)
		}
	}
	for key, at := range m.expires {
		if !m.now.Before(at) {
			delete(m.values, key)
			delete(m.expires, key)
		}
	}
}

// metaStore is one configuration: its own options, and its own moments to merge, save, adopt,
// sync, reopen and lose power.
type metaStore struct {
	name  string
	opts  Options
	rng   *rand.Rand
	s     *Store
	disk  *vfs.Mem
	eager int // of a thousand steps so many merge
	upset int // … so many close, lose power or adopt
}

// newMetaStore is one of a row of stores that differ in what they are made of: every nine of them have each durability
// with each of no, few and many merges; sizes go from the smallest segment to 1 MiB; files are mapped in every second.
func newMetaStore(t *testing.T, rng *rand.Rand, n, of int, now *atomic.Int64) *metaStore {
	m := &metaStore{rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), disk: vfs.NewMem()}
	m.disk.SetMapping(n%2 == 0)
	size := minSegmentBytes * math.Pow((1<<20)/float64(minSegmentBytes), float64(n)/float64(of-1))
	m.opts = Options{
		Logger: quiet, Now: func() time.Time { return time.UnixMilli(now.Load()) }, SyncInterval: time.Millisecond,
		SegmentBytes: int64(math.Round(size)), Durability: Durability(n % 3), HashSeed: rng.Uint64(),
		Merge: MergePolicy{
			Disabled: rng.IntN(2) == 0, BytesPerSecond: 1 << 40, ReserveBytes: []int64{-1, 0, 1000}[rng.IntN(3)],
			FragmentationTrigger: 1 + rng.IntN(100), FragmentationThreshold: 1,
		},
	}
	m.eager, m.upset = []int{0, 3, 50}[n/3%3], []int{0, 5, 25}[rng.IntN(3)]
	m.name = fmt.Sprintf("segments of %d bytes, %s, mapped %v, background merges %v, %d‰ merges, %d‰ reopenings",
		m.opts.SegmentBytes, m.opts.Durability, n%2 == 0, !m.opts.Merge.Disabled, m.eager, m.upset)
	m.open(t)
	return m
}

func (m *metaStore) open(t *testing.T) {
	t.Helper()
	o := m.opts
	o.FS = m.disk
	s, err := Open("db", &o)
	if err != nil {
		t.Fatalf("%s: open: %v", m.name, err)
	}
	m.s = s
}

// upsets does what must not change any result.
func (m *metaStore) upsets(t *testing.T, n int) {
	t.Helper()
	var err error
	if r := m.rng.IntN(1000); r < m.eager {
		if r%2 == 0 {
			err = m.s.Merge(context.Background())
		} else {
			err = mergeSome(m.s, m.rng)
		}
	}
	if err == nil && m.rng.IntN(1000) < m.upset {
		switch m.rng.IntN(5) {
		case 0:
			err = saveCheckpoint(m.s, n)
		case 1:
			err = adoptCopy(m.s, n)
		case 2: // a kill
			left := m.disk.KillClone()
			err = m.s.Close()
			m.disk = left
			m.open(t)
		case 3: // power loss, after all was synced
			if err = m.s.Sync(); err == nil {
				left := m.disk.CrashClone(m.rng)
				err = m.s.Close()
				m.disk = left
				m.open(t)
			}
		default:
			err = m.s.Close()
			m.open(t)
		}
	}
	if err != nil {
		t.Fatalf("%s: step %d: %v", m.name, n, err)
	}
}

// result carries a step out and says what came of it.
func (m *metaStore) result(t *testing.T, op metaOp) string {
	t.Helper()
	switch op.kind {
	case "wait":
		return ""
	case "get":
		v, err := m.s.Get([]byte(op.key))
		if errors.Is(err, ErrNotFound) {
			return "none"
		}
		if err != nil {
			t.Fatalf("%s: get %s: %v", m.name, op.key, err)
		}
		return "value " + string(v)
	case "scan":
		got := map[string]string{}
		err := m.s.Scan(nil, func(key, value []byte) error {
			if _, twice := got[string(key)]; twice {
				return fmt.Errorf("key %s came twice", key)
			}
			got[string(key)] = string(value)
			return nil
		})
		if err != nil {
			t.Fatalf("%s: scan: %v", m.name, err)
		}
		return fmt.Sprint(got)
	case "ttl":
		must(t, m.s.PutWithTTL([]byte(op.key), []byte(op.changes[0].value), op.ttl))
		return ""
	}
	h := history{acked: map[string]string{}}
	must(t, h.do(m.s, op.changes...))
	return ""
}

// TestMetamorphic puts one random history through stores with random options and random moments of
// merging, saving, adopting, reopening, killing and power loss. Every result is that
// of a map, so every store gives the same ones. RAFTCASK_CRASH_CLONES makes it more and longer.
func TestMetamorphic(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(seed(t)), 0))
	histories, stores, steps := 4, 12, 400
	if soaking() {
		histories, steps = 20, 2000
	}
	for range histories {
		var now atomic.Int64 // ms since 1970, for the background too
		now.Store(1_700_000_000_000)
		model := &metaModel{values: map[string]string{}, expires: map[string]time.Time{}, now: time.UnixMilli(now.Load())}
		var all []*metaStore
		for n := range stores {
			all = append(all, newMetaStore(t, rng, n, stores, &now))
		}
		runHistory(t, metaHistory(rng, steps), model, all, &now)
	}
}

func runHistory(t *testing.T, ops []metaOp, model *metaModel, all []*metaStore, now *atomic.Int64) {
	t.Helper()
	for n, op := range ops {
		model.apply(op)
		want := ""
		switch op.kind {
		case "get":
			if v, ok := model.values[op.key]; ok {
				want = "value " + v
			} else {
				want = "none"
			}
		case "scan":
			want = fmt.Sprint(model.values)
		}
		for _, m := range all {
			now.Store(model.now.UnixMilli())
			if got := m.result(t, op); got != want {
				t.Fatalf("%s: step %d, %s %s gave\n%.2000s\nshould give\n%.2000s", m.name, n, op.kind, op.key, got, want)
			}
			m.upsets(t, n)
		}
	}
	for _, m := range all {
		got := map[string]string{}
		must(t, m.s.Scan(nil, func(key, value []byte) error {
			got[string(key)] = string(value)
			return nil
		}))
		if !maps.Equal(got, model.values) {
			t.Fatalf("%s: at the end the store holds\n%v\nshould hold\n%v", m.name, got, model.values)
		}
		checkAccounts(t, m.s)
		must(t, m.s.Close())
	}
}
