package client

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What a script may return instead of a reply.
const (
	serve = "serve" // let the store answer
	hang  = "hang"  // never answer
	cut   = "cut"   // close the connection without an answer
)

// store is what the nodes of a fake cluster have in common.
type store struct {
	mu     sync.Mutex
	data   map[string]string
	leader *fakeNode
	term   int
	nodes  []*fakeNode
}

// fakeNode is a node that is scripted: each command goes to the script, and what that lets through to the store.
type fakeNode struct {
	store *store
	addr  string
	tls   *tls.Config // nil: plain TCP; read by start

	mu       sync.Mutex
	listener net.Listener
	stopped  bool
	conns    map[net.Conn]struct{}
	script   func(args []string) string
	seen     [][]string // commands that reached the script
	hello    string     // reply to HELLO, when not the usual one
	greeting string     // reply to PING, when not the usual one
	running  sync.WaitGroup
}

// newCluster starts n nodes; the first one leads.
func newCluster(t testing.TB, n int) []*fakeNode {
	t.Helper()
	s := &store{data: make(map[string]string), term: 1}
	for range n {
		f := &fakeNode{store: s, addr: "127.0.0.1:0", conns: make(map[net.Conn]struct{})}
		f.start()
		s.nodes = append(s.nodes, f)
		t.Cleanup(f.stop)
	}
	s.leader = s.nodes[0]
	return s.nodes
}

func newFake(t testing.TB) *fakeNode {
	t.Helper()
	return newCluster(t, 1)[0]
}

// start listens on the node's address, the same one each time.
func (f *fakeNode) start() {
	listener, err := net.Listen("tcp", f.addr)
	if err != nil {
		panic(err) // an example has no testing.T
	}
	if f.tls != nil {
		listener = tls.NewListener(listener, f.tls)
	}
	f.mu.Lock()
	f.listener, f.addr, f.stopped = listener, listener.Addr().String(), false
	f.mu.Unlock()
	f.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[conn] = struct{}{}
			if f.stopped { // it was accepted before the listener was closed
				_ = conn.Close()
			}
			f.mu.Unlock()
			f.running.Go(func() { f.serve(conn) })
		}
	})
}

// stop closes everything and waits.
func (f *fakeNode) stop() {
	f.mu.Lock()
	_ = f.listener.Close()
	f.stopped = true
	f.mu.Unlock()
	f.cutAll()
	f.running.Wait()
}

// cutAll closes the connections and goes on accepting.
func (f *fakeNode) cutAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.conns {
		_ = conn.Close()
	}
}

func (f *fakeNode) lead() {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	f.store.leader = f
	f.store.term++
}

// answer sets the script: the n-th call, from 0, of each command the script cares about.
func (f *fakeNode) answer(script func(args []string) string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = script
}

// replies makes the node answer a command with these replies, one after another, and then as usual.
func (f *fakeNode) replies(name string, replies ...string) {
	f.answer(func(args []string) string {
		if args[0] != name || len(replies) == 0 {
			return serve
		}
		reply := replies[0]
		replies = replies[1:]
		return reply
	})
}

// count returns how often a command has reached the node.
func (f *fakeNode) count(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, args := range f.seen {
		if args[0] == name {
			n++
		}
	}
	return n
}

// last returns the last command with this name.
func (f *fakeNode) last(name string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, args := range slices.Backward(f.seen) {
		if args[0] == name {
			return args
		}
	}
	return nil
}

func (f *fakeNode) serve(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		f.mu.Lock()
		delete(f.conns, conn)
		f.mu.Unlock()
	}()
	r := bufio.NewReader(conn)
	for {
		args, err := readCommand(r)
		if err != nil {
			return
		}
		switch reply := f.handle(args); reply {
		case hang:
			_, _ = io.Copy(io.Discard, r) // until somebody closes it
			return
		case cut:
			return
		default:
			if _, err := io.WriteString(conn, reply); err != nil {
				return
			}
		}
	}
}

func (f *fakeNode) handle(args []string) string {
	args[0] = strings.ToUpper(args[0])
	f.mu.Lock()
	f.seen = append(f.seen, args)
	script, hello, greeting := f.script, f.hello, f.greeting
	reply := serve
	if script != nil {
		reply = script(args)
	}
	f.mu.Unlock()
	if reply != serve {
		return reply
	}
	switch args[0] {
	case "HELLO":
		if hello != "" {
			return hello
		}
		return "%1\r\n$5\r\nproto\r\n:3\r\n"
	case "PING":
		if greeting != "" {
			return greeting
		}
		return "+PONG\r\n"
	case "ROLE":
		return f.role()
	case "INFO":
		return f.info()
	}
	return f.store.execute(args)
}

