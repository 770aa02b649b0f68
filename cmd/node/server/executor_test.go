package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftcask/raftcask/cluster"
	"github.com/raftcask/raftcask/command"
	"github.com/raftcask/raftcask/transport"
)

// fakeGroup is a group over a map. A write is applied when it is proposed.
type fakeGroup struct {
	mu     sync.Mutex
	data   map[string]string
	leads  bool
	leader string // peer address of the leader, "" when none is known
	// fail decides the outcome of operation n (counted over all calls of Propose) of a run.
	fail     func(n int) error
	confirm  func() error
	slow     time.Duration // of a Propose
	proposed int
	rounds   int
	runs     []string // "propose 3", "confirm"
	expired  map[string]bool
}

func newFakeGroup() *fakeGroup {
	return &fakeGroup{data: map[string]string{}, expired: map[string]bool{}, leads: true}
}

func (g *fakeGroup) IsLeader() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.leads }

func (g *fakeGroup) Leader() (id, peer, resp string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return "n9", g.leader, "", g.leader != ""
}

func (g *fakeGroup) Propose(_ context.Context, n int, _ int64, eval func(tx command.Tx, i int)) []error {
	time.Sleep(g.slow)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.runs = append(g.runs, fmt.Sprintf("propose %d", n))
	errs := make([]error, n)
	failed := false
	for i := range n {
		var err error
		if g.fail != nil {
			err = g.fail(g.proposed)
		}
		g.proposed++
		if errs[i] = err; err != nil {
			failed = true
			continue
		}
		eval(&fakeTx{g: g, proposer: true}, i)
	}
	if !failed {
		return nil
	}
	return errs
}

func (g *fakeGroup) ConfirmLeader(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rounds++
	g.runs = append(g.runs, "confirm")
	if g.confirm != nil {
		return g.confirm()
	}
	return nil
}

func (g *fakeGroup) ReadTx() readTx { return &fakeTx{g: g} }

// fakeTx reads and writes the map. A key in expired is seen as such outside the proposer.
type fakeTx struct {
	command.Tx
	g        *fakeGroup
	proposer bool
	sawGone  bool
}

func (tx *fakeTx) Freeze() func()   { return func() {} }
func (tx *fakeTx) Now() int64       { return 1_000_000 }
func (tx *fakeTx) SawExpired() bool { return tx.sawGone }
func (tx *fakeTx) Len() int         { return len(tx.g.data) }
func (tx *fakeTx) Lookup(key []byte) (command.Meta, bool, error) {
	v, m, ok, err := tx.Get(key)
	m.ValueLen = len(v)
	return m, ok, err
}

func (tx *fakeTx) Get(key []byte) ([]byte, command.Meta, bool, error) {
	if tx.g.expired[string(key)] {
		tx.sawGone = true
		if tx.proposer {
			delete(tx.g.expired, string(key))
			delete(tx.g.data, string(key))
		}
		return nil, command.Meta{}, false, nil
	}
	v, ok := tx.g.data[string(key)]
	return []byte(v), command.Meta{ValueLen: len(v)}, ok, nil
}

func (tx *fakeTx) Put(key, value []byte, _ int64) error {
	tx.g.data[string(key)] = string(value)
	return nil
}
func (tx *fakeTx) Delete(key []byte) error { delete(tx.g.data, string(key)); return nil }

// fakePeers is the way to the leader.
type fakePeers struct {
	calls int
	call  func(n int, req []byte) ([]byte, error)
}

func (p *fakePeers) Call(_ context.Context, _ string, _ transport.Kind, _ uint32, req []byte) ([]byte, error) {
	p.calls++
	return p.call(p.calls, req)
}

func newTestExecutor(g *fakeGroup, peers caller) *executor {
	return &executor{
		local:   local{g},
		remote:  remote{group: g, peers: peers},
		metrics: newCommandMetrics(prometheus.NewRegistry()),
	}
}

// calls makes a batch from "SET k v; GET k".
func calls(t testing.TB, script string) []command.Call {
	t.Helper()
	var out []command.Call
	for _, line := range strings.Split(script, ";") {
		args := bytes.Fields([]byte(line))
		spec, ok := command.Find(args[0])
		if !ok || !spec.AcceptsArgs(len(args)) {
			t.Fatalf("no command %q", line)
		}
		out = append(out, command.Call{Spec: spec, Args: args})
	}
	return out
}

// script shows replies as the expectations of the tests write them.
func script(replies []command.Reply) string {
	parts := make([]string, len(replies))
	for i, r := range replies {
		parts[i] = r.String()
		if r.IsErr() {
			parts[i], _, _ = strings.Cut(r.Text(), " ")
		}
	}
	return strings.Join(parts, "; ")
}

