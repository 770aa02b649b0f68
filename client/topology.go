package client

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxNodes = 64 // addresses the client remembers; a cluster has 3 to 9 nodes

	discoverEvery   = 5 * time.Second        // while the client is in use and knows the leader
	discoverSoon    = 50 * time.Millisecond  // after a failure, or while it knows no leader
	discoverTimeout = time.Second            // for one node's answer
	firstDown       = 100 * time.Millisecond // a node that broke is left alone so long, doubling
	longestDown     = 5 * time.Second
)

// topology knows the nodes and which of them leads. It is a guess: the nodes forward what reaches the wrong one.
type topology struct {
	core *core

	mu sync.Mutex
	// mu guards what follows, and the fields of node that say so.
	closed      bool
	nodes       map[string]*node
	open        map[*node]bool // nodes, and those that have left but are still in use: what Close must close
	order       []string       // the keys of nodes, the ones from Options first
	next        int            // of order, for taking turns
	leader      string         // "" unknown
	discovering bool
	discovered  time.Time // when the last discovery began
}

func newTopology(c *core) *topology {
	t := &topology{core: c, nodes: make(map[string]*node), open: make(map[*node]bool)}
	for _, addr := range c.opts.Addrs {
		t.addLocked(addr)
	}
	return t
}

// addLocked makes an address known, if there is room for it.
func (t *topology) addLocked(addr string) {
	if _, ok := t.nodes[addr]; !ok && len(t.nodes) < maxNodes && !t.closed {
		n := newNode(t.core, addr)
		t.nodes[addr], t.open[n] = n, true
		t.order = append(t.order, addr)
	}
}

// pick chooses the node for the next try: the leader, else the others in turn. Nodes that are down come last.
// The caller must release the node.
func (t *topology) pick() (*node, error) { return t.pickFor(false) }

// pickFor is pick, or takes the nodes in turn if any of them will do.
func (t *topology) pickFor(whoever bool) (*node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	age := time.Since(t.discovered)
	if age > discoverEvery || (t.leader == "" && age > discoverSoon) {
		t.discoverLocked()
	}
	now := time.Now()
	if n, ok := t.nodes[t.leader]; ok && !whoever && !n.downUntil.After(now) {
		n.users++
		return n, nil
	}
	var best *node
	for range t.order {
		n := t.nodes[t.order[t.next%len(t.order)]]
		t.next++
		if best == nil || n.downUntil.Before(best.downUntil) {
			best = n
		}
		if !n.downUntil.After(now) {
			best = n
			break
		}
	}
	best.users++
	return best, nil
}

// release gives a picked node back.
func (t *topology) release(n *node) {
	t.mu.Lock()
	n.users--
	unused := n.retired && n.users == 0 && t.open[n]
	if unused {
		delete(t.open, n)
	}
	t.mu.Unlock()
	if unused {
		_ = n.rdb.Close() // there is nobody left to care
	}
}

// report learns from a try: whether the node is well, and whether it leads. impatient means that the caller's
// time was over, which says nothing about the node.
func (t *topology) report(n *node, outcomes []outcome, failure error, impatient bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case failure == nil:
		n.failures, n.downUntil = 0, time.Time{}
	case impatient:
		return
	default:
		down := min(firstDown<<min(n.failures, 8), longestDown)
		n.failures++
		n.downUntil = time.Now().Add(down/2 + rand.N(down/2))
		t.deposeLocked(n.addr)
		return
	}
	for i := range outcomes {
		if outcomes[i].fate == answered || outcomes[i].fate == refused {
			continue
		}
		text := answerText(outcomes[i].err)
		switch code(text) {
		case "MOVED":
			t.deposeLocked(n.addr)
			if fields := strings.Fields(text); len(fields) == 3 && validAddr(fields[2]) && fields[2] != n.addr {
				t.addLocked(fields[2])
				t.leader = fields[2]
			}
		case "READONLY", "CLUSTERDOWN", "LOADING", "UNKNOWN":
			t.deposeLocked(n.addr)
		}
	}
}

// deposeLocked forgets the leader if it is addr, and looks for the new one.
func (t *topology) deposeLocked(addr string) {
	if t.leader == addr {
		t.leader = ""
	}
	if time.Since(t.discovered) > discoverSoon {
		t.discoverLocked()
	}
}

// discoverLocked starts a discovery unless one is under way.
func (t *topology) discoverLocked() {
	if t.discovering || t.closed {
		return
	}
	asked := make([]*node, 0, len(t.nodes))
	for _, n := range t.nodes {
		n.users++
		asked = append(asked, n)
	}
	started := t.core.start(func() { t.discover(asked) })
	if !started { // closing
		for _, n := range asked {
			n.users--
		}
		return
	}
	t.discovering, t.discovered = true, time.Now()
}

