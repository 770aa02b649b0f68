package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCommandsOnTheWire(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	ctx := context.Background()
	tests := []struct {
		call  func() (any, error)
		sent  string // space between arguments
		reply string
		want  any
		err   error
	}{
		{func() (any, error) { v, err := c.Get(ctx, "k"); return string(v), err }, "GET k", "$2\r\n\r\n\r\n", "\r\n", nil},
		{func() (any, error) { v, err := c.Get(ctx, "k"); return string(v), err }, "GET k", "_\r\n", "", ErrNotFound},
		{func() (any, error) { v, err := c.Get(ctx, "k"); return string(v), err }, "GET k", "$-1\r\n", "", ErrNotFound},
		{func() (any, error) { v, err := c.Get(ctx, "k"); return v != nil, err }, "GET k", "$0\r\n\r\n", true, nil},
		{func() (any, error) { return nil, c.Set(ctx, "k", []byte("v")) }, "SET k v", "+OK\r\n", nil, nil},
		{func() (any, error) { return nil, c.Set(ctx, "k", nil, WithTTL(1500*time.Microsecond)) }, "SET k  PX 2", "+OK\r\n", nil, nil},
		{func() (any, error) { return nil, c.Set(ctx, "k", []byte("new"), IfEquals([]byte("old"))) }, "SET k new IFEQ old", "+OK\r\n", nil, nil},
		{func() (any, error) { return nil, c.Set(ctx, "k", nil, IfAbsent(), KeepTTL()) }, "SET k  KEEPTTL NX", "+OK\r\n", nil, nil},
		{func() (any, error) { return nil, c.Set(ctx, "k", nil, IfPresent()) }, "SET k  XX", "_\r\n", nil, ErrConditionFailed},
		{func() (any, error) { return c.Delete(ctx, "a", "b") }, "DEL a b", ":2\r\n", int64(2), nil},
		{func() (any, error) { return c.Exists(ctx, "a", "b") }, "EXISTS a b", ":1\r\n", int64(1), nil},
		{func() (any, error) { return c.Incr(ctx, "n") }, "INCR n", ":5\r\n", int64(5), nil},
		{func() (any, error) { return c.IncrBy(ctx, "n", -3) }, "INCRBY n -3", ":2\r\n", int64(2), nil},
		{func() (any, error) { return c.Append(ctx, "k", []byte("x")) }, "APPEND k x", ":7\r\n", int64(7), nil},
		{func() (any, error) { return nil, c.Expire(ctx, "k", time.Minute) }, "PEXPIRE k 60000", ":1\r\n", nil, nil},
		{func() (any, error) { return nil, c.Expire(ctx, "k", time.Minute) }, "PEXPIRE k 60000", ":0\r\n", nil, ErrNotFound},
		{func() (any, error) { return c.TTL(ctx, "k") }, "PTTL k", ":1500\r\n", 1500 * time.Millisecond, nil},
		{func() (any, error) { return c.TTL(ctx, "k") }, "PTTL k", ":-1\r\n", NoTTL, nil},
		{func() (any, error) { return c.TTL(ctx, "k") }, "PTTL k", ":-2\r\n", time.Duration(0), ErrNotFound},
		{func() (any, error) { v, err := c.TTL(ctx, "k"); return v > 0, err }, "PTTL k", fmt.Sprintf(":%d\r\n", math.MaxInt64), true, nil},
		{func() (any, error) { return c.Persist(ctx, "k") }, "PERSIST k", ":1\r\n", true, nil},
		{func() (any, error) { return c.Persist(ctx, "k") }, "PERSIST k", ":0\r\n", false, nil},
		{func() (any, error) { return nil, c.MSet(ctx, map[string][]byte{"b": []byte("2"), "a": []byte("1")}) }, "MSET a 1 b 2", "+OK\r\n", nil, nil},
		{func() (any, error) { return c.Len(ctx) }, "DBSIZE", ":9\r\n", int64(9), nil},
		{func() (any, error) { return nil, c.Flush(ctx) }, "FLUSHALL", "+OK\r\n", nil, nil},
		{func() (any, error) { return nil, c.Ping(ctx) }, "PING", "+PONG\r\n", nil, nil},
		{func() (any, error) { return c.Do(ctx, "getrange", []byte("k"), 0, int64(-1)) }, "GETRANGE k 0 -1", "$1\r\nx\r\n", "x", nil},
		{func() (any, error) { return c.Do(ctx, "INCRBYFLOAT", "k", 1.5) }, "INCRBYFLOAT k 1.5", ",2.5\r\n", 2.5, nil},
		{func() (any, error) { return c.Do(ctx, "OBJECT", "ENCODING", "k") }, "OBJECT ENCODING k", "_\r\n", nil, nil},
	}
	for _, test := range tests {
		name, _, _ := strings.Cut(test.sent, " ")
		f.replies(name, test.reply)
		got, err := test.call()
		if got != test.want || !errors.Is(err, test.err) {
			t.Errorf("%s answered with %q: got %v, %v, want %v, %v", test.sent, test.reply, got, err, test.want, test.err)
		}
		if sent := strings.Join(f.last(name), " "); sent != test.sent {
			t.Errorf("sent %q, want %q", sent, test.sent)
		}
	}
}

