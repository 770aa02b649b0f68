package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

const (
	writerCount  = 8
	killCount    = 12
	sharedKeys   = 4
	minWriteRate = 100 // acknowledged writes per second over the whole test, elections and restarts included: traffic really flows
)

// TestNothingAcknowledgedIsLost kills nodes again and again while writers write: mostly one, at times two or all. Afterwards
// every acknowledged write is there, an unknown one may be, and nothing else is.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	rng := newRand(t)
	// Small files and a short log: sealing, merging, snapshots and their installation are all met by some kill.
	c := startCluster(t, 3, "--segment-bytes", "1MiB", "--snapshot-bytes", "2MiB", "--trailing-bytes", "1MiB")
	load := startWriters(t, c, writerCount)
	begin := time.Now()
	killAndRestart(t, c, rng, killCount, load)
	c.waitReady()
	load.stop()

	seconds := time.Since(begin).Seconds()
	acked, unknown, refused := load.totals()
	t.Logf("%d writes acknowledged (%.0f/s), %d unknown, %d not applied, in %.0f s", acked, float64(acked)/seconds, unknown, refused, seconds)
	if rate := float64(acked) / seconds; rate < minWriteRate {
		t.Errorf("%.0f acknowledged writes a second, want at least %d", rate, minWriteRate)
	}
	for _, n := range c.nodes {
		load.check(t, n)
	}
}

// killAndRestart kills until so many processes have died. How long it waits in between is measured in acknowledged writes:
// each round is a fault in the middle of work.
func killAndRestart(t *testing.T, c *cluster, rng *rand.Rand, kills int, load *writers) {
	t.Helper()
	for killed := 0; killed < kills; {
		victims := chooseVictims(c, rng)
		names := ""
		for _, n := range victims {
			n.kill()
			killed++
			names += " " + n.id
		}
		t.Logf("kill -9%s (%d of %d)", names, killed, kills)
		if len(victims) == 1 {
			load.waitForProgress(t, 1+rng.Uint64N(500)) // the others go on without it
		}
		for _, n := range victims {
			n.start()
		}
		if rng.IntN(3) > 0 {
			c.waitReady() // otherwise the next kill meets nodes that are still recovering
		}
		load.waitForProgress(t, 1+rng.Uint64N(1000))
	}
}

func chooseVictims(c *cluster, rng *rand.Rand) []*node {
	count := 1
	switch rng.IntN(10) {
	case 0:
		count = len(c.nodes)
	case 1, 2:
		count = 2
	}
	nodes := append([]*node(nil), c.nodes...)
	rng.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	if leader := runningLeader(c); leader != nil && rng.IntN(2) == 0 { // leaders hold what followers lack
		for i, n := range nodes {
			if n == leader {
				nodes[0], nodes[i] = nodes[i], nodes[0]
			}
		}
	}
	return nodes[:count]
}

// runningLeader returns the leader if there is one at the moment.
func runningLeader(c *cluster) *node {
	s, err := c.status()
	if err != nil {
		return nil // in the middle of an election
	}
	for _, n := range c.nodes {
		if n.id == s.Leader {
			return n
		}
	}
	return nil
}

// writers put values that occur only once: most on a key that occurs only once, some on a few keys that all share.
type writers struct {
	begin    time.Time
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	acked    atomic.Uint64
	perWrite [][]write // by writer; each appends to its own, readers wait for the end
}

// write is one attempt. Times count from the beginning of the test.
type write struct {
	key, value string
	outcome    writeOutcome
	start, end time.Duration
}

func startWriters(t *testing.T, c *cluster, count int) *writers {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &writers{begin: time.Now(), cancel: cancel, perWrite: make([][]write, count)}
	for i := range count {
		sdk := openSDK(t, c.addrs())
		w.wg.Go(func() { w.run(ctx, i, sdk) })
	}
	t.Cleanup(w.stop)
	return w
}

// stop lets each writer finish its write and waits for it.
func (w *writers) stop() {
	w.cancel()
	w.wg.Wait()
}

func (w *writers) run(ctx context.Context, id int, sdk register) {
	for i := 0; ctx.Err() == nil; i++ {
		att := write{key: fmt.Sprintf("unique-%d-%d", id, i), value: fmt.Sprintf("%d-%d-%s", id, i, filler[:i*37%len(filler)])}
		if i%4 == 0 {
			att.key = fmt.Sprintf("shared-%d", i/4%sharedKeys)
		}
		att.start = time.Since(w.begin)
		// Not the context that ends the writers: a write that was begun is to have an outcome.
		opCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
		att.outcome = sdk.set(opCtx, att.key, att.value)
		cancel()
		att.end = time.Since(w.begin)
		w.perWrite[id] = append(w.perWrite[id], att)
		switch att.outcome {
		case acknowledged:
			w.acked.Add(1)
		default:
			pause(ctx, 10*time.Millisecond) // do not fill the history with refusals while there is no leader
		}
	}
}

// filler makes values long enough to fill segments.
var filler = strings.Repeat(".", 2000)

