package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// fakeQuorum is a leader with voters that a test controls.
type fakeQuorum struct {
	mu     sync.Mutex
	term   uint64
	leads  bool
	others []voter
	self   bool
}

func (q *fakeQuorum) leading() (uint64, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.term, q.leads
}

func (q *fakeQuorum) voters() ([]voter, bool) { return q.others, q.self }

func (q *fakeQuorum) set(term uint64, leads bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.term, q.leads = term, leads
}

type reply func(ctx context.Context, round, term uint64) (confirmAnswer, error)

func at(node string, term uint64) reply {
	return func(_ context.Context, round, _ uint64) (confirmAnswer, error) {
		return confirmAnswer{round: round, term: term, node: node}, nil
	}
}

func silent(ctx context.Context, _, _ uint64) (confirmAnswer, error) {
	<-ctx.Done()
	return confirmAnswer{}, ctx.Err()
}

func refused(context.Context, uint64, uint64) (confirmAnswer, error) {
	return confirmAnswer{}, errors.New("connection refused")
}

func testRounds(t *testing.T, q *fakeQuorum, voters map[string]reply) *rounds {
	t.Helper()
	r := newRounds(q, func(ctx context.Context, addr string, req []byte) ([]byte, error) {
		_, id, term, err := decodeConfirm(req)
		if err != nil {
			return nil, err
		}
		a, err := voters[addr](ctx, id, term)
		return encodeConfirmAnswer(a), err
	}, 50*time.Millisecond, &counters{})
	r.start()
	t.Cleanup(r.stop)
	return r
}

func five() *fakeQuorum {
	return &fakeQuorum{term: 7, leads: true, self: true, others: []voter{{"b", "b"}, {"c", "c"}, {"d", "d"}, {"e", "e"}}}
}

