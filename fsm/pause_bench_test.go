package fsm

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
)

// BenchmarkSnapshot measures how long a snapshot of a large store holds up the state machine (pause), and how long the rest of
// it takes beside the state machine's work. RAFTCASK_BENCH_BYTES of data (default 256 MiB) in values of 64 KiB.
func BenchmarkSnapshot(b *testing.B) {
	total := int64(256 << 20)
	if text := os.Getenv("RAFTCASK_BENCH_BYTES"); text != "" {
		var err error
		if total, err = strconv.ParseInt(text, 10, 64); err != nil {
			b.Fatal(err)
		}
	}
	quiet := slog.New(slog.DiscardHandler)
	store, err := bitcask.Open(b.TempDir(), &bitcask.Options{Replicated: true, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = store.Close() }() // the directory goes
	logs, machine := NewLogStore(store), New(store, quiet)
	snapshots := NewSnapshotStore(logs, quiet)
	index := load(b, logs, machine, total)
	var pauses, rests []time.Duration
	for b.Loop() {
		index++
		apply(b, logs, machine, index, []byte("one more"))
		start := time.Now()
		snap, err := machine.Snapshot()
		pauses = append(pauses, time.Since(start))
		if err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		sink, _ := snapshots.Create(1, index, 1, raft.Configuration{}, 1, nil)
		if err := snap.Persist(sink); err != nil {
			b.Fatal(err)
		}
		if err := sink.Close(); err != nil {
			b.Fatal(err)
		}
		snap.Release()
		rests = append(rests, time.Since(start))
	}
	report := func(name string, all []time.Duration) {
		sum, most := time.Duration(0), time.Duration(0)
		for _, d := range all {
			sum += d
			most = max(most, d)
		}
		b.ReportMetric(float64(sum.Microseconds())/float64(len(all)), "µs-"+name)
		b.ReportMetric(float64(most.Microseconds()), "µs-"+name+"-max")
	}
	report("pause", pauses)
	report("save", rests)
	stats := store.Stats()
	b.ReportMetric(float64(stats.DiskBytes)/1e9, "GB")
	b.ReportMetric(float64(stats.Segments), "segments")
}

// load fills the store in entries of 16 values, each 64 KiB of random bytes.
func load(b *testing.B, logs *LogStore, machine *FSM, total int64) (index uint64) {
	b.Helper()
	const size = 64 << 10
	value := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	for written := int64(0); written < total; written += 16 * size {
		index++
		var batch bitcask.Batch
		batch.Reset(1, 0)
		for i := range 16 {
			_, _ = rng.Read(value) // never fails
			if err := batch.Put(fmt.Appendf(nil, "key-%d-%d", index, i), value, 0); err != nil {
				b.Fatal(err)
			}
		}
		log := &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: batch.Detach()}
		if err := logs.StoreLog(log); err != nil {
			b.Fatal(err)
		}
		if r := machine.Apply(log); r != nil {
			b.Fatal(r)
		}
	}
	return index
}

func apply(b *testing.B, logs *LogStore, machine *FSM, index uint64, key []byte) {
	b.Helper()
	log := command(index, 1, 1, string(key), fmt.Sprint(index))
	if err := logs.StoreLog(log); err != nil {
		b.Fatal(err)
	}
	if r := machine.Apply(log); r != nil {
		b.Fatal(r)
	}
}