// discover asks every node at once who leads and who else there is, and believes the one in the highest term.
func (t *topology) discover(asked []*node) {
	ctx, cancel := context.WithTimeout(t.core.ctx, discoverTimeout)
	defer cancel()
	views := make(chan view, len(asked))
	for _, n := range asked {
		go func() { views <- t.ask(ctx, n) }() // ends with ctx at the latest, and is waited for below
	}
	var best view
	known := make(map[string]bool)
	for range asked {
		v := <-views
		if !v.ok {
			continue
		}
		for _, addr := range v.nodes {
			known[addr] = true
		}
		if v.leader != "" && v.betterThan(best) {
			best = v
			t.setLeader(v.leader) // at once: the slowest answer may take its whole time
		}
	}
	if best.leads {
		clear(known) // the leader's list is the list: the others may still name nodes that have left
		for _, addr := range best.nodes {
			known[addr] = true
		}
	}
	t.settle(best, known)
}

// setLeader makes addr the leader.
func (t *topology) setLeader(addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addLocked(addr)
	if _, ok := t.nodes[addr]; ok {
		t.leader = addr
	}
}

// settle ends a discovery: new addresses are added, and if the leader has spoken, those that it does not name go.
func (t *topology) settle(best view, known map[string]bool) {
	var gone []*node
	defer func() {
		for _, n := range gone {
			t.release(n) // closes it, unless somebody is still using it
		}
	}()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.discovering = false
	for addr := range known {
		t.addLocked(addr)
	}
	if !best.leads || len(known) == 0 {
		return
	}
	for addr, n := range t.nodes {
		if known[addr] || addr == t.leader || slices.Contains(t.core.opts.Addrs, addr) {
			continue
		}
		delete(t.nodes, addr)
		t.order = slices.DeleteFunc(t.order, func(a string) bool { return a == addr })
		n.retired = true
		n.users++
		gone = append(gone, n)
	}
}

// close ends go-redis' part of all nodes. Their sockets are closed already, so that its errors are no news.
func (t *topology) close() {
	t.mu.Lock()
	open := t.open
	t.open = nil
	t.closed = true
	t.mu.Unlock()
	for n := range open {
		_ = n.rdb.Close()
	}
}

// view is what one node says about the cluster.
type view struct {
	ok     bool
	leads  bool   // it says so of itself
	leader string // its leader; its own address, as we know it, if it leads
	term   uint64
	nodes  []string
}

// betterThan prefers the higher term, then the one who leads over those who only say who does.
func (v view) betterThan(other view) bool {
	if v.term != other.term {
		return v.term > other.term
	}
	return (v.leads && !other.leads) || other.leader == ""
}

// ask asks one node and releases it.
func (t *topology) ask(ctx context.Context, n *node) view {
	outcomes, failure := n.exchange(ctx, []request{{name: "ROLE"}, {name: "INFO", args: []any{"raft"}}})
	t.report(n, nil, failure, t.core.ctx.Err() != nil)
	if failure != nil {
		return view{}
	}
	v := view{ok: true}
	if outcomes[0].fate == answered {
		v.readRole(n.addr, outcomes[0].reply)
	}
	if text, ok := outcomes[1].reply.(string); ok && outcomes[1].fate == answered {
		v.readInfo(n.addr, text)
	}
	return v
}

// readRole reads ["master", …] or ["slave", host, port, …].
func (v *view) readRole(self string, reply any) {
	role, ok := reply.([]any)
	if !ok || len(role) == 0 {
		return
	}
	switch role[0] {
	case "master":
		v.leads, v.leader = true, self
	case "slave":
		if len(role) < 3 {
			return
		}
		host, isText := role[1].(string)
		port, isNumber := role[2].(int64)
		if addr := net.JoinHostPort(host, strconv.FormatInt(port, 10)); isText && isNumber && validAddr(addr) {
			v.leader = addr
		}
	}
}

// readInfo reads the lines of the section Raft.
func (v *view) readInfo(self, text string) {
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		switch name {
		case "raft_role":
			if v.leads = value == "leader"; v.leads {
				v.leader = self
			}
		case "raft_term":
			if term, err := strconv.ParseUint(value, 10, 64); err == nil {
				v.term = term
			}
		case "raft_leader_addr":
			if !v.leads && validAddr(value) {
				v.leader = value
			}
		case "raft_nodes":
			for addr := range strings.SplitSeq(value, ",") {
				if validAddr(addr) && len(v.nodes) < maxNodes {
					v.nodes = append(v.nodes, addr)
				}
			}
		}
	}
}

// validAddr reports whether addr can be dialed: host and port are there.
func validAddr(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || len(addr) > 300 {
		return false
	}
	number, err := strconv.ParseUint(port, 10, 16)
	return err == nil && number > 0
}
