package integration

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// TestFarBehindFollower keeps a node away while 80 MB are written and the log behind them is truncated. On its return only a
// snapshot can bring it up to date; afterwards it serves every key, overwrite, deletion and expiry by itself.
func TestFarBehindFollower(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	c := startCluster(t, 3, "--snapshot-bytes", "8MiB", "--trailing-bytes", "4MiB", "--segment-bytes", "4MiB")
	data := newDataset(rng)
	data.write(t, c.leader(), 5_000_000) // so that the node has something old of its own

	away := c.follower()
	c.waitCaughtUp(away, time.Minute)
	away.stop()
	data.write(t, c.leader(), 80_000_000)

	away.start()
	away.waitReady()
	c.waitCaughtUp(away, 2*time.Minute)
	if installed, ok := away.metric(metricSnapshotInstalled); !ok || installed < 1 {
		t.Fatalf("%s caught up without a snapshot (%s: %v, found %v): the test did not come to its subject", away.id, metricSnapshotInstalled, installed, ok)
	}
	data.compare(t, away) // through it, whoever answers

	makeLeader(t, c, away)
	data.compare(t, away) // from its own store
}

// makeLeader sees to it that no node but the given one can lead: the other survivor lacks a write that is acknowledged.
func makeLeader(t *testing.T, c *cluster, n *node) {
	t.Helper()
	leader := c.leader()
	if leader == n {
		return
	}
	third := c.others(leader, n)[0]
	third.kill()
	conn := dialRedis(t, leader.resp)
	if got := conn.do("SET", "only on two nodes", "yes"); got != status("OK") {
		t.Fatal(got)
	}
	if got := conn.do("DEL", "only on two nodes"); got != int64(1) {
		t.Fatal(got)
	}
	leader.kill()
	third.start()
	third.waitReady()
	if got := c.leader(); got != n {
		t.Fatalf("%s leads, but lacks an acknowledged write that %s has", got.id, n.id)
	}
}

// metricSnapshotInstalled counts the snapshots that a node received and installed.
const metricSnapshotInstalled = "raft_rpc_installSnapshot_count"

const datasetValueBytes = 8 << 10

// dataset is a set of keys with values that can be told from one another and computed again.
type dataset struct {
	rng      *rand.Rand
	versions map[string]uint64 // seed of each key's value; a deleted key has none
	names    []string          // every name ever used, in order
}

func newDataset(rng *rand.Rand) *dataset {
	return &dataset{rng: rng, versions: map[string]uint64{}}
}

// valueOf returns the value that a seed stands for: random bytes, so that none is like another.
func valueOf(seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, datasetValueBytes)
	for i := 0; i < len(b); i += 8 {
		v := rng.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b
}

// write puts, overwrites and deletes keys until so many bytes of values are written.
func (d *dataset) write(t *testing.T, n *node, total int) {
	t.Helper()
	rdb := goredis.NewClient(&goredis.Options{Addr: n.resp, MaxRetries: -1, ReadTimeout: replyTimeout})
	defer func() { _ = rdb.Close() }() // everything is answered
	ctx := t.Context()
	for written := 0; written < total; {
		pipe := rdb.Pipeline()
		for range 64 {
			name := "key-" + strconv.Itoa(len(d.names))
			if len(d.names) > 0 && d.rng.IntN(5) == 0 {
				name = d.names[d.rng.IntN(len(d.names))]
			} else {
				d.names = append(d.names, name)
			}
			switch d.rng.IntN(20) {
			case 0:
				pipe.Del(ctx, name)
				delete(d.versions, name)
			case 1:
				pipe.Set(ctx, name, "soon gone", time.Millisecond)
				delete(d.versions, name)
			default:
				seed := d.rng.Uint64()
				pipe.Set(ctx, name, valueOf(seed), 0)
				d.versions[name] = seed
				written += datasetValueBytes
			}
		}
		if _, err := pipe.Exec(ctx); err != nil {
			t.Fatalf("write the data: %v", err)
		}
	}
}

// compare reads every name ever used through one node, and then asks for the names it holds.
func (d *dataset) compare(t *testing.T, n *node) {
	t.Helper()
	rdb := goredis.NewClient(&goredis.Options{Addr: n.resp, ReadTimeout: replyTimeout})
	defer func() { _ = rdb.Close() }() // everything is answered
	ctx := t.Context()
	const batch = 200
	for first := 0; first < len(d.names); first += batch {
		names := d.names[first:min(first+batch, len(d.names))]
		values, err := rdb.MGet(ctx, names...).Result()
		if err != nil {
			t.Fatalf("%s: MGET: %v", n.id, err)
		}
		for i, name := range names {
			seed, exists := d.versions[name]
			got, found := values[i].(string)
			if found != exists || found && got != string(valueOf(seed)) {
				t.Fatalf("%s: %s: found %v, want %v; %d bytes", n.id, name, found, exists, len(got))
			}
		}
	}

	seen := make(map[string]bool)
	for it := rdb.Scan(ctx, 0, "*", 1000).Iterator(); ; {
		if !it.Next(ctx) {
			if err := it.Err(); err != nil {
				t.Fatalf("%s: SCAN: %v", n.id, err)
			}
			break
		}
		name := it.Val()
		if _, exists := d.versions[name]; !exists {
			t.Fatalf("%s: SCAN returns %q, which is deleted, expired, or was never written", n.id, name)
		}
		seen[name] = true
	}
	if len(seen) != len(d.versions) {
		t.Errorf("%s: SCAN returns %d names, want %d", n.id, len(seen), len(d.versions))
	}
	eventually(t, time.Minute, "DBSIZE leaves out the expired keys", func() error { // they go in the background
		if size, err := rdb.DBSize(ctx).Result(); err != nil || int(size) != len(d.versions) {
			return fmt.Errorf("DBSIZE is %d, want %d: %w", size, len(d.versions), err)
		}
		return nil
	})
}