func TestBatchKeepsProgramOrder(t *testing.T) {
	for _, tc := range []struct{ batch, replies, runs string }{
		{"SET k 1; GET k; SET k 2; GET k", `OK; "1"; OK; "2"`, "propose 4"},
		{"GET k; STRLEN k", `(nil); (integer) 0`, "confirm"},
		{"SET k 1; DBSIZE; SET j 2; DBSIZE; GET k", `OK; (integer) 1; OK; (integer) 2; "1"`, "propose 1 confirm propose 1 confirm"},
		{"GET k; DBSIZE; GET k; SET k 1", `(nil); (integer) 0; (nil); OK`, "confirm propose 2"},
		{"GET k; SET k 1; GET k", `(nil); OK; "1"`, "propose 3"},
	} {
		g := newFakeGroup()
		got := newTestExecutor(g, nil).Exec(t.Context(), calls(t, tc.batch))
		if script(got) != tc.replies {
			t.Errorf("%s\n got %s\nwant %s", tc.batch, script(got), tc.replies)
		}
		if runs := strings.Join(g.runs, " "); runs != tc.runs {
			t.Errorf("%s: runs %q, want %q", tc.batch, runs, tc.runs)
		}
	}
}

func TestExpiredKeyIsReadThroughTheProposer(t *testing.T) {
	g := newFakeGroup()
	g.data["old"], g.expired["old"] = "x", true
	g.data["k"] = "v"
	got := newTestExecutor(g, nil).Exec(t.Context(), calls(t, "GET k; GET old; GET k; DBSIZE"))
	if want := `"v"; (nil); "v"; (integer) 1`; script(got) != want {
		t.Errorf("got %s, want %s", script(got), want)
	}
	if runs := strings.Join(g.runs, " "); runs != "confirm propose 2 confirm" {
		t.Errorf("runs %q: what follows the expired key must go through the proposer too, as far as it can", runs)
	}
}

func TestOutcomesAreNeverMixedUp(t *testing.T) {
	const at = 1 // the operation that fails
	for _, tc := range []struct {
		name    string
		err     error
		all     bool // every operation from at on fails
		replies string
	}{
		{"unknown", cluster.ErrUnknown, false, "OK; UNKNOWN; OK"},
		{"unknown to the end", cluster.ErrUnknown, true, "OK; UNKNOWN; UNKNOWN"},
		{"refused in the middle", fmt.Errorf("%w: disk full", cluster.ErrNotApplied), false, "OK; ERR; OK"},
		{"refused to the end", cluster.ErrOverloaded, true, "OK; TRYAGAIN; TRYAGAIN"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newFakeGroup()
			g.fail = func(n int) error {
				if n == at || tc.all && n > at {
					return tc.err
				}
				return nil
			}
			got := newTestExecutor(g, nil).Exec(t.Context(), calls(t, "SET a 1; SET b 2; SET c 3"))
			if script(got) != tc.replies {
				t.Errorf("got %s, want %s", script(got), tc.replies)
			}
		})
	}
}

func TestNothingFollowsARefusedCommand(t *testing.T) {
	g := newFakeGroup()
	g.fail = func(int) error { return cluster.ErrOverloaded }
	got := newTestExecutor(g, nil).Exec(t.Context(), calls(t, "SET a 1; DBSIZE; SET b 2"))
	if want := "TRYAGAIN; TRYAGAIN; TRYAGAIN"; script(got) != want {
		t.Errorf("got %s, want %s", script(got), want)
	}
	if g.proposed != 1 {
		t.Errorf("%d operations were proposed, want 1: a library sends this pipeline again", g.proposed)
	}
}

func TestBatchRidesOverAnElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The old leader takes one command and refuses the rest. Then there is no
		// leader for a while, and then this node is the leader.
		g := newFakeGroup()
		g.leads, g.leader = false, "old:1"
		peers := &fakePeers{}
		peers.call = func(n int, req []byte) ([]byte, error) {
			if n == 1 {
				return command.AppendReplies(nil, []command.Reply{command.OK()}), nil
			}
			return nil, fmt.Errorf("dial: %w", transport.ErrNotSent)
		}
		go func() {
			time.Sleep(500 * time.Millisecond)
			g.mu.Lock()
			g.leads = true
			g.mu.Unlock()
		}()
		begin := time.Now()
		got := newTestExecutor(g, peers).Exec(t.Context(), calls(t, "SET a 1; SET b 2; GET b"))
		if want := `OK; OK; "2"`; script(got) != want {
			t.Errorf("got %s, want %s", script(got), want)
		}
		if _, twice := g.data["a"]; twice {
			t.Error("the command that the old leader had taken was executed again")
		}
		if took := time.Since(begin); took > leaderWait {
			t.Errorf("took %s", took)
		}
	})
}

func TestRestGoesToTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup()
		g.fail = func(n int) error {
			if n == 0 {
				return nil
			}
			g.leads, g.leader = false, "n9:1"
			return fmt.Errorf("%w: leadership was lost before the write was proposed", cluster.ErrNotLeader)
		}
		peers := &fakePeers{call: func(_ int, req []byte) ([]byte, error) {
			rest, err := command.ParseCalls(req, len(req))
			if err != nil || len(rest) != 2 || string(rest[0].Args[1]) != "b" {
				t.Errorf("the next leader got %v, %v", rest, err)
			}
			return command.AppendReplies(nil, []command.Reply{command.Int(2), command.Int(3)}), nil
		}}
		got := newTestExecutor(g, peers).Exec(t.Context(), calls(t, "INCR a; INCR b; INCR c"))
		if want := "(integer) 1; (integer) 2; (integer) 3"; script(got) != want {
			t.Errorf("got %s, want %s", script(got), want)
		}
	})
}

func TestNoLeaderIsADefiniteAnswerInTime(t *testing.T) {
	for _, leader := range []string{"", "gone:1"} {
		synctest.Test(t, func(t *testing.T) {
			g := newFakeGroup()
			g.leads, g.leader = false, leader
			peers := &fakePeers{call: func(int, []byte) ([]byte, error) { return nil, transport.ErrNotSent }}
			begin := time.Now()
			got := newTestExecutor(g, peers).Exec(t.Context(), calls(t, "SET a 1; GET a"))
			want := "CLUSTERDOWN; CLUSTERDOWN"
			if leader != "" {
				want = "TRYAGAIN; TRYAGAIN"
			}
			if script(got) != want {
				t.Errorf("leader %q: got %s, want %s", leader, script(got), want)
			}
			if took := time.Since(begin); took > requestBudget {
				t.Errorf("leader %q: took %s, clients give up after 2 s", leader, took)
			}
		})
	}
}

func TestBrokenForwardIsUnknownForWritesOnly(t *testing.T) {
	broken := errors.New("connection reset")
	t.Run("reads are tried again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newFakeGroup()
			g.leads, g.leader = false, "n9:1"
			peers := &fakePeers{call: func(n int, _ []byte) ([]byte, error) {
				if n == 1 {
					return nil, broken
				}
				return command.AppendReplies(nil, []command.Reply{command.Int(1), command.Int(2)}), nil
			}}
			got := newTestExecutor(g, peers).Exec(t.Context(), calls(t, "STRLEN a; STRLEN b"))
			if want := "(integer) 1; (integer) 2"; script(got) != want {
				t.Errorf("got %s, want %s", script(got), want)
			}
		})
	})
	t.Run("writes are not", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newFakeGroup()
			g.leads, g.leader = false, "n9:1"
			peers := &fakePeers{call: func(n int, _ []byte) ([]byte, error) {
				if n == 1 {
					return nil, broken
				}
				return command.AppendReplies(nil, []command.Reply{command.Int(7)}), nil
			}}
			got := newTestExecutor(g, peers).Exec(t.Context(), calls(t, "STRLEN a; INCR a; STRLEN a"))
			// The read before the write cannot be repeated: it could see the write. And its error
			// must not let a library send the pipeline, and with it the INCR, again.
			if want := "ERR; UNKNOWN; (integer) 7"; script(got) != want {
				t.Errorf("got %s, want %s", script(got), want)
			}
			if peers.calls != 2 {
				t.Errorf("%d requests, want 2", peers.calls)
			}
		})
	})
}

func TestForwardedBatchIsNeverForwardedAgain(t *testing.T) {
	g := newFakeGroup()
	g.leads, g.leader = false, "n9:1"
	e := newTestExecutor(g, &fakePeers{call: func(int, []byte) ([]byte, error) {
		t.Error("a forwarded batch was forwarded")
		return nil, transport.ErrNotSent
	}})
	answer, err := e.serveForward(t.Context(), transport.Hello{}, command.AppendCalls(nil, calls(t, "SET a 1")))
	if err != nil {
		t.Fatal(err)
	}
	if replies, err := command.ParseReplies(answer); err != nil || len(replies) != 0 {
		t.Errorf("got %v, %v, want no replies: nothing was executed", replies, err)
	}
}

