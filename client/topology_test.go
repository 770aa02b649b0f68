package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

func (c *Client) leader() string {
	c.nodes.mu.Lock()
	defer c.nodes.mu.Unlock()
	return c.nodes.leader
}

func (c *Client) addresses() []string {
	c.nodes.mu.Lock()
	defer c.nodes.mu.Unlock()
	order := slices.Clone(c.nodes.order)
	slices.Sort(order)
	return order
}

func addrs(nodes ...*fakeNode) []string {
	var list []string
	for _, n := range nodes {
		list = append(list, n.addr)
	}
	slices.Sort(list)
	return list
}

func TestLeaderIsPreferred(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 3)
	nodes[2].lead()
	c := newClient(t, nodes)
	if err := c.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the leader to be found", func() bool { return c.leader() == nodes[2].addr })
	for range 20 {
		if _, err := c.Incr(context.Background(), "n"); err != nil {
			t.Fatal(err)
		}
	}
	if got := nodes[2].count("INCR"); got != 20 {
		t.Errorf("%d of 20 writes went to the leader", got)
	}
}

func TestLeaderIsFollowed(t *testing.T) {
	for name, reply := range map[string]string{"no leader": noLeader, "read only": readOnly, "unknown": notKnown, "gone": cut} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			nodes := newCluster(t, 3)
			c := newClient(t, nodes)
			if err := c.Ping(context.Background()); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the first leader to be found", func() bool { return c.leader() == nodes[0].addr })
			nodes[1].lead()
			nodes[0].replies("SET", reply)
			if err := c.Set(context.Background(), "k", nil, RetryUnknown()); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the second leader to be found", func() bool {
				if err := c.Set(context.Background(), "k", nil); err != nil {
					t.Fatal(err)
				}
				return c.leader() == nodes[1].addr
			})
		})
	}
}

func TestMovedNamesTheLeader(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 2)
	nodes[0].store.leader = nil // nobody else tells
	nodes[0].store.nodes = nil
	c := newClient(t, nodes[:1])
	nodes[0].answer(func(args []string) string {
		if args[0] == "INCR" {
			return fmt.Sprintf("-MOVED 866 %s\r\n", nodes[1].addr)
		}
		return serve
	})
	if _, err := c.Incr(context.Background(), "n"); err != nil {
		t.Fatal(err)
	}
	if got := nodes[1].count("INCR"); got != 1 {
		t.Errorf("%d writes reached the node that MOVED named", got)
	}
}

func TestOneAddressIsEnough(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 3)
	nodes[1].lead()
	c := newClient(t, nodes[2:])
	if err := c.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "all nodes to be known", func() bool { return slices.Equal(c.addresses(), addrs(nodes...)) })
	nodes[2].stop()
	nodes[1].stop()
	nodes[0].lead()
	if _, err := c.Incr(context.Background(), "n"); err != nil {
		t.Errorf("with only a learned address left: %v", err)
	}
}

func TestNodesThatLeftAreForgotten(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 4)
	c := newClient(t, nodes[:2])
	if err := c.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "all nodes to be known", func() bool { return slices.Equal(c.addresses(), addrs(nodes...)) })

	// The leader's list is the list. A configured address stays, whatever it says.
	nodes[0].store.mu.Lock()
	nodes[0].store.nodes = []*fakeNode{nodes[0], nodes[2]}
	nodes[0].store.mu.Unlock()
	waitFor(t, "the node that left to be forgotten", func() bool {
		c.nodes.mu.Lock()
		c.nodes.discovered = time.Time{}
		c.nodes.mu.Unlock()
		if err := c.Ping(context.Background()); err != nil {
			t.Fatal(err)
		}
		return slices.Equal(c.addresses(), addrs(nodes[0], nodes[1], nodes[2]))
	})
	waitFor(t, "its connections to be closed", func() bool {
		nodes[3].mu.Lock()
		defer nodes[3].mu.Unlock()
		return len(nodes[3].conns) == 0
	})
}

// An old leader that has not heard of the election yet must not win over the new one, whoever answers first.
func TestHigherTermIsBelieved(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 3)
	nodes[0].answer(func(args []string) string {
		switch args[0] {
		case "ROLE":
			return "*3\r\n$6\r\nmaster\r\n:7\r\n*0\r\n"
		case "INFO":
			return bulk("# Raft\r\nraft_role:leader\r\nraft_term:1\r\n")
		default:
			return serve
		}
	})
	nodes[1].lead()
	for range 20 {
		c := newClient(t, nodes)
		if err := c.Ping(context.Background()); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the discovery to end", func() bool {
			c.nodes.mu.Lock()
			defer c.nodes.mu.Unlock()
			return !c.nodes.discovering
		})
		if got := c.leader(); got != nodes[1].addr {
			t.Fatalf("the leader is %s, want %s", got, nodes[1].addr)
		}
	}
}

func TestRoleAloneIsEnough(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 2)
	for _, n := range nodes {
		n.answer(func(args []string) string {
			if args[0] == "INFO" {
				return "-ERR unknown section\r\n"
			}
			return serve
		})
	}
	c := newClient(t, nodes[1:])
	if err := c.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the leader to be found", func() bool { return c.leader() == nodes[0].addr })
}

