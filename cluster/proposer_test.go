package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/command"
)

var _ command.Tx = (*Tx)(nil)
var _ command.Tx = (*ReadTx)(nil)

func testProposer(t testing.TB, change func(cfg *Config)) (*proposer, *fakeRaft) {
	t.Helper()
	cfg, err := Config{Dir: "x", Peers: noPeers{}, StreamLayer: &tcpLayer{}, PeerAddr: "a:1", GossipBind: "a:1", Logger: quiet()}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Timing.Write = 10 * time.Second
	if change != nil {
		change(&cfg)
	}
	r := newFakeRaft(t, cfg.Engine.Now)
	p := newProposer(r, r.store, &cfg, &counters{}, func(err error) { t.Errorf("broken: %v", err) })
	p.start()
	t.Cleanup(func() {
		r.release(nil)
		p.shutdown(5 * time.Second)
	})
	p.setTerm(1)
	return p, r
}

// tinyEntries makes any operation fill an entry, so that a second one follows while the first is in flight.
func tinyEntries(cfg *Config) { cfg.Limits.EntryBytes, cfg.Limits.InFlight = effectOverhead, 2 }

func put(key, value string) func(*Tx, int) {
	return func(tx *Tx, _ int) { _ = tx.Put([]byte(key), []byte(value), 0) }
}

// do proposes one operation in the background.
func do(p *proposer, eval func(*Tx, int)) chan error {
	return doN(p, 1, eval)
}

func doN(p *proposer, n int, eval func(*Tx, int)) chan error { return doSized(p, n, int64(n), eval) }

func doSized(p *proposer, n int, size int64, eval func(*Tx, int)) chan error {
	result := make(chan error, 1)
	go func() { result <- errors.Join(p.propose(context.Background(), n, size, eval)...) }()
	return result
}

// queued waits until n requests wait or are in flight.
func queued(t *testing.T, p *proposer, n int) {
	t.Helper()
	until(t, 5*time.Second, func() error {
		if have := len(p.queue.outstanding(time.Time{})); have != n {
			return fmt.Errorf("%d requests are outstanding, not %d", have, n)
		}
		return nil
	})
}

func value(tx *Tx, key string) string {
	v, _, ok, err := tx.Get([]byte(key))
	if err != nil {
		return err.Error()
	}
	if !ok {
		return "(none)"
	}
	return string(v)
}

func TestOperationsSeeThoseBeforeThem(t *testing.T) {
	noLeaks(t)
	p, r := testProposer(t, tinyEntries)
	r.setHold(true)
	first := do(p, put("k", "1"))
	r.awaitEntry() // in flight, not applied
	var seen [4]string
	second := doN(p, 4, func(tx *Tx, i int) {
		seen[i] = value(tx, "k")
		_ = tx.Put([]byte("k"), []byte(strconv.Itoa(i+2)), 0)
	})
	queued(t, p, 2)
	p.noteStored() // raft has stored the first: the next entry may be built
	r.awaitEntry()
	if _, ok := r.get("k"); ok {
		t.Fatal("the engine shows an entry that is not applied")
	}
	r.release(nil)
	if err := errors.Join(<-first, <-second); err != nil {
		t.Fatal(err)
	}
	if want := [4]string{"1", "2", "3", "4"}; seen != want {
		t.Errorf("operations saw %v, want %v", seen, want)
	}
	if got, _ := r.get("k"); got != "5" {
		t.Errorf("k is %q, want 5", got)
	}
}

func TestReplyWaitsForTheCommitAlsoWithoutEffects(t *testing.T) {
	noLeaks(t)
	p, r := testProposer(t, tinyEntries)
	r.setHold(true)
	write := do(p, put("k", "1"))
	r.awaitEntry()
	read := do(p, func(tx *Tx, _ int) { _ = value(tx, "k") })
	queued(t, p, 2)
	p.noteStored()
	r.awaitEntry() // the read has an entry of its own
	select {
	case err := <-read:
		t.Fatalf("the read was answered (%v) before what it read was committed", err)
	default:
	}
	r.release(nil)
	if err := errors.Join(<-write, <-read); err != nil {
		t.Fatal(err)
	}
}

