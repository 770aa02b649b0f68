package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestBatchKeepsOrderAndOutcomes(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	var b Batch
	b.Set("k", []byte("1"))
	b.Get("k")
	b.Set("k", []byte("2"), IfAbsent())
	b.Do("INCR", "k")
	b.Get("none")
	b.Delete("k", "none")
	b.Get("k")
	results, err := c.Run(context.Background(), &b)
	if err != nil || len(results) != b.Len() {
		t.Fatalf("%d results, %v", len(results), err)
	}
	if err := results[0].OK(); err != nil {
		t.Errorf("set: %v", err)
	}
	if v, err := results[1].Bytes(); err != nil || string(v) != "1" {
		t.Errorf("get after set: %q, %v", v, err)
	}
	if err := results[2].OK(); !errors.Is(err, ErrConditionFailed) {
		t.Errorf("conditional set: %v", err)
	}
	if n, err := results[3].Int(); err != nil || n != 2 {
		t.Errorf("incr: %d, %v", n, err)
	}
	if _, err := results[4].Bytes(); !errors.Is(err, ErrNotFound) {
		t.Errorf("get of nothing: %v", err)
	}
	if n, err := results[5].Int(); err != nil || n != 1 {
		t.Errorf("delete: %d, %v", n, err)
	}
	if _, err := results[6].Bytes(); !errors.Is(err, ErrNotFound) {
		t.Errorf("get after delete: %v", err)
	}
}

func TestBatchReportsEachError(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	var b Batch
	b.Set("k", []byte("text"))
	b.IncrBy("k", 1)
	b.Append("k", []byte("x"))
	b.Get("k")
	f.replies("INCRBY", "-ERR value is not an integer or out of range\r\n")
	results, err := c.Run(context.Background(), &b)
	var answer *ServerError
	if !errors.As(err, &answer) || !errors.As(results[1].Err, &answer) {
		t.Errorf("got %v, %v", err, results[1].Err)
	}
	if v, err := results[3].Bytes(); err != nil || string(v) != "text" {
		t.Errorf("the command after the failed ones: %q, %v", v, err)
	}
	if _, err := results[3].Int(); err == nil {
		t.Error("a value was taken for a number")
	}
	if _, err := (Result{Value: int64(1)}).Bytes(); err == nil {
		t.Error("a number was taken for a value")
	}
}

// Only the end of a batch is sent again: the settled part must not be passed by what comes before it.
func TestBatchRetriesOnlyItsEnd(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	var b Batch
	for _, key := range []string{"a", "b", "c", "d"} {
		b.Do("INCR", key)
	}
	// a refused for now, b applied, c and d refused for now: c and d are sent again, a is not.
	f.replies("INCR", tryAgain, serve, noLeader, tryAgain, tryAgain, noLeader)
	results, err := c.Run(context.Background(), &b)
	if !errors.Is(err, ErrNotApplied) || !errors.Is(results[0].Err, ErrNotApplied) {
		t.Errorf("the first command: %v, %v", err, results[0].Err)
	}
	for i, r := range results[1:] {
		if n, err := r.Int(); n != 1 || err != nil {
			t.Errorf("command %d: %d, %v", i+1, n, err)
		}
	}
	for key, want := range map[string]string{"a": "", "b": "1", "c": "1", "d": "1"} {
		if got := f.store.get(key); got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
}

// What follows a write with an unknown outcome is not sent again either: that write may still come through, and
// would overtake it.
func TestBatchStopsAtAnUnknownWrite(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	var b Batch
	b.Do("INCR", "a")
	b.Do("INCR", "b")
	b.Get("a")
	b.Set("c", nil)
	f.answer(func(args []string) string {
		switch {
		case args[0] == "INCR" && args[1] == "b":
			return notKnown
		case args[0] == "SET":
			return tryAgain
		default:
			return serve
		}
	})
	results, err := c.Run(context.Background(), &b)
	if n, e := results[0].Int(); n != 1 || e != nil {
		t.Errorf("before it: %d, %v", n, e)
	}
	if !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(results[1].Err, ErrOutcomeUnknown) {
		t.Errorf("the write: %v, %v", err, results[1].Err)
	}
	if v, e := results[2].Bytes(); e != nil || string(v) != "1" {
		t.Errorf("the read after it: %q, %v", v, e)
	}
	if e := results[3].Err; !errors.Is(e, ErrNotApplied) {
		t.Errorf("the write after it: %v", e)
	}
	if got := f.count("SET"); got != 1 {
		t.Errorf("the write after it was sent %d times", got)
	}
}

func TestBrokenBatchIsUnknownAsFarAsItWasSent(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	var b Batch
	b.Do("INCR", "a")
	b.Do("INCR", "b")
	b.Get("a")
	cutAt := 2 // the second INCR is read and not answered
	f.answer(func(args []string) string {
		if args[0] == "INCR" {
			if cutAt--; cutAt == 0 {
				return cut
			}
		}
		return serve
	})
	results, err := c.Run(context.Background(), &b)
	if n, e := results[0].Int(); n != 1 || e != nil {
		t.Errorf("the answered write: %d, %v", n, e)
	}
	if !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(results[1].Err, ErrOutcomeUnknown) {
		t.Errorf("the write that was cut: %v", results[1].Err)
	}
	// A read changes nothing, but its answer from later would not belong to this place any more than to another.
	if _, e := results[2].Bytes(); !errors.Is(e, ErrUnavailable) {
		t.Errorf("the read after it: %v", e)
	}
	if f.store.get("a") != "1" {
		t.Errorf("a = %s", f.store.get("a"))
	}
}

func TestBatchThatNeverLeftIsSentAgain(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 2)
	nodes[1].lead()
	nodes[0].stop()
	c := newClient(t, nodes)
	for range 10 {
		var b Batch
		b.IncrBy("none", 1) // the store does not know it: a definite answer
		b.Do("INCR", "n")
		results, err := c.Run(context.Background(), &b)
		var answer *ServerError
		if !errors.As(err, &answer) {
			t.Fatalf("got %v", err)
		}
		if _, err := results[1].Int(); err != nil {
			t.Fatal(err)
		}
	}
	if got := nodes[1].store.get("n"); got != "10" {
		t.Errorf("10 batches counted to %s", got)
	}
}

func TestBatchIsBounded(t *testing.T) {
	c, err := New(Options{Addrs: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var b Batch
	if results, err := c.Run(context.Background(), &b); len(results) != 0 || err != nil {
		t.Errorf("an empty batch: %v, %v", results, err)
	}
	for range maxBatch + 1 {
		b.Get("k")
	}
	if _, err := c.Run(context.Background(), &b); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("got %v", err)
	}
}

func TestLargeBatchPasses(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var b Batch
	for range maxBatch / 2 {
		b.Set("k", make([]byte, 500))
		b.Get("k")
	}
	results, err := c.Run(ctx, &b)
	if err != nil || len(results) != maxBatch {
		t.Fatalf("%d results, %v", len(results), err)
	}
}
