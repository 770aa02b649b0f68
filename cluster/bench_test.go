package cluster

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"
)

// BenchmarkCluster writes to the leader of three nodes in this process, on real disks: what the path from
// Propose to the reply costs. Clients share the cores with all three nodes.
func BenchmarkCluster(b *testing.B) {
	for _, clients := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
			c := newBenchCluster(b)
			leader := c.leader()
			value := bytes.Repeat([]byte("v"), 256)
			ctx := context.Background()
			var id atomic.Int64
			b.SetParallelism((clients + 1) / 2) // times GOMAXPROCS, which is 2 where this was measured
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					key := fmt.Appendf(nil, "key%010d", id.Add(1)%100_000)
					errs := leader.group.ProposeSized(ctx, 1, 300, func(tx *Tx, _ int) { _ = tx.Put(key, value, 0) })
					if errs != nil {
						b.Error(errs)
						return
					}
				}
			})
			b.StopTimer()
			counts := leader.group.Counters()
			b.ReportMetric(float64(counts.Operations)/float64(counts.Entries), "ops/entry")
		})
	}
}

// BenchmarkConfirm reads with confirmation.
func BenchmarkConfirm(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
			c := newBenchCluster(b)
			leader := c.leader()
			ctx := context.Background()
			b.SetParallelism((clients + 1) / 2)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := leader.group.ConfirmLeader(ctx); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func newBenchCluster(b *testing.B) *testCluster {
	b.Helper()
	c := newTestCluster(b, func(cfg *Config) { cfg.Logger = quiet(); cfg.Engine.SegmentBytes = 64 << 20 })
	c.three()
	return c
}