func TestOneEntryKeepsTheLastEffectPerKey(t *testing.T) {
	p, r := testProposer(t, func(cfg *Config) { cfg.Limits.EntryBytes = 20_000 }) // what the increments seem to need
	r.setHold(true)
	warm := do(p, put("x", "x")) // keeps the next ones waiting, so that they share an entry
	r.awaitEntry()
	many := doN(p, 1000, func(tx *Tx, _ int) {
		n, _ := strconv.Atoi(value(tx, "n"))
		_ = tx.Put([]byte("n"), []byte(strconv.Itoa(n+1)), 0)
	})
	queued(t, p, 2)
	p.noteStored()
	r.awaitEntry()
	r.release(nil)
	if err := errors.Join(<-warm, <-many); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.get("n"); got != "1000" {
		t.Errorf("n is %s after 1000 increments", got)
	}
	var want bitcask.Batch
	_ = want.Put([]byte("n"), []byte("1000"), 0)
	if got := len(r.entries[1]); got != want.Size() {
		t.Errorf("1000 increments of one key take %d bytes, want one record: %d", got, want.Size())
	}
}

func TestFailedOperationHasNoEffectAtAll(t *testing.T) {
	p, r := testProposer(t, func(cfg *Config) { cfg.Engine.MaxValueBytes = 10 })
	errs := p.propose(context.Background(), 1, 10, func(tx *Tx, i int) {
		_ = tx.Put([]byte("a"), []byte("before"), 0)
		_ = tx.Put([]byte("gone"), []byte("before"), 0)
	})
	if errs != nil {
		t.Fatal(errs)
	}
	var got error
	errs = p.propose(context.Background(), 3, 10, func(tx *Tx, i int) {
		switch i {
		case 0:
			_ = tx.Put([]byte("b"), []byte("first"), 0)
		case 1:
			_ = tx.Put([]byte("b"), []byte("second"), 0)
			_ = tx.Put([]byte("new"), []byte("second"), 0)
			_ = tx.Clear()
			_ = tx.Put([]byte("a"), []byte("second"), 0)
			_ = tx.Delete([]byte("b"))
			got = tx.Put([]byte("c"), make([]byte, 11), 0)
			_ = tx.Delete([]byte("gone"))
		case 2:
			_ = tx.Put([]byte("d"), []byte(value(tx, "b")+"!"), 0)
		}
	})
	if errs != nil {
		t.Fatalf("an operation's own error is for its reply, not %v", errs)
	}
	if !errors.Is(got, command.ErrTooLarge) {
		t.Errorf("Put of a value that is too large: %v", got)
	}
	for key, want := range map[string]string{"a": "before", "b": "first", "d": "first!", "gone": "before"} {
		if got, _ := r.get(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	for _, key := range []string{"c", "new"} {
		if got, ok := r.get(key); ok {
			t.Errorf("%s is %q, want nothing", key, got)
		}
	}
}

func TestClearHidesWhatIsNotAppliedYet(t *testing.T) {
	p, r := testProposer(t, func(cfg *Config) { cfg.Limits.EntryBytes = 200 })
	if errs := p.propose(context.Background(), 1, 1, put("old", "1")); errs != nil {
		t.Fatal(errs)
	}
	r.awaitEntry()
	r.setHold(true)
	a := do(p, put("pending", "1"))
	r.awaitEntry()
	var seen []string
	b := doSized(p, 3, 200, func(tx *Tx, i int) {
		switch i {
		case 0:
			_ = tx.Clear()
		case 1:
			_ = tx.Put([]byte("after"), []byte("1"), 0)
		case 2:
			seen = []string{value(tx, "old"), value(tx, "pending"), value(tx, "after"), strconv.Itoa(tx.Len())}
			_ = tx.Delete([]byte("old"))
		}
	})
	queued(t, p, 2)
	p.noteStored()
	r.awaitEntry()
	r.release(nil)
	if err := errors.Join(<-a, <-b); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(seen); got != "[(none) (none) 1 1]" {
		t.Errorf("after Clear: %s", got)
	}
	if errs := p.propose(context.Background(), 1, 1, func(tx *Tx, _ int) { seen = []string{value(tx, "old"), value(tx, "after")} }); errs != nil {
		t.Fatal(errs)
	}
	if got := fmt.Sprint(seen); got != "[(none) 1]" {
		t.Errorf("after the clear was applied: %s", got)
	}
	if r.store.Len() != 1 {
		t.Errorf("%d keys are left, want 1", r.store.Len())
	}
}

// TestOverlayAgainstModel runs random operations, some of which fail, against a map.
func TestOverlayAgainstModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	p, r := testProposer(t, func(cfg *Config) { cfg.Engine.MaxValueBytes = 100; cfg.Limits.EntryBytes = 300 })
	model := map[string]string{}
	for range 300 {
		n := 1 + rng.IntN(30)
		errs := p.propose(context.Background(), n, int64(n), func(tx *Tx, _ int) {
			next := map[string]string{}
			for k, v := range model {
				next[k] = v
			}
			failed := false
			for range 1 + rng.IntN(4) {
				key := fmt.Sprint("k", rng.IntN(12))
				want, ok := next[key]
				if !ok {
					want = "(none)"
				}
				if got := value(tx, key); !failed && got != want {
					t.Errorf("%s is %q, the model says %q", key, got, want)
				}
				switch c := rng.IntN(20); {
				case c == 0:
					failed = tx.Put([]byte(key), make([]byte, 101), 0) != nil || failed
				case c == 1:
					_ = tx.Clear()
					clear(next)
				case c < 6:
					_ = tx.Delete([]byte(key))
					delete(next, key)
				default:
					v := fmt.Sprint(rng.IntN(1000))
					_ = tx.Put([]byte(key), []byte(v), 0)
					next[key] = v
				}
				if !failed && tx.Len() != len(next) {
					t.Errorf("Len is %d, the model has %d", tx.Len(), len(next))
				}
			}
			if !failed {
				model = next
			}
		})
		if errs != nil {
			t.Fatal(errs)
		}
	}
	for i := range 12 {
		key := fmt.Sprint("k", i)
		got, ok := r.get(key)
		if want, has := model[key]; got != want || ok != has {
			t.Errorf("%s is %q (%v), the model says %q (%v)", key, got, ok, want, has)
		}
	}
}

func TestEntryOfAnotherTermIsNotApplied(t *testing.T) {
	p, r := testProposer(t, nil)
	r.setTerm(2) // leadership was lost and regained between evaluation and Apply
	err := <-do(p, put("k", "1"))
	if !errors.Is(err, ErrNotApplied) || !Definite(err) {
		t.Errorf("got %v, want ErrNotApplied", err)
	}
	if _, ok := r.get("k"); ok {
		t.Error("a void entry had an effect")
	}
}

func TestOutcomeOfEntriesInFlight(t *testing.T) {
	for _, c := range []struct {
		raft error
		want error
	}{
		{raft.ErrLeadershipLost, ErrUnknown},
		{raft.ErrRaftShutdown, ErrUnknown},
		{errors.New("anything else"), ErrUnknown},
		{raft.ErrNotLeader, ErrNotLeader},
		{raft.ErrEnqueueTimeout, ErrNotApplied},
		{fmt.Errorf("store: %w", bitcask.ErrNoSpace), ErrNotApplied},
		{fmt.Errorf("store: %w: %w", bitcask.ErrIncomplete, bitcask.ErrNoSpace), ErrUnknown},
	} {
		t.Run(c.raft.Error(), func(t *testing.T) {
			p, r := testProposer(t, nil)
			r.setHold(true)
			result := do(p, put("k", "1"))
			r.awaitEntry()
			r.release(c.raft)
			if err := <-result; !errors.Is(err, c.want) || Definite(err) == errors.Is(err, ErrUnknown) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestNothingIsEvaluatedOnTopOfALostEntry(t *testing.T) {
	noLeaks(t)
	p, r := testProposer(t, nil)
	r.setHold(true)
	lost := do(p, put("k", "lost"))
	r.awaitEntry()
	next := do(p, put("k2", "never evaluated"))
	queued(t, p, 2)
	r.release(raft.ErrLeadershipLost)
	if err := <-lost; !errors.Is(err, ErrUnknown) {
		t.Errorf("in flight: got %v, want ErrUnknown", err)
	}
	if err := <-next; !Definite(err) {
		t.Errorf("queued: got %v, want a definite error", err)
	}
	if r.count() != 1 {
		t.Errorf("%d entries were proposed, want 1", r.count())
	}
	// The next term starts from the engine.
	p.setTerm(0)
	r.setTerm(2)
	p.setTerm(2)
	var seen string
	if err := <-do(p, func(tx *Tx, _ int) { seen = value(tx, "k") }); err != nil {
		t.Fatal(err)
	}
	if seen != "(none)" {
		t.Errorf("the next term saw %q of a lost entry", seen)
	}
}

func TestLossOfLeadershipRefusesWhatIsQueued(t *testing.T) {
	p, r := testProposer(t, func(cfg *Config) { cfg.Limits.EntryBytes = 100 })
	r.setHold(true)
	// One request over several entries: its beginning is in flight when leadership is lost.
	big := make(chan []error, 1)
	go func() {
		big <- p.propose(context.Background(), 10, 10*40, func(tx *Tx, i int) {
			_ = tx.Put([]byte{byte('a' + i)}, make([]byte, 40), 0)
		})
	}()
	r.awaitEntry()
	p.setTerm(0)
	r.release(raft.ErrLeadershipLost)
	unknown, definite := 0, 0
	for _, err := range <-big {
		switch {
		case errors.Is(err, ErrUnknown):
			unknown++
		case Definite(err):
			definite++
		}
	}
	if unknown == 0 || definite == 0 || unknown+definite != 10 {
		t.Errorf("%d unknown and %d definite outcomes of 10", unknown, definite)
	}
}

func TestDeadline(t *testing.T) {
	t.Run("while queued is definite", func(t *testing.T) {
		p, r := testProposer(t, func(cfg *Config) { cfg.Timing.Write = 100 * time.Millisecond })
		p.setTerm(0)
		var evaluated atomic.Bool
		err := <-do(p, func(*Tx, int) { evaluated.Store(true) })
		if !errors.Is(err, ErrNotApplied) {
			t.Errorf("got %v, want ErrNotApplied", err)
		}
		p.setTerm(1)
		if err := <-do(p, put("k", "1")); err != nil {
			t.Error(err)
		}
		if evaluated.Load() || r.count() != 1 {
			t.Error("an operation was evaluated after Propose had returned")
		}
		if bytes := p.queue.bytes.Load(); bytes != 0 {
			t.Errorf("%d bytes count as queued", bytes)
		}
	})
	t.Run("while in flight is unknown", func(t *testing.T) {
		p, r := testProposer(t, func(cfg *Config) { cfg.Timing.Write = 100 * time.Millisecond })
		r.setHold(true)
		if err := <-do(p, put("k", "1")); !errors.Is(err, ErrUnknown) {
			t.Errorf("got %v, want ErrUnknown", err)
		}
	})
	t.Run("of the context", func(t *testing.T) {
		p, r := testProposer(t, nil)
		r.setHold(true)
		ctx, cancel := context.WithCancel(context.Background())
		flying := make(chan []error, 1)
		go func() { flying <- p.propose(ctx, 1, 1, put("k", "1")) }()
		r.awaitEntry()
		waiting := make(chan []error, 1)
		go func() { waiting <- p.propose(ctx, 1, 1, put("k", "2")) }()
		queued(t, p, 2)
		cancel()
		if err := (<-flying)[0]; !errors.Is(err, ErrUnknown) {
			t.Errorf("in flight: got %v, want ErrUnknown", err)
		}
		if err := (<-waiting)[0]; !errors.Is(err, ErrNotApplied) {
			t.Errorf("queued: got %v, want ErrNotApplied", err)
		}
		r.release(nil)
		if err := <-do(p, func(*Tx, int) {}); err != nil {
			t.Fatal(err)
		}
		if got, _ := r.get("k"); got != "1" {
			t.Errorf("k is %q: the abandoned operation was evaluated", got)
		}
	})
}

func TestFullQueueRefuses(t *testing.T) {
	p, _ := testProposer(t, func(cfg *Config) { cfg.Limits.QueueBytes = 1000 })
	p.setTerm(0) // nothing is taken from the queue
	waiting := make(chan []error, 1)
	go func() { waiting <- p.propose(context.Background(), 1, 900, put("k", "1")) }()
	queued(t, p, 1)
	errs := p.propose(context.Background(), 2, 200, put("k", "2"))
	for _, err := range errs {
		if !errors.Is(err, ErrOverloaded) || !Definite(err) {
			t.Errorf("got %v, want ErrOverloaded", err)
		}
	}
	if len(errs) != 2 {
		t.Errorf("%d errors for 2 operations", len(errs))
	}
	p.setTerm(1)
	if errs := <-waiting; errs != nil {
		t.Error(errs)
	}
	if errs := p.propose(context.Background(), 2, 200, put("k", "2")); errs != nil {
		t.Errorf("there is room again: %v", errs)
	}
}

func TestEntriesAreBounded(t *testing.T) {
	p, r := testProposer(t, func(cfg *Config) { cfg.Limits.EntryBytes = 10_000 })
	r.setHold(true)
	warm := do(p, put("warm", "up"))
	r.awaitEntry()
	var wg sync.WaitGroup
	propose := func(n, size int, name string) {
		wg.Go(func() {
			errs := p.propose(context.Background(), n, int64(n*size), func(tx *Tx, i int) {
				_ = tx.Put([]byte(fmt.Sprint(name, i)), make([]byte, size), 0)
			})
			if errs != nil {
				t.Error(errs)
			}
		})
	}
	propose(100, 1000, "small")
	queued(t, p, 2)
	propose(1, 50_000, "large")
	queued(t, p, 3)
	propose(10, 1000, "more")
	queued(t, p, 4)
	r.release(nil)
	if err := <-warm; err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	large := 0
	for _, e := range r.entries {
		switch {
		case len(e) > 50_000:
			large++
			if len(e) > 50_200 {
				t.Errorf("the large value shares its entry of %d bytes", len(e))
			}
		case len(e) > 11_500:
			t.Errorf("an entry has %d bytes, the limit is 10000", len(e))
		}
	}
	if large != 1 {
		t.Errorf("%d large entries", large)
	}
	if r.store.Len() != 112 {
		t.Errorf("%d keys", r.store.Len())
	}
}

func TestFewEntriesAreInFlight(t *testing.T) {
	p, r := testProposer(t, tinyEntries)
	r.setHold(true)
	var results []chan error
	for i := range 5 {
		results = append(results, do(p, put(fmt.Sprint(i), "x")))
		queued(t, p, i+1)
		p.noteStored()
	}
	r.awaitEntry()
	r.awaitEntry()
	p.noteStored()
	if n := r.count(); n != 2 {
		t.Errorf("%d entries are in flight, the limit is 2", n)
	}
	r.release(nil)
	for _, result := range results {
		if err := <-result; err != nil {
			t.Error(err)
		}
	}
}

// TestSmallWritesShareTheNextEntry: what queues behind an entry in flight shares the next one.
func TestSmallWritesShareTheNextEntry(t *testing.T) {
	p, r := testProposer(t, nil)
	r.setHold(true)
	results := []chan error{do(p, put("first", "x"))}
	r.awaitEntry()
	for i := range 5 {
		results = append(results, do(p, put(fmt.Sprint(i), "x")))
	}
	queued(t, p, 6)
	p.noteStored()
	if n := r.count(); n != 1 {
		t.Errorf("%d entries are in flight, want 1", n)
	}
	r.release(nil)
	for _, result := range results {
		if err := <-result; err != nil {
			t.Error(err)
		}
	}
	if n := p.counters.entries.Load(); n != 2 {
		t.Errorf("%d entries for 6 writes, want 2", n)
	}
}

func TestExpiredKeyIsDeletedByWhoeverSeesIt(t *testing.T) {
	var now atomic.Int64
	now.Store(1_000_000)
	p, r := testProposer(t, func(cfg *Config) { cfg.Engine.Now = func() time.Time { return time.UnixMilli(now.Load()) } })
	err := <-do(p, func(tx *Tx, _ int) { _ = tx.Put([]byte("k"), []byte("v"), tx.Now()+100) })
	if err != nil {
		t.Fatal(err)
	}
	now.Add(200)
	tx := &ReadTx{store: r.store, now: r.store.Now()}
	if _, _, ok, _ := tx.Get([]byte("k")); ok || !tx.SawExpired() {
		t.Errorf("a read of an expired key: found %v, saw expired %v", ok, tx.SawExpired())
	}
	var got string
	if err := <-do(p, func(tx *Tx, _ int) { got = value(tx, "k") }); err != nil {
		t.Fatal(err)
	}
	if got != "(none)" {
		t.Errorf("the expired key has value %q", got)
	}
	now.Add(-150) // the next leader's clock is behind
	if _, ok := r.store.Lookup([]byte("k")); ok {
		t.Error("the key can come back")
	}
	if r.store.Now() < 1_000_200 {
		t.Errorf("time went back to %d", r.store.Now())
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	var now atomic.Int64
	now.Store(5_000)
	p, _ := testProposer(t, func(cfg *Config) { cfg.Engine.Now = func() time.Time { return time.UnixMilli(now.Load()) } })
	last := int64(0)
	for _, clock := range []int64{5_000, 4_000, 6_000, 1_000} {
		now.Store(clock)
		if err := <-do(p, func(tx *Tx, _ int) {
			if tx.Now() < last {
				t.Errorf("time went from %d to %d", last, tx.Now())
			}
			last = tx.Now()
		}); err != nil {
			t.Fatal(err)
		}
	}
	if last != 6_000 {
		t.Errorf("time is %d, want 6000", last)
	}
}

// TestWriteIsNotJudgedByATimeBeforeItsCall: two writes share an entry, and time passes between them. A read that came between
// them has seen the key expire.
func TestWriteIsNotJudgedByATimeBeforeItsCall(t *testing.T) {
	var now atomic.Int64
	now.Store(5_000)
	p, _ := testProposer(t, func(cfg *Config) { cfg.Engine.Now = func() time.Time { return time.UnixMilli(now.Load()) } })
	var second <-chan error
	var judged int64
	first := do(p, func(tx *Tx, _ int) {
		now.Store(5_007)
		second = do(p, func(tx *Tx, _ int) { judged = tx.Now() })
		for p.queue.empty() {
			time.Sleep(time.Millisecond)
		}
	})
	if err := errors.Join(<-first, <-second); err != nil {
		t.Fatal(err)
	}
	if judged != 5_007 {
		t.Errorf("a write that was called at 5007 was judged by the time %d", judged)
	}
}

// TestReadOfSeveralKeysIsJudgedByTheTimeOfItsState: not by one before it, at which a key lived that the state outlives.
func TestReadOfSeveralKeysIsJudgedByTheTimeOfItsState(t *testing.T) {
	var now atomic.Int64
	now.Store(1_000)
	p, r := testProposer(t, func(cfg *Config) { cfg.Engine.Now = func() time.Time { return time.UnixMilli(now.Load()) } })
	if err := <-do(p, func(tx *Tx, _ int) { _ = tx.Put([]byte("k"), []byte("v"), 1_100) }); err != nil {
		t.Fatal(err)
	}
	tx := &ReadTx{store: r.store, now: r.store.Now()}
	now.Store(1_200)
	thaw := tx.Freeze()
	defer thaw()
	if _, _, ok, _ := tx.Get([]byte("k")); ok {
		t.Error("k lives, 100 ms after it expired")
	}
}

func TestPauseWaitsForEntriesInFlight(t *testing.T) {
	p, r := testProposer(t, nil)
	r.setHold(true)
	flying := do(p, put("a", "1"))
	r.awaitEntry()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := p.pause(ctx); err == nil {
		t.Fatal("pause returned with an entry in flight")
	}
	r.release(nil)
	if err := p.pause(context.Background()); err != nil {
		t.Fatal(err)
	}
	waiting := do(p, put("b", "1"))
	queued(t, p, 1)
	if err := <-flying; err != nil {
		t.Error(err)
	}
	if r.count() != 1 {
		t.Error("an entry was proposed during a pause")
	}
	p.resume()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
}

func TestShutdownAnswersEverybody(t *testing.T) {
	noLeaks(t)
	p, r := testProposer(t, nil)
	r.setHold(true)
	flying := do(p, put("a", "1"))
	r.awaitEntry()
	waiting := do(p, put("b", "1"))
	queued(t, p, 2)
	p.shutdown(20 * time.Millisecond) // raft never answers
	if err := <-flying; !errors.Is(err, ErrUnknown) {
		t.Errorf("in flight: %v, want ErrUnknown", err)
	}
	if err := <-waiting; !Definite(err) {
		t.Errorf("queued: %v, want a definite error", err)
	}
	if err := <-do(p, put("c", "1")); !Definite(err) {
		t.Errorf("new: %v, want a definite error", err)
	}
}

func TestConcurrentIncrementsCountExactly(t *testing.T) {
	p, r := testProposer(t, nil)
	const clients, each = 16, 200
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				errs := p.propose(context.Background(), 1, 10, func(tx *Tx, _ int) {
					n, _ := strconv.Atoi(value(tx, "n"))
					_ = tx.Put([]byte("n"), strconv.AppendInt(nil, int64(n+1), 10), 0)
				})
				if errs != nil {
					t.Error(errs)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, _ := r.get("n"); got != strconv.Itoa(clients*each) {
		t.Errorf("n is %s, want %d", got, clients*each)
	}
}

// TestRandomEnds mixes deadlines, cancellations, refusals and changes of term, and checks against the log
// what callers were told: applied means applied once, definite means never.
func TestRandomEnds(t *testing.T) {
	noLeaks(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	p, r := testProposer(t, func(cfg *Config) { cfg.Timing.Write = 20 * time.Millisecond })
	stop := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 1))
		term := uint64(1)
		for {
			select {
			case <-stop:
				r.release(nil)
				return
			case <-time.After(time.Duration(rng.IntN(5)) * time.Millisecond):
			}
			switch rng.IntN(5) {
			case 0:
				r.setHold(true)
			case 1:
				r.release(nil)
			case 2: // the term ends with entries in flight
				r.release(raft.ErrLeadershipLost)
				r.setRefuse(raft.ErrNotLeader)
				p.setTerm(0)
				term++
				r.setTerm(term)
				r.setRefuse(nil)
				p.setTerm(term)
			}
		}
	})
	type op struct {
		key string
		err error
	}
	var opsMu sync.Mutex
	var ops []op
	var applied, definite, unknown atomic.Int64
	outcomes := func() bool { return applied.Load() > 0 && definite.Load() > 0 && unknown.Load() > 0 }
	deadline := time.Now().Add(30 * time.Second) // a slow machine may take long until each has occurred
	var clients sync.WaitGroup
	for c := range 8 {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(c)+2))
			for i := 0; i < 300 || (!outcomes() && time.Now().Before(deadline)); i++ {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(30))*time.Millisecond)
				n := 1 + rng.IntN(3)
				var returned atomic.Bool
				errs := p.propose(ctx, n, int64(n*10), func(tx *Tx, j int) {
					if returned.Load() {
						t.Error("evaluated after Propose had returned")
					}
					_ = tx.Put([]byte(fmt.Sprintf("%d-%d-%d", c, i, j)), []byte("x"), 0)
				})
				returned.Store(true)
				cancel()
				for j := range n {
					o := op{key: fmt.Sprintf("%d-%d-%d", c, i, j)}
					if errs != nil {
						o.err = errs[j]
					}
					switch {
					case o.err == nil:
						applied.Add(1)
					case Definite(o.err):
						definite.Add(1)
					default:
						unknown.Add(1)
					}
					opsMu.Lock()
					ops = append(ops, o)
					opsMu.Unlock()
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	chaos.Wait()
	if err := p.pause(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, o := range ops {
		_, there := r.get(o.key)
		switch {
		case o.err == nil && !there:
			t.Errorf("%s was acknowledged and is lost", o.key)
		case o.err != nil && Definite(o.err) && there:
			t.Errorf("%s was definitely not applied (%v) and is there", o.key, o.err)
		}
	}
	t.Logf("%d applied, %d definitely not, %d unknown", applied.Load(), definite.Load(), unknown.Load())
	if !outcomes() {
		t.Error("not every outcome occurred")
	}
}

func BenchmarkPropose(b *testing.B) {
	p, _ := testProposer(b, nil)
	value := bytes.Repeat([]byte("v"), 256)
	ctx := context.Background()
	b.ReportAllocs()
	b.SetBytes(256)
	var id atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		key := []byte(fmt.Sprintf("key%d", id.Add(1)))
		eval := func(tx *Tx, _ int) { _ = tx.Put(key, value, 0) }
		for pb.Next() {
			if errs := p.propose(ctx, 1, 300, eval); errs != nil {
				b.Fatal(errs)
			}
		}
	})
}
