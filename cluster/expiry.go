package cluster

import (
	"bytes"
	"context"

	"github.com/raftcask/raftcask/bitcask"
)

const (
	sweepKeys  = 10_000 // looked at per turn
	sweepStep  = 1_000  // per call of the engine
	sweepBatch = 1_000  // expired keys proposed together
)

// sweepExpired deletes expired keys that nobody reads any more. Only the leader does; evaluation decides
// whether a key is still expired, and makes its absence an effect.
func (g *Group) sweepExpired() {
	var cursor uint64
	every(g.ctx, g.cfg.Timing.Sweep, func() {
		for seen := 0; g.IsLeader() && seen < sweepKeys; seen += sweepStep {
			var found [][]byte
			found, cursor = g.findExpired(cursor)
			if len(found) > 0 && !g.deleteExpired(found) {
				return
			}
			if cursor == 0 {
				return // one round a turn
			}
		}
	})
}

func (g *Group) findExpired(cursor uint64) (found [][]byte, next uint64) {
	now := g.store.Now()
	next = g.store.ScanKeys(cursor, sweepStep, func(key []byte, it bitcask.Item) {
		if expired(it.ExpireAt, now) {
			found = append(found, bytes.Clone(key))
		}
	})
	return found, next
}

// deleteExpired reports whether it is worth going on.
func (g *Group) deleteExpired(keys [][]byte) bool {
	ctx, cancel := context.WithTimeout(g.ctx, g.cfg.Timing.Write)
	defer cancel()
	for len(keys) > 0 {
		some := keys[:min(len(keys), sweepBatch)]
		keys = keys[len(some):]
		size := int64(0)
		for _, key := range some {
			size += int64(len(key))
		}
		errs := g.ProposeSized(ctx, len(some), size, func(tx *Tx, i int) {
			// The lookup of an expired key deletes it. It cannot fail: it reads memory only.
			_, _, _ = tx.Lookup(some[i])
		})
		if errs != nil {
			return false
		}
		g.counters.expired.Add(uint64(len(some)))
	}
	return true
}
