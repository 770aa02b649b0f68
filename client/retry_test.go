package client

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	tryAgain   = "-TRYAGAIN not applied: the queue is full\r\n"
	noLeader   = "-CLUSTERDOWN not applied: no leader is known\r\n"
	notKnown   = "-UNKNOWN the write may or may not have been applied: leadership was lost\r\n"
	readOnly   = "-READONLY You can't write against a read only replica.\r\n"
	loadingNow = "-LOADING the node is replaying its log\r\n"
)

func TestWriteThatWasNotAppliedIsTriedAgain(t *testing.T) {
	for _, reply := range []string{tryAgain, noLeader, readOnly, loadingNow, "-MOVED 0 :0\r\n"} {
		t.Run(code(reply[1:]), func(t *testing.T) {
			checkLeaks(t)
			f := newFake(t)
			f.replies("INCR", reply, reply, reply)
			n, err := newClient(t, []*fakeNode{f}).Incr(context.Background(), "n")
			if n != 1 || err != nil {
				t.Errorf("got %d, %v", n, err)
			}
			if got := f.count("INCR"); got != 4 {
				t.Errorf("sent %d times, want 4", got)
			}
		})
	}
}

func TestOtherErrorsAreFinal(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	for _, text := range []string{"ERR value is not an integer", "WRONGTYPE no", "OOM no room", "NOPERM no", "TRYAGAINST nothing", "ERR TRYAGAIN"} {
		before := f.count("INCR")
		f.replies("INCR", "-"+text+"\r\n")
		_, err := c.Incr(context.Background(), "n")
		var answer *ServerError
		if !errors.As(err, &answer) || answer.Text != text || answer.Code() != code(text) {
			t.Errorf("%s: got %v", text, err)
		}
		if errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrNotApplied) {
			t.Errorf("%s: %v is something else too", text, err)
		}
		if got := f.count("INCR") - before; got != 1 {
			t.Errorf("%s: sent %d times, want once", text, got)
		}
	}
}

// The heart of the package: what may have been applied is never sent a second time by itself.
func TestWriteWithUnknownOutcomeIsSentOnce(t *testing.T) {
	for name, reply := range map[string]string{"answered UNKNOWN": notKnown, "cut": cut, "no answer": hang, "garbage": "what?\r\n"} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			nodes := newCluster(t, 3)
			var mu sync.Mutex
			writes := 0
			for _, n := range nodes {
				n.answer(func(args []string) string {
					if args[0] != "INCR" {
						return serve
					}
					mu.Lock()
					writes++
					mu.Unlock()
					return reply
				})
			}
			c := newClient(t, nodes, func(o *Options) { o.AttemptTimeout = 200 * time.Millisecond })
			// An option for what can be repeated changes nothing for what cannot.
			for i, variant := range []*Client{c, c.With(RetryUnknown())} {
				_, err := variant.Incr(context.Background(), "n")
				var lost *UnknownError
				if !errors.As(err, &lost) || !errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrNotApplied) {
					t.Errorf("got %v, want an UnknownError", err)
				}
				if err != nil && !strings.Contains(err.Error(), `INCR "n" may or may not have been applied`) {
					t.Errorf("the error does not say it: %v", err)
				}
				mu.Lock()
				if writes != i+1 {
					t.Errorf("sent %d times by %d calls", writes, i+1)
				}
				mu.Unlock()
			}
		})
	}
}

func TestConditionalSetIsNotRepeated(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	for _, condition := range []SetOption{IfAbsent(), IfPresent(), IfEquals(nil)} {
		before := f.count("SET")
		f.replies("SET", notKnown)
		if err := c.Set(context.Background(), "k", nil, condition, RetryUnknown()); !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("got %v", err)
		}
		if got := f.count("SET") - before; got != 1 {
			t.Errorf("sent %d times", got)
		}
	}
}

func TestRetryUnknownRepeatsWhatSets(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	ctx := context.Background()
	variant := c.With(RetryUnknown())
	for name, call := range map[string]func() error{
		"SET":     func() error { return c.Set(ctx, "k", []byte("v"), RetryUnknown()) },
		"DEL":     func() error { _, err := variant.Delete(ctx, "k"); return err },
		"MSET":    func() error { return variant.MSet(ctx, map[string][]byte{"k": nil}) },
		"PEXPIRE": func() error { return variant.Expire(ctx, "k", time.Second) },
		"PERSIST": func() error { _, err := variant.Persist(ctx, "k"); return err },
	} {
		before := f.count(name)
		replies := []string{notKnown, cut, ":1\r\n"}
		f.replies(name, replies...)
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := f.count(name) - before; got != len(replies) {
			t.Errorf("%s: sent %d times, want %d", name, got, len(replies))
		}
	}
}

// Once a try may have been applied, no later refusal makes the write a certain "no".
func TestRepeatedWriteStaysUnknown(t *testing.T) {
	for name, later := range map[string]string{"refused for a while": tryAgain, "refused for good": "-ERR no\r\n"} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			f := newFake(t)
			first := true
			f.answer(func(args []string) string {
				if args[0] != "SET" {
					return serve
				}
				if first {
					first = false
					return notKnown
				}
				return later
			})
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			err := newClient(t, []*fakeNode{f}).Set(ctx, "k", nil, RetryUnknown())
			if !errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrNotApplied) || !strings.Contains(err.Error(), "leadership was lost") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestReadIsTriedUntilAnswered(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f}, func(o *Options) { o.AttemptTimeout = 100 * time.Millisecond })
	if err := c.Set(context.Background(), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	replies := []string{cut, hang, tryAgain, noLeader, notKnown, "nonsense\r\n", cut}
	f.replies("GET", replies...)
	value, err := c.Get(context.Background(), "k")
	if err != nil || string(value) != "v" {
		t.Errorf("got %q, %v", value, err)
	}
	if got := f.count("GET"); got != len(replies)+1 {
		t.Errorf("sent %d times, want %d", got, len(replies)+1)
	}
}

// Under cuts, refusals and leader changes every write that was acknowledged counts once, and none counts twice.
func TestCountsAreExactUnderFaults(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 3)
	var mu sync.Mutex
	step := 0
	for _, n := range nodes {
		n.answer(func(args []string) string {
			if args[0] != "INCR" {
				return serve
			}
			mu.Lock()
			defer mu.Unlock()
			step++
			switch step % 11 {
			case 0:
				return tryAgain
			case 1:
				return noLeader
			case 2:
				n.store.execute(args) // applied, and the answer lost
				return cut
			case 3:
				return notKnown
			case 4:
				return cut
			default:
				return serve
			}
		})
	}
	c := newClient(t, nodes)
	stop := make(chan struct{})
	var faults, writers sync.WaitGroup
	faults.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				nodes[i%3].lead()
			}
		}
	})
	acked, lost := 0, 0
	for range 16 {
		writers.Go(func() {
			for range 50 {
				_, err := c.Incr(context.Background(), "n")
				mu.Lock()
				switch {
				case err == nil:
					acked++
				case errors.Is(err, ErrOutcomeUnknown):
					lost++
				default:
					t.Errorf("incr: %v", err)
				}
				mu.Unlock()
			}
		})
	}
	writers.Wait()
	close(stop)
	faults.Wait()
	got := 0
	for _, d := range nodes[0].store.get("n") {
		got = 10*got + int(d-'0')
	}
	if got < acked || got > acked+lost {
		t.Errorf("%d were acknowledged and %d are unknown, but %d were counted", acked, lost, got)
	}
	if acked+lost != 800 || lost == 0 {
		t.Errorf("%d acknowledged, %d unknown, of 800", acked, lost)
	}
}