func (f *fakeNode) role() string {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	if f.store.leader == f {
		return "*3\r\n$6\r\nmaster\r\n:7\r\n*0\r\n"
	}
	host, port := "", "0"
	if f.store.leader != nil {
		host, port, _ = net.SplitHostPort(f.store.leader.addr)
	}
	return fmt.Sprintf("*5\r\n$5\r\nslave\r\n%s:%s\r\n$9\r\nconnected\r\n:7\r\n", bulk(host), port)
}

func (f *fakeNode) info() string {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	role, leader := "follower", ""
	if f.store.leader != nil {
		leader = f.store.leader.addr
	}
	if f.store.leader == f {
		role = "leader"
	}
	addrs := make([]string, len(f.store.nodes))
	for i, n := range f.store.nodes {
		addrs[i] = n.addr
	}
	return bulk(fmt.Sprintf("# Raft\r\nraft_role:%s\r\nraft_term:%d\r\nraft_leader_addr:%s\r\nraft_nodes:%s\r\n",
		role, f.store.term, leader, strings.Join(addrs, ",")))
}

// execute is the little that the tests need of a store.
func (s *store) execute(args []string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch args[0] {
	case "GET":
		if value, ok := s.data[args[1]]; ok {
			return bulk(value)
		}
		return "_\r\n"
	case "SET":
		_, exists := s.data[args[1]]
		if (slices.Contains(args[3:], "NX") && exists) || (slices.Contains(args[3:], "XX") && !exists) {
			return "_\r\n"
		}
		s.data[args[1]] = args[2]
		return "+OK\r\n"
	case "DEL":
		n := 0
		for _, key := range args[1:] {
			if _, ok := s.data[key]; ok {
				n++
				delete(s.data, key)
			}
		}
		return fmt.Sprintf(":%d\r\n", n)
	case "INCR":
		n, err := strconv.Atoi(s.data[args[1]])
		if err != nil && s.data[args[1]] != "" {
			return "-ERR value is not an integer or out of range\r\n"
		}
		s.data[args[1]] = strconv.Itoa(n + 1)
		return fmt.Sprintf(":%d\r\n", n+1)
	case "CLIENT":
		return "+OK\r\n"
	default:
		return fmt.Sprintf("-ERR unknown command '%s'\r\n", args[0])
	}
}

func (s *store) get(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data[key]
}

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }

func readCommand(r *bufio.Reader) ([]string, error) {
	var count, size int
	if _, err := fmt.Fscanf(r, "*%d\r\n", &count); err != nil {
		return nil, err
	}
	args := make([]string, count)
	for i := range args {
		if _, err := fmt.Fscanf(r, "$%d\r\n", &size); err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		args[i] = string(b[:size])
	}
	return args, nil
}

// newClient connects to nodes with short time limits.
func newClient(t testing.TB, nodes []*fakeNode, change ...func(*Options)) *Client {
	t.Helper()
	opts := Options{Timeout: 20 * time.Second}
	for _, n := range nodes {
		opts.Addrs = append(opts.Addrs, n.addr)
	}
	for _, c := range change {
		c(&opts)
	}
	c, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

func waitFor(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// checkLeaks fails the test when goroutines of this package or of go-redis outlive its clean-up. Call it first.
func checkLeaks(t testing.TB) {
	t.Helper()
	before := goroutines()
	t.Cleanup(func() {
		deadline := time.Now().Add(10 * time.Second)
		for {
			var left []string
			for id, stack := range goroutines() {
				if _, ok := before[id]; !ok {
					left = append(left, stack)
				}
			}
			if len(left) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}

func goroutines() map[string]string {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	found := make(map[string]string)
	for _, stack := range bytes.Split(buf, []byte("\n\n")) {
		s := string(stack)
		if !strings.Contains(s, "raftcask/client") && !strings.Contains(s, "go-redis") {
			continue
		}
		if id, _, ok := strings.Cut(s, " ["); ok && !strings.Contains(s, "testing.tRunner") {
			found[id] = s
		}
	}
	return found
}