func TestManyAddressesAreNotRemembered(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	list := ""
	for i := range 10 * maxNodes {
		list += fmt.Sprintf("127.0.0.1:%d,", 20000+i)
	}
	f.answer(func(args []string) string {
		if args[0] == "INFO" {
			return bulk("raft_role:leader\r\nraft_nodes:" + list)
		}
		return serve
	})
	c := newClient(t, []*fakeNode{f})
	if err := c.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "addresses to be learned", func() bool { return len(c.addresses()) > 1 })
	if got := len(c.addresses()); got > maxNodes {
		t.Errorf("%d addresses are remembered", got)
	}
}

func TestDownNodesAreLeftAlone(t *testing.T) {
	c, err := New(Options{Addrs: []string{"a:1", "b:1", "c:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	top := c.nodes
	top.discovered = time.Now().Add(time.Hour) // no discoveries
	top.leader = "a:1"
	now := time.Now()
	top.nodes["a:1"].downUntil = now.Add(3 * time.Hour)
	top.nodes["b:1"].downUntil = now.Add(time.Hour)
	take := func() string {
		n, err := top.pick()
		if err != nil {
			t.Fatal(err)
		}
		top.release(n)
		return n.addr
	}
	for range 5 {
		if got := take(); got != "c:1" {
			t.Errorf("picked %s, want the only one that is up", got)
		}
	}
	top.nodes["c:1"].downUntil = now.Add(2 * time.Hour)
	if got := take(); got != "b:1" {
		t.Errorf("picked %s, want the one that is back first", got)
	}
	top.nodes["a:1"].downUntil = time.Time{}
	if got := take(); got != "a:1" {
		t.Errorf("picked %s, want the leader", got)
	}
}

func TestBrokenNodeIsLeftAloneForLonger(t *testing.T) {
	c, err := New(Options{Addrs: []string{"a:1", "b:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	top := c.nodes
	top.discovered = time.Now().Add(time.Hour) // no discoveries
	top.leader = "a:1"
	a := top.nodes["a:1"]
	top.report(a, nil, context.DeadlineExceeded, true)
	if !a.downUntil.IsZero() || top.leader != "a:1" {
		t.Error("the impatience of a caller was held against the node")
	}
	for i := range 12 {
		top.report(a, nil, context.DeadlineExceeded, false)
		down, most := time.Until(a.downUntil), min(firstDown<<i, longestDown)
		if down <= 0 || down > most {
			t.Errorf("left alone for %v after failure %d, want %v to %v", down, i+1, most/2, most)
		}
	}
	if top.leader != "" {
		t.Error("the broken node still leads")
	}
	top.report(a, nil, nil, false)
	if !a.downUntil.IsZero() || a.failures != 0 {
		t.Error("an answer did not rehabilitate the node")
	}
}

func TestAddressesAreChecked(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:7379": true, "node-1.example:1": true, "[::1]:7379": true, "host:65535": true,
		"": false, ":7379": false, "host": false, "host:": false, "host:0": false, "host:65536": false, "host:http": false, "::1:7379": false,
	} {
		if got := validAddr(addr); got != want {
			t.Errorf("%q: %t, want %t", addr, got, want)
		}
	}
}

func FuzzInfo(f *testing.F) {
	f.Add("# Raft\r\nraft_role:leader\r\nraft_term:5\r\nraft_leader_addr:a:1\r\nraft_nodes:a:1,b:2\r\n")
	f.Add("raft_leader_addr:\nraft_nodes:,,:\n:::\nraft_role")
	f.Fuzz(func(t *testing.T, text string) {
		var v view
		v.readInfo("self:1", text)
		if v.leader != "" && v.leader != "self:1" && !validAddr(v.leader) {
			t.Errorf("leader %q", v.leader)
		}
		for _, addr := range v.nodes {
			if !validAddr(addr) {
				t.Errorf("node %q", addr)
			}
		}
		if len(v.nodes) > maxNodes {
			t.Errorf("%d nodes", len(v.nodes))
		}
	})
}

func TestOddRolesAreIgnored(t *testing.T) {
	for _, reply := range []any{
		nil, "master", []any{}, []any{int64(1)}, []any{"slave"}, []any{"slave", "", int64(0)},
		[]any{"slave", "host", "7379"}, []any{"slave", int64(1), int64(7379)}, []any{"sentinel"},
	} {
		var v view
		v.readRole("self:1", reply)
		if v.leads || v.leader != "" {
			t.Errorf("%v made %+v", reply, v)
		}
	}
}

func TestConcurrentUseWhileTheClusterChanges(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 3)
	c := newClient(t, nodes[:1])
	stop := make(chan struct{})
	var changes, users sync.WaitGroup
	changes.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
			}
			nodes[i%3].lead()
			nodes[(i+1)%3].cutAll()
			nodes[0].store.mu.Lock()
			nodes[0].store.nodes = []*fakeNode{nodes[i%3], nodes[(i+1)%3]}
			nodes[0].store.mu.Unlock()
			c.nodes.mu.Lock()
			c.nodes.discovered = time.Time{}
			c.nodes.mu.Unlock()
		}
	})
	for range 8 {
		users.Go(func() {
			for range 100 {
				if err := c.Set(context.Background(), "k", []byte("v"), RetryUnknown()); err != nil {
					t.Errorf("set: %v", err)
				}
				if _, err := c.Get(context.Background(), "k"); err != nil {
					t.Errorf("get: %v", err)
				}
			}
		})
	}
	users.Wait()
	close(stop)
	changes.Wait()
}
