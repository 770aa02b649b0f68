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
)

// opTimeout is how long a client waits for one operation: longer than an election.
const opTimeout = 5 * time.Second

const (
	groupCount = 4 // groups of each kind that are in use at a time: few, so that clients meet
	// Groups are exchanged for new ones at this pace. Each unknown write stays possible for the rest of its group's history and
	// doubles the work of the check, so that histories must end.
	epochLength = 10 * time.Second
	// pace is how long a client rests between two operations in the mean: the histories have to be checked beside the traffic.
	pace = 8 * time.Millisecond
)

// traffic is clients at work: for each kind one that follows the leader and two that stay with a node, which may be one that
// was just deposed.
type traffic struct {
	semantics
	t       testing.TB
	begin   time.Time
	addrs   []string
	history *history
	counts  map[string]*counts // by kind
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	gate    sync.RWMutex // held for reading during each operation; quiesce holds it for writing
	segment atomic.Int64 // counts the histories that were taken
	lies    lies
}

// counts of one kind. A read without an answer counts as refused.
type counts struct{ sent, done, unknown, refused atomic.Uint64 }

// lies are wrong answers that no history is needed for.
type lies struct {
	mu   sync.Mutex
	list []error
}

func (l *lies) add(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) < 20 {
		l.list = append(l.list, err)
	}
}

func (l *lies) take() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.list
	l.list = nil
	return list
}

// startTraffic begins traffic of some kinds through the nodes at addrs, with or without stale reads.
func startTraffic(t testing.TB, addrs []string, rng *rand.Rand, kinds []kind, stale bool) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &traffic{
		semantics: semantics{slack: roundingSlack},
		t:         t, begin: time.Now(), addrs: addrs, history: newHistory(), counts: map[string]*counts{}, cancel: cancel,
	}
	t.Cleanup(f.stop)
	for _, name := range []string{impatientKind, staleKind} { // all of them before the first client looks
		f.counts[name] = &counts{}
	}
	for _, k := range kinds {
		f.counts[k.name] = &counts{}
	}
	if !stale {
		delete(f.counts, staleKind)
	}
	id := 0
	for i, k := range kinds {
		sdk, err := newSDKCaller(addrs)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []caller{sdk, newGoRedisCaller(addrs[i%len(addrs)]), &rawCaller{addr: addrs[(i+1)%len(addrs)]}} {
			id++
			me, clientRng := id, rand.New(rand.NewPCG(rng.Uint64(), uint64(id)))
			f.wg.Go(func() {
				defer c.close()
				f.work(ctx, me, k, c, clientRng)
			})
		}
	}
	f.startImpatientReads(ctx, rng)
	if stale {
		f.startStaleReads(ctx, id, rng)
	}
	return f
}

// stop ends the clients, each after its operation.
func (f *traffic) stop() {
	f.cancel()
	f.wg.Wait()
}

func (f *traffic) now() int64 { return time.Since(f.begin).Nanoseconds() }

// group draws one that is in use.
func (f *traffic) group(kind string, rng *rand.Rand) string {
	epoch := time.Since(f.begin) / epochLength
	return fmt.Sprintf("%s-%d-%d-%d", strings.ReplaceAll(kind, " ", "-"), f.segment.Load(), epoch, rng.IntN(groupCount))
}

func (f *traffic) work(ctx context.Context, id int, k kind, c caller, rng *rand.Rand) {
	for i := 0; ctx.Err() == nil; i++ {
		f.gate.RLock()
		group := f.group(k.name, rng)
		commands := k.draw(&draw{Rand: rng, group: group, unique: fmt.Sprintf("%d.%d", id, i)})
		settled := f.operate(id, f.counts[k.name], group, c, commands)
		f.gate.RUnlock()
		rest := span(rng, 2*pace)
		if !settled {
			rest += 20 * time.Millisecond // do not fill the history with refusals while there is no leader
		}
		pause(ctx, rest)
	}
}

// operate sends commands and notes what can be known of them; it reports whether all were answered.
func (f *traffic) operate(id int, n *counts, group string, c caller, commands [][]string) (settled bool) {
	return f.operateWithin(opTimeout, id, n, group, c, commands)
}

func (f *traffic) operateWithin(timeout time.Duration, id int, n *counts, group string, c caller, commands [][]string) (settled bool) {
	// Not the context that ends the clients: what was begun is to have an outcome.
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	call := f.now()
	answers := c.call(ctx, commands...)
	ret := f.now()
	settled = true
	for i, a := range answers {
		n.sent.Add(1)
		in := opInput{args: commands[i], call: call, ret: ret}
		switch a.outcome {
		case acknowledged:
			n.done.Add(1)
			f.history.add(group, id, in, a.reply)
			continue
		case notApplied:
			n.refused.Add(1)
		default:
			if readsOnly(commands[i]) {
				n.refused.Add(1)
				break
			}
			n.unknown.Add(1)
			in.ret = forever
			f.history.add(group, id, in, outcomeless{})
		}
		settled = false
	}
	return settled
}

// quiesce waits for the operations under way and holds all clients back until resume is called.
func (f *traffic) quiesce() (resume func()) {
	f.gate.Lock()
	return f.gate.Unlock
}

// done is how many operations of each kind were answered so far.
func (f *traffic) done() map[string]uint64 {
	now := make(map[string]uint64)
	for name, n := range f.counts {
		now[name] = n.done.Load()
	}
	return now
}

// total leaves the stale reads out, which need no majority.
func (f *traffic) total() (sum uint64) {
	for name, n := range f.done() {
		if name != staleKind {
			sum += n
		}
	}
	return sum
}

// awaitEach waits until each kind has done so many operations more than since.
func (f *traffic) awaitEach(since map[string]uint64, more uint64, within time.Duration) {
	f.t.Helper()
	eventually(f.t, within, "operations of every kind go on", func() error {
		for name, n := range f.done() {
			if n < since[name]+more {
				return fmt.Errorf("%q: %d done, want %d", name, n, since[name]+more)
			}
		}
		return nil
	})
}

// waitForProgress waits for so many operations more.
func (f *traffic) waitForProgress(t testing.TB, more uint64) {
	t.Helper()
	goal := f.total() + more
	eventually(t, time.Minute, "operations go on", func() error {
		if n := f.total(); n < goal {
			return fmt.Errorf("%d done, want %d", n, goal)
		}
		return nil
	})
}

// check fails the test unless the history so far is linearizable. Nothing may be under way.
func (f *traffic) check(t testing.TB) {
	t.Helper()
	c := checker{semantics: f.semantics}
	c.begin(f.history.take())
	operations, violations := c.result()
	for _, err := range append(violations, f.lies.take()...) {
		t.Error(err)
	}
	var open uint64
	for _, n := range f.counts {
		open += n.unknown.Load()
	}
	t.Logf("%d operations checked, %d of unknown outcome", operations, open)
}

// startRegisters is traffic of registers only, for tests of which traffic is not the subject.
func startRegisters(t testing.TB, c *cluster, rng *rand.Rand) *traffic {
	t.Helper()
	return startTraffic(t, c.addrs(), rng, kinds[:1], false)
}