func TestRoundNeedsAMajorityOfVotersAtItsTerm(t *testing.T) {
	const term = 7
	b, c, d, e := at("b", term), at("c", term), at("d", term), at("e", term)
	stale := func(context.Context, uint64, uint64) (confirmAnswer, error) {
		return confirmAnswer{round: 0, term: term, node: "c"}, nil // of an earlier round
	}
	for name, c := range map[string]struct {
		voters map[string]reply
		want   error
	}{
		"all agree":                    {map[string]reply{"b": b, "c": c, "d": d, "e": e}, nil},
		"two of four agree":            {map[string]reply{"b": b, "c": c, "d": silent, "e": refused}, nil},
		"one of four agrees":           {map[string]reply{"b": b, "c": refused, "d": silent, "e": refused}, ErrNotConfirmed},
		"nobody answers":               {map[string]reply{"b": silent, "c": silent, "d": silent, "e": silent}, ErrNotConfirmed},
		"a voter is at a higher term":  {map[string]reply{"b": at("b", term+1), "c": silent, "d": silent, "e": silent}, ErrNotLeader},
		"voters are at a lower term":   {map[string]reply{"b": b, "c": at("c", term-1), "d": at("d", term-1), "e": refused}, ErrNotConfirmed},
		"answer of an earlier round":   {map[string]reply{"b": b, "c": stale, "d": refused, "e": refused}, ErrNotConfirmed},
		"another node at the address":  {map[string]reply{"b": b, "c": at("x", term), "d": refused, "e": refused}, ErrNotConfirmed},
		"higher term, and a majority":  {map[string]reply{"b": at("b", term+1), "c": silent, "d": silent, "e": silent}, ErrNotLeader},
		"answers that make no message": {map[string]reply{"b": b, "c": refused, "d": refused, "e": refused}, ErrNotConfirmed},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRounds(t, five(), c.voters)
			if err := r.confirm(context.Background()); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestNonVotersAreNotAsked(t *testing.T) {
	servers := []raft.Server{
		{Suffrage: raft.Voter, ID: "a", Address: "a"}, {Suffrage: raft.Nonvoter, ID: "n", Address: "n"},
		{Suffrage: raft.Voter, ID: "b", Address: "old"}, {Suffrage: raft.Staging, ID: "s", Address: "s"},
	}
	book := &addressBook{}
	book.replace(map[raft.ServerID]raft.ServerAddress{"b": "new"})
	others, self := votersOf(servers, "a", book)
	if len(others) != 1 || others[0] != (voter{"b", "new"}) || !self {
		t.Errorf("others %v, self %v", others, self)
	}
	if _, self := votersOf(servers, "n", book); self {
		t.Error("a non-voter counts itself")
	}
}

func TestLeaderWithoutAVoteDoesNotCountItself(t *testing.T) {
	q := &fakeQuorum{term: 7, leads: true, others: []voter{{"b", "b"}, {"c", "c"}}}
	r := testRounds(t, q, map[string]reply{"b": at("b", 7), "c": refused})
	if err := r.confirm(context.Background()); !errors.Is(err, ErrNotConfirmed) {
		t.Errorf("one of two voters was enough: %v", err)
	}
}

func TestSingleVoterNeedsNobody(t *testing.T) {
	r := testRounds(t, &fakeQuorum{term: 7, leads: true, self: true}, nil)
	if err := r.confirm(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestRoundFailsWhenTheTermChangesMeanwhile(t *testing.T) {
	q := &fakeQuorum{term: 7, leads: true, self: true, others: []voter{{"b", "b"}, {"c", "c"}}}
	answer := func(_ context.Context, round, term uint64) (confirmAnswer, error) {
		q.set(8, true) // lost and regained
		return confirmAnswer{round: round, term: term, node: "b"}, nil
	}
	r := testRounds(t, q, map[string]reply{"b": answer, "c": refused})
	if err := r.confirm(context.Background()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("got %v, want ErrNotLeader", err)
	}
	q.set(9, false)
	if err := r.confirm(context.Background()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("not leading: got %v, want ErrNotLeader", err)
	}
}

// TestReadIsServedByARoundThatBeganAfterIt: a read that arrives during a round waits for the next one, and all
// that wait share it.
func TestReadIsServedByARoundThatBeganAfterIt(t *testing.T) {
	noLeaks(t)
	var mu sync.Mutex
	began := 0
	gate := make(chan struct{})
	answer := func(_ context.Context, round, term uint64) (confirmAnswer, error) {
		mu.Lock()
		began++
		mu.Unlock()
		<-gate
		return confirmAnswer{round: round, term: term, node: "b"}, nil
	}
	q := &fakeQuorum{term: 7, leads: true, self: true, others: []voter{{"b", "b"}}}
	r := testRounds(t, q, map[string]reply{"b": answer})
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return began
	}
	results := make(chan error, 20)
	go func() { results <- r.confirm(context.Background()) }()
	until(t, 5*time.Second, func() error {
		if count() != 1 {
			return errors.New("the first round has not begun")
		}
		return nil
	})
	for range 19 {
		go func() { results <- r.confirm(context.Background()) }()
	}
	until(t, 5*time.Second, func() error {
		if n := r.counters.reads.Load(); n != 20 {
			return fmt.Errorf("%d reads wait", n)
		}
		return nil
	})
	gate <- struct{}{} // the first round ends
	if err := <-results; err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-results:
		t.Fatalf("a second read was served by a round that had begun before it (%v)", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(gate)
	for range 19 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := count(); n > 3 {
		t.Errorf("%d rounds for 20 reads", n)
	}
}

func TestConfirmEndsWithItsContextAndWithTheRounds(t *testing.T) {
	q := &fakeQuorum{term: 7, leads: true, self: true, others: []voter{{"b", "b"}}}
	r := newRounds(q, func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}, time.Minute, &counters{})
	r.start()
	ctx, cancel := context.WithCancel(context.Background())
	results := make(chan error, 3)
	go func() { results <- r.confirm(ctx) }()
	cancel()
	if err := <-results; !errors.Is(err, ErrNotConfirmed) {
		t.Errorf("canceled: %v", err)
	}
	for range 2 {
		go func() { results <- r.confirm(context.Background()) }()
	}
	until(t, 5*time.Second, func() error {
		if r.counters.reads.Load() != 3 {
			return errors.New("the reads have not arrived")
		}
		return nil
	})
	r.stop()
	for range 2 {
		if err := <-results; err == nil {
			t.Error("confirmed by rounds that were stopped")
		}
	}
}

func TestConfirmMessages(t *testing.T) {
	group, id, term, err := decodeConfirm(encodeConfirm(3, 4, 5))
	if err != nil || group != 3 || id != 4 || term != 5 {
		t.Errorf("request: %d %d %d %v", group, id, term, err)
	}
	want := confirmAnswer{round: 1 << 60, term: 9, node: "node-1"}
	if a, err := decodeConfirmAnswer(encodeConfirmAnswer(want)); err != nil || a != want {
		t.Errorf("answer: %+v %v", a, err)
	}
	for _, b := range [][]byte{nil, {1}, encodeConfirm(1, 2, 3)[1:], append(encodeConfirm(1, 2, 3), 0)} {
		if _, _, _, err := decodeConfirm(b); err == nil {
			t.Errorf("request % x was understood", b)
		}
	}
	for _, b := range [][]byte{nil, {1}, make([]byte, 40)} {
		if _, err := decodeConfirmAnswer(b); err == nil {
			t.Errorf("answer % x was understood", b)
		}
	}
}
