package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/raftcask/raftcask/client"
)

// A stale read says how old its data is: it has every write that was acknowledged longer ago than that. So it must fit into the
// history of its keys like any other read, if its beginning is moved back by the age that was told. Nothing more is promised,
// in particular no order among stale reads.

const staleKind = "stale read"

// staleAnswer is what a stale read brought: a reply, and how old the data is that it comes from.
type staleAnswer struct {
	reply any
	age   time.Duration
	known bool
}

// staleCaller reads from the data of whichever node it asks. bound is how old that may be, 0 for any age.
type staleCaller interface {
	read(ctx context.Context, bound time.Duration, args []string) (staleAnswer, error)
	close()
}

var errNoAnswer = errors.New("no answer")

func (f *traffic) startStaleReads(ctx context.Context, lastID int, rng *rand.Rand) {
	c, err := client.New(client.Options{Addrs: f.addrs})
	if err != nil {
		f.t.Fatal(err)
	}
	callers := []staleCaller{staleSDK{c}}
	for i, addr := range f.addrs {
		callers = append(callers, staleCommand{newGoRedisCaller(addr)})
		if i == 0 {
			callers = append(callers, &staleMode{rawCaller: rawCaller{addr: f.addrs[len(f.addrs)-1]}})
		}
	}
	for i, c := range callers {
		clientRng := rand.New(rand.NewPCG(rng.Uint64(), uint64(i)))
		f.wg.Go(func() {
			defer c.close()
			for ctx.Err() == nil {
				f.gate.RLock()
				f.readStale(lastID+1+i, c, clientRng)
				f.gate.RUnlock()
				pause(ctx, span(clientRng, 4*pace))
			}
		})
	}
}

// readStale reads once and notes it.
func (f *traffic) readStale(id int, c staleCaller, rng *rand.Rand) {
	var bound time.Duration // any age
	if rng.IntN(2) == 0 {
		bound = time.Duration(1+rng.IntN(2000)) * time.Millisecond
	}
	group := f.group(kinds[0].name, rng)
	args := []string{"GET", group + "-0"}
	if rng.IntN(2) == 0 {
		group = f.group("several keys", rng)
		args = []string{"MGET", group + "-0", group + "-1", group + "-2"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	n := f.counts[staleKind]
	n.sent.Add(1)
	call := f.now()
	a, err := c.read(ctx, bound, args)
	ret := f.now()
	if err != nil {
		n.refused.Add(1)
		return
	}
	n.done.Add(1)
	if err := tooOld(bound, a, time.Duration(ret-call)); err != nil {
		f.lies.add(fmt.Errorf("%q: %w", args, err))
	}
	// An unknown age promises nothing. Old data comes in crowds, from a node that is cut off: reads that all overlap, of which the
	// search for an order would have to try every subset. A few of them tell as much.
	if !a.known || (a.age > oldAge && rng.IntN(oldShare) != 0) {
		return
	}
	f.history.add(group, id, staleInput(args, a, call, ret), a.reply)
}

const (
	oldAge   = 300 * time.Millisecond
	oldShare = 16 // one of so many reads of old data is in the history
)

// staleInput is the read as the history has it.
func staleInput(args []string, a staleAnswer, call, ret int64) opInput {
	in := opInput{args: args, ret: ret} // of an age that is not known: since the beginning
	if a.known {
		in.call = max(call-int64(a.age), 0)
	}
	return in
}

// tooOld is the error of a bounded read that says itself that its data was older than the bound during all of its call.
func tooOld(bound time.Duration, a staleAnswer, took time.Duration) error {
	if bound == 0 {
		return nil
	}
	if !a.known || a.age-took > bound {
		return fmt.Errorf("the data of a read bounded by %v was %v old (known: %t) in a call of %v", bound, a.age, a.known, took)
	}
	return nil
}

// staleSDK uses the SDK's option.
type staleSDK struct{ *client.Client }

func (s staleSDK) read(ctx context.Context, bound time.Duration, args []string) (a staleAnswer, err error) {
	c := s.With(client.Stale(bound).Tell(func(age time.Duration, known bool) { a.age, a.known = age, known }))
	a.reply, err = c.Do(ctx, anys(args)...)
	return a, err
}

func (s staleSDK) close() { _ = s.Close() } // nothing is under way

// staleCommand uses RAFTCASK READ.
type staleCommand struct{ caller }

func (s staleCommand) read(ctx context.Context, bound time.Duration, args []string) (staleAnswer, error) {
	text := "ANY"
	if bound > 0 {
		text = strconv.FormatInt(bound.Milliseconds(), 10)
	}
	got := s.call(ctx, append([]string{"RAFTCASK", "READ", text}, args...))[0]
	pair, ok := got.reply.([]any)
	if got.outcome != acknowledged || !ok || len(pair) != 2 {
		return staleAnswer{}, fmt.Errorf("%w: %v", errNoAnswer, got)
	}
	ms := pair[0].(int64)
	return staleAnswer{reply: pair[1], age: time.Duration(max(ms, 0)) * time.Millisecond, known: ms >= 0}, nil
}

// staleMode sets its connection's mode once, and asks for the age of each read after it.
type staleMode struct {
	rawCaller
	bound time.Duration
}

func (s *staleMode) read(ctx context.Context, bound time.Duration, args []string) (staleAnswer, error) {
	mode := []string{"RAFTCASK", "READMODE", "STALE"}
	if bound > 0 {
		mode = append(mode, strconv.FormatInt(bound.Milliseconds(), 10))
	}
	if bound != s.bound || s.greet == nil {
		s.bound, s.greet = bound, mode
		if s.conn != nil && s.call(ctx, mode)[0] != (answer{acknowledged, "OK"}) {
			s.rawCaller.close()
			return staleAnswer{}, errNoAnswer
		}
	}
	got := s.call(ctx, args)[0]
	if _, isError := got.reply.(redisError); got.outcome != acknowledged || isError {
		return staleAnswer{}, fmt.Errorf("%w: %v", errNoAnswer, got)
	}
	before := s.conn
	told, ok := s.call(ctx, []string{"RAFTCASK", "READMODE"})[0].reply.([]any)
	if !ok || len(told) != 3 || s.conn != before { // another connection knows nothing of the read, which then counts for nothing
		return staleAnswer{}, errNoAnswer
	}
	ms := told[2].(int64)
	return staleAnswer{reply: got.reply, age: time.Duration(max(ms, 0)) * time.Millisecond, known: ms >= 0}, nil
}