func TestMGetKeepsTheOrder(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	f.replies("MGET", "*3\r\n$1\r\n1\r\n_\r\n$0\r\n\r\n")
	values, err := c.MGet(context.Background(), "a", "b", "c")
	if err != nil || len(values) != 3 || string(values[0]) != "1" || values[1] != nil || values[2] == nil {
		t.Errorf("got %q, %v", values, err)
	}
	f.replies("MGET", "*1\r\n_\r\n")
	if values, err := c.MGet(context.Background(), "a", "b"); err == nil {
		t.Errorf("2 keys and 1 answer: %q", values)
	}
}

func TestScanGoesThroughAllPages(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	pages := []string{
		"*2\r\n$2\r\n17\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n", noLeader, "*2\r\n$3\r\n170\r\n*0\r\n", cut, "*2\r\n$1\r\n0\r\n*1\r\n$1\r\nc\r\n",
	}
	collect := func(match string) (keys []string, err error) {
		for key, e := range c.Scan(context.Background(), match) {
			if e != nil {
				return keys, e
			}
			keys = append(keys, key)
		}
		return keys, nil
	}
	f.replies("SCAN", pages...)
	keys, err := collect("x*")
	if err != nil || !slices.Equal(keys, []string{"a", "b", "c"}) {
		t.Errorf("got %q, %v", keys, err)
	}
	if got, want := strings.Join(f.last("SCAN"), " "), "SCAN 170 COUNT 500 MATCH x*"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
	f.replies("SCAN", pages[0], "-ERR invalid cursor\r\n")
	var answer *ServerError
	if keys, err := collect(""); !errors.As(err, &answer) || len(keys) != 2 {
		t.Errorf("an error on the second page: %q, %v", keys, err)
	}
	for _, odd := range []string{"+OK\r\n", "*1\r\n*0\r\n", "*2\r\n:0\r\n*0\r\n", "*2\r\n$1\r\n0\r\n*1\r\n:5\r\n"} {
		f.replies("SCAN", odd)
		if keys, err := collect(""); err == nil {
			t.Errorf("%q was understood as %q", odd, keys)
		}
	}
	f.replies("SCAN", pages[0])
	for range c.Scan(context.Background(), "") {
		break // must not go on by itself
	}
}

func TestMistakesAreFoundBeforeSending(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	ctx := context.Background()
	do := func(args ...any) func() error { return func() error { _, err := c.Do(ctx, args...); return err } }
	for name, call := range map[string]func() error{
		"two conditions":  func() error { return c.Set(ctx, "k", nil, IfEquals(nil), IfPresent()) },
		"both conditions": func() error { return c.Set(ctx, "k", nil, IfAbsent(), IfPresent()) },
		"two lifetimes":   func() error { return c.Set(ctx, "k", nil, WithTTL(time.Second), KeepTTL()) },
		"no lifetime":     func() error { return c.Set(ctx, "k", nil, WithTTL(0)) },
		"expired":         func() error { return c.Expire(ctx, "k", -time.Second) },
		"no command":      do(),
		"odd argument":    do("SET", "k", struct{}{}),
		"transaction":     do("multi"),
		"subscription":    do("SUBSCRIBE", "c"),
		"other database":  do("SELECT", 1),
		"no replies":      do("client", "reply", "off"),
		"stale reads":     do("READONLY"),
		"batch": func() error {
			var b Batch
			b.Set("a", nil)
			b.Expire("k", 0)
			b.Do("MULTI")
			results, err := c.Run(ctx, &b)
			if results != nil {
				t.Errorf("results of a batch that was not sent: %v", results)
			}
			return err
		},
	} {
		err := call()
		if err == nil || errors.Is(err, ErrNotApplied) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, command := range []string{"SET", "PEXPIRE", "MULTI", "SUBSCRIBE", "SELECT", "READONLY"} {
		if f.count(command) > 0 {
			t.Errorf("%s was sent", command)
		}
	}
	if err := do("CLIENT", "SETINFO", "LIB-NAME", "x")(); err != nil {
		t.Errorf("a harmless CLIENT command: %v", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, opts := range map[string]Options{
		"no address":       {},
		"bad address":      {Addrs: []string{"localhost"}},
		"too many":         {Addrs: make([]string, maxNodes+1)},
		"negative timeout": {Addrs: []string{"a:1"}, Timeout: -1},
		"negative attempt": {Addrs: []string{"a:1"}, AttemptTimeout: -1},
		"negative dial":    {Addrs: []string{"a:1"}, DialTimeout: -1},
		"negative pool":    {Addrs: []string{"a:1"}, PoolSize: -1},
	} {
		if c, err := New(opts); err == nil {
			t.Errorf("%s: accepted", name)
			_ = c.Close()
		}
	}
}

func TestErrorsNameLongKeysShortly(t *testing.T) {
	r := request{name: "SET", args: []any{strings.Repeat("k", 1000), "secret"}}
	if text := r.describe(); len(text) > 100 || strings.Contains(text, "secret") {
		t.Errorf("described as %q", text)
	}
}

func BenchmarkGet(b *testing.B) {
	f := newFake(b)
	f.store.data["k"] = "value"
	c := newClient(b, []*fakeNode{f})
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Get(ctx, "k"); err != nil {
			b.Fatal(err)
		}
	}
}