// pause waits, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// waitForProgress waits until so many more writes are acknowledged.
func (w *writers) waitForProgress(t *testing.T, more uint64) {
	t.Helper()
	goal := w.acked.Load() + more
	eventually(t, time.Minute, "writes go on", func() error {
		if n := w.acked.Load(); n < goal {
			return fmt.Errorf("%d acknowledged, want %d", n, goal)
		}
		return nil
	})
}

func (w *writers) totals() (acked, lost, refused int) {
	for _, attempts := range w.perWrite {
		for _, a := range attempts {
			switch a.outcome {
			case acknowledged:
				acked++
			case unknown:
				lost++
			case notApplied:
				refused++
			}
		}
	}
	return acked, lost, refused
}

// check reads everything through one node and compares it with what the writers were told.
func (w *writers) check(t *testing.T, n *node) {
	t.Helper()
	byKey := make(map[string][]write)
	for _, attempts := range w.perWrite {
		for _, a := range attempts {
			byKey[a.key] = append(byKey[a.key], a)
		}
	}
	contents := readAll(t, n)
	problems := 0
	for key, attempts := range byKey {
		value, found := contents[key]
		if err := judge(attempts, value, found); err != nil {
			if problems++; problems <= 10 {
				t.Errorf("%s: %s: %v", n.id, key, err)
			}
		}
		delete(contents, key)
	}
	for key, value := range contents {
		t.Errorf("%s: %q holds %.40q, which nobody wrote", n.id, key, value)
		break
	}
	if problems > 10 {
		t.Errorf("%s: %d keys in all are wrong", n.id, problems)
	}
}

// judge decides whether a key may hold the value after these attempts to write it.
func judge(attempts []write, value string, found bool) error {
	var last write
	if found {
		i := 0
		for i < len(attempts) && attempts[i].value != value {
			i++
		}
		if i == len(attempts) {
			return fmt.Errorf("holds %.40q, which nobody wrote there", value)
		}
		if last = attempts[i]; last.outcome == notApplied {
			return fmt.Errorf("holds %.40q, whose writer was told that it was not applied", value)
		}
	}
	for _, a := range attempts {
		if a.outcome != acknowledged || a.value == value {
			continue
		}
		if !found {
			return fmt.Errorf("is not there, but %.40q was acknowledged after %v", a.value, a.end)
		}
		// An unknown write may have taken effect late. An acknowledged one took effect before its end.
		if last.outcome == acknowledged && a.start > last.end {
			return fmt.Errorf("holds %.40q (%v to %v), but %.40q was acknowledged later (%v to %v)", value, last.start, last.end, a.value, a.start, a.end)
		}
	}
	return nil
}

// TestJudgeSeesEachKindOfLoss breaks the promise on purpose: the check above must notice.
func TestJudgeSeesEachKindOfLoss(t *testing.T) {
	at := func(value string, o writeOutcome, start, end time.Duration) write {
		return write{key: "k", value: value, outcome: o, start: start, end: end}
	}
	for _, test := range []struct {
		name     string
		attempts []write
		value    string
		found    bool
		ok       bool
	}{
		{"acknowledged and there", []write{at("a", acknowledged, 1, 2)}, "a", true, true},
		{"acknowledged and lost", []write{at("a", acknowledged, 1, 2)}, "", false, false},
		{"unknown and there", []write{at("a", unknown, 1, 2)}, "a", true, true},
		{"unknown and not there", []write{at("a", unknown, 1, 2)}, "", false, true},
		{"not applied but there", []write{at("a", notApplied, 1, 2)}, "a", true, false},
		{"never written", []write{at("a", acknowledged, 1, 2)}, "b", true, false},
		{"overwritten value returned", []write{at("a", acknowledged, 1, 2), at("b", acknowledged, 3, 4)}, "a", true, false},
		{"either of two at the same time", []write{at("a", acknowledged, 1, 4), at("b", acknowledged, 2, 3)}, "a", true, true},
		{"unknown write that took effect late", []write{at("a", unknown, 1, 2), at("b", acknowledged, 3, 4)}, "a", true, true},
	} {
		if err := judge(test.attempts, test.value, test.found); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// readAll returns every key and value that a node holds.
func readAll(t *testing.T, n *node) map[string]string {
	t.Helper()
	ctx := t.Context()
	rdb := goredis.NewClient(&goredis.Options{Addr: n.resp, ReadTimeout: replyTimeout})
	defer func() { _ = rdb.Close() }() // everything is answered
	contents := make(map[string]string)
	for cursor := uint64(0); ; {
		names, next, err := rdb.Scan(ctx, cursor, "*", 1000).Result()
		if err != nil {
			t.Fatalf("%s: SCAN: %v", n.id, err)
		}
		if len(names) > 0 {
			values, err := rdb.MGet(ctx, names...).Result()
			if err != nil {
				t.Fatalf("%s: MGET: %v", n.id, err)
			}
			for i, name := range names {
				value, found := values[i].(string)
				if !found {
					t.Fatalf("%s: SCAN returned %q, GET does not find it", n.id, name)
				}
				contents[name] = value
			}
		}
		if cursor = next; cursor == 0 {
			return contents
		}
	}
}