func TestForwardRefusesWhatItCannotRead(t *testing.T) {
	e := newTestExecutor(newFakeGroup(), nil)
	for _, req := range [][]byte{nil, []byte("junk"), command.AppendCalls(nil, calls(t, "PING"))} {
		if _, err := e.serveForward(t.Context(), transport.Hello{}, req); err == nil {
			t.Errorf("request %q was accepted", req)
		}
	}
	g := newFakeGroup()
	g.leads, g.leader = false, "n9:1"
	peers := &fakePeers{call: func(int, []byte) ([]byte, error) { return nil, &transport.RemoteError{Text: "what?"} }}
	if got := script(newTestExecutor(g, peers).Exec(t.Context(), calls(t, "SET a 1"))); got != "ERR" {
		t.Errorf("got %s, want a definite error", got)
	}
}

// loop joins a follower's executor to a leader's.
func loop(t *testing.T, leader *executor) *fakePeers {
	return &fakePeers{call: func(_ int, req []byte) ([]byte, error) {
		return leader.serveForward(t.Context(), transport.Hello{}, bytes.Clone(req))
	}}
}

func TestLongBatchIsForwardedInParts(t *testing.T) {
	leading := newFakeGroup()
	leader := newTestExecutor(leading, nil)
	follower := newFakeGroup()
	follower.leads, follower.leader = false, "leader:1"
	peers := loop(t, leader)
	value := bytes.Repeat([]byte("x"), 1<<20)
	spec, _ := command.Find([]byte("set"))
	get, _ := command.Find([]byte("get"))
	var batch []command.Call
	for i := range 20 {
		key := fmt.Appendf(nil, "k%d", i)
		batch = append(batch, command.Call{Spec: spec, Args: [][]byte{[]byte("SET"), key, value}})
	}
	for i := range 20 { // the answers are longer than one message may be
		batch = append(batch, command.Call{Spec: get, Args: [][]byte{[]byte("GET"), fmt.Appendf(nil, "k%d", i)}})
	}
	got := newTestExecutor(follower, peers).Exec(t.Context(), batch)
	for i, r := range got {
		if i < 20 && r.Text() != "OK" || i >= 20 && !bytes.Equal(r.Bytes(), value) {
			t.Fatalf("reply %d is wrong: %.40s", i, r.String())
		}
	}
	if peers.calls < 6 {
		t.Errorf("%d requests for 20 MiB, want at least 5 for the writes and 2 for the reads", peers.calls)
	}
}

func TestTooLongAnswerIsReplaced(t *testing.T) {
	big := command.Bulk(make([]byte, maxMessageBytes-1<<20))
	encoded := encodeReplies([]command.Reply{command.OK(), big, command.Int(3)})
	if len(encoded) > maxMessageBytes {
		t.Fatalf("the answer has %d bytes", len(encoded))
	}
	replies, err := command.ParseReplies(encoded)
	if err != nil {
		t.Fatal(err)
	}
	if want := "OK; ERR; (integer) 3"; script(replies) != want {
		t.Errorf("got %s, want %s", script(replies), want)
	}
}

func TestUnconfirmedReadIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup()
		g.data["k"] = "v"
		failures := 3
		g.confirm = func() error {
			if failures--; failures >= 0 {
				return cluster.ErrNotConfirmed
			}
			return nil
		}
		if got := script(newTestExecutor(g, nil).Exec(t.Context(), calls(t, "GET k"))); got != `"v"` {
			t.Errorf("got %s", got)
		}
	})
}

func TestSlowPipelineIsAnsweredInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFakeGroup()
		g.slow = time.Second
		begin := time.Now()
		got := newTestExecutor(g, nil).Exec(t.Context(), calls(t, "SET a 1; DBSIZE; SET b 2; DBSIZE; SET c 3; DBSIZE; SET d 4"))
		// What had not begun in time is refused, as a whole.
		if want := "OK; (integer) 1; OK; TRYAGAIN; TRYAGAIN; TRYAGAIN; TRYAGAIN"; script(got) != want {
			t.Errorf("got %s, want %s", script(got), want)
		}
		if took := time.Since(begin); took > requestBudget+time.Second || g.proposed != 2 {
			t.Errorf("%d writes in %s", g.proposed, took)
		}
	})
}

func TestBudgetGrowsWithTheBatch(t *testing.T) {
	small := budget(calls(t, "SET a 1"))
	spec, _ := command.Find([]byte("set"))
	large := budget([]command.Call{{Spec: spec, Args: [][]byte{nil, nil, make([]byte, 8<<20)}}})
	if small != requestBudget || small >= 2*time.Second || large <= small {
		t.Errorf("small %s, large %s", small, large)
	}
}

// BenchmarkExecOneRead is what the executor itself costs a command.
func BenchmarkExecOneRead(b *testing.B) {
	g := newFakeGroup()
	e := newTestExecutor(g, nil)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	batch := calls(b, "GET k")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			e.Exec(ctx, batch)
		}
		g.mu.Lock()
		g.runs = nil
		g.mu.Unlock()
	})
}
