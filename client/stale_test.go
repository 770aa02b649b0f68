package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestStaleReadsOnTheWire(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	ctx := context.Background()
	var age time.Duration
	var known bool
	stale := c.With(Stale(1500 * time.Millisecond).Tell(func(a time.Duration, k bool) { age, known = a, k }))

	f.replies("RAFTCASK", "*2\r\n:7\r\n$1\r\nv\r\n", "*2\r\n:-1\r\n$-1\r\n", "*2\r\n:0\r\n*2\r\n$1\r\na\r\n$-1\r\n", "$1\r\nv\r\n")
	if v, err := stale.Get(ctx, "k"); string(v) != "v" || err != nil || age != 7*time.Millisecond || !known {
		t.Errorf("got %q, %v, age %v (%t)", v, err, age, known)
	}
	if sent := strings.Join(f.last("RAFTCASK"), " "); sent != "RAFTCASK READ 1500 GET k" {
		t.Errorf("sent %q", sent)
	}
	if _, err := c.With(Stale(AnyAge)).Get(ctx, "k"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a key that is not there: %v", err)
	}
	if sent := strings.Join(f.last("RAFTCASK"), " "); sent != "RAFTCASK READ ANY GET k" {
		t.Errorf("sent %q", sent)
	}
	if v, err := stale.MGet(ctx, "a", "b"); err != nil || len(v) == 0 {
		t.Errorf("MGET: %v, %v", v, err)
	}
	if _, err := stale.Get(ctx, "k"); err == nil || !strings.Contains(err.Error(), `GET "k"`) {
		t.Errorf("an answer without an age: %v", err)
	}

	// What writes, and what reads no key, goes as ever; so does the client itself.
	if err := stale.Set(ctx, "k", []byte("w")); err != nil {
		t.Error(err)
	}
	if v, err := c.Get(ctx, "k"); string(v) != "w" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	before := f.count("RAFTCASK")
	for range stale.Scan(ctx, "*") { // the fake does not know it
		break
	}
	if f.count("RAFTCASK") != before || f.count("SCAN") == 0 {
		t.Error("SCAN went to whichever node")
	}
	if _, err := c.Do(ctx, "RAFTCASK", "READMODE", "stale"); err == nil {
		t.Error("the mode of a shared connection was changed")
	}
}

func TestStaleReadsGoToAllNodes(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 3)
	for _, n := range nodes {
		n.answer(func(args []string) string {
			if args[0] == "RAFTCASK" {
				return "*2\r\n:0\r\n$1\r\nv\r\n"
			}
			return serve
		})
	}
	c := newClient(t, nodes)
	stale := c.With(Stale(time.Second))
	for range 9 {
		if _, err := stale.Get(context.Background(), "k"); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range nodes {
		if n.count("RAFTCASK") == 0 {
			t.Errorf("node %d answered none", i)
		}
	}
}
