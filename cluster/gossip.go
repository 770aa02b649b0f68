package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// member is what a node says about itself by gossip.
type member struct {
	ID        string `json:"i"`
	PeerAddr  string `json:"p"`
	RespAddr  string `json:"r,omitempty"`
	HTTPAddr  string `json:"h,omitempty"`
	Version   string `json:"v,omitempty"`
	ClusterID string `json:"c,omitempty"`
	Expect    int    `json:"e,omitempty"`
	Removed   bool   `json:"x,omitempty"`
	NonVoter  bool   `json:"n,omitempty"`
	Squeezed  bool   `json:"z,omitempty"` // it understands compressed snapshots

	gossipAddr string
}

// gossip finds the other nodes and carries what they say about themselves. It only suggests: who is a member
// is raft's configuration. Nodes of another cluster are rejected.
type gossip struct {
	log  *slog.Logger
	list *memberlist.Memberlist
	self string // node id
	addr string // own gossip address, as others use it

	meta      atomic.Pointer[[]byte] // own member, encoded
	clusterID atomic.Pointer[string]
	changed   chan struct{} // capacity 1: the table changed

	mu    sync.Mutex
	known map[string]member // all that were ever seen, by node id
	alive map[string]bool

	cancel    context.CancelFunc
	joiner    sync.WaitGroup
	tried     atomic.Bool // every seed was tried once
	strangers atomic.Bool // the last join met a node of another cluster
	warned    atomic.Bool // the operator was told so
}

const (
	joinMin, joinMax = 200 * time.Millisecond, 5 * time.Second
	// rejoinPause: members that memberlist has given up are tried again, or a partition would never heal.
	rejoinPause = 5 * time.Second
	// gossipTCP limits a state sync; a seed that does not answer holds up the others.
	gossipTCP = 2 * time.Second
	// gossipReclaim: a node that crashed may come back at another address after this.
	gossipReclaim = 5 * time.Second
	updateTimeout = 2 * time.Second
	leaveTimeout  = 500 * time.Millisecond
)

func newGossip(log *slog.Logger, self string) *gossip {
	return &gossip{
		log: log.With("component", "gossip"), self: self,
		changed: make(chan struct{}, 1), known: map[string]member{}, alive: map[string]bool{},
	}
}

// start listens, and begins to look for other nodes at the seeds.
func (g *gossip) start(cfg *Config, self member, seeds []string) error {
	if err := g.setSelf(self); err != nil {
		return err
	}
	conf, err := gossipConfig(cfg, self.ID)
	if err != nil {
		return err
	}
	conf.Delegate, conf.Events, conf.Alive, conf.Merge = g, g, g, g
	if g.list, err = memberlist.Create(conf); err != nil {
		return fmt.Errorf("start gossip on %s: %w", cfg.GossipBind, err)
	}
	local := g.list.LocalNode() // read once: memberlist changes it under its own lock later
	g.addr = net.JoinHostPort(local.Addr.String(), strconv.Itoa(int(local.Port)))
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	g.joiner.Go(func() { g.join(ctx, seeds) })
	return nil
}

func gossipConfig(cfg *Config, id string) (*memberlist.Config, error) {
	c := memberlist.DefaultLANConfig()
	c.Name = id
	c.Logger = newHclog(cfg.Logger, "memberlist").StandardLogger(nil)
	c.TCPTimeout = gossipTCP
	c.GossipInterval = 100 * time.Millisecond
	c.PushPullInterval = 10 * time.Second
	c.DeadNodeReclaimTime = gossipReclaim
	c.MsgpackUseNewTimeFormat = true
	host, port, err := splitHostPort(cfg.GossipBind)
	if err != nil {
		return nil, fmt.Errorf("%w: GossipBind: %w", ErrConfig, err)
	}
	c.BindAddr, c.BindPort = host, port
	if host == "" {
		c.BindAddr = "0.0.0.0"
	}
	advertise := cfg.GossipAdvertise
	if advertise == "" {
		if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
			host, _, _ = net.SplitHostPort(cfg.PeerAddr) // validated
		}
		advertise = net.JoinHostPort(host, strconv.Itoa(port))
	}
	host, port, err = splitHostPort(advertise)
	if err != nil {
		return nil, fmt.Errorf("%w: GossipAdvertise: %w", ErrConfig, err)
	}
	if c.AdvertiseAddr, err = resolveIP(host); err != nil {
		return nil, fmt.Errorf("%w: GossipAdvertise: %w", ErrConfig, err)
	}
	c.AdvertisePort = port
	return c, nil
}

func splitHostPort(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%q has no port number", addr)
	}
	return host, port, nil
}

// resolveIP makes a host an IP: memberlist advertises nothing else.
func resolveIP(host string) (string, error) {
	if host == "" || net.ParseIP(host) != nil {
		return host, nil // memberlist chooses a private address for an empty one
	}
	ips, err := net.LookupIP(host)
	if err != nil {
		return "", err
	}
	for _, ip := range ips {
		if ip.To4() != nil {
			return ip.String(), nil
		}
	}
	return ips[0].String(), nil
}

// setSelf changes what this node says about itself; announce spreads it.
func (g *gossip) setSelf(m member) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode gossip metadata: %w", err)
	}
	if len(data) > memberlist.MetaMaxSize {
		return fmt.Errorf("%w: the addresses and the version take %d bytes of gossip metadata, %d are allowed", ErrConfig, len(data), memberlist.MetaMaxSize)
	}
	g.meta.Store(&data)
	g.clusterID.Store(&m.ClusterID)
	return nil
}

// announce spreads setSelf. It blocks for updateTimeout at most.
func (g *gossip) announce() {
	if err := g.list.UpdateNode(updateTimeout); err != nil {
		g.log.Debug("news about this node spread slowly", "error", err)
	}
}

// join tries the seeds again and again, and later those members that are not seen alive.
func (g *gossip) join(ctx context.Context, seeds []string) {
	pause := joinMin
	for {
		missing := g.missing(seeds)
		if len(missing) > 0 {
			g.strangers.Store(false)
			if _, err := g.list.Join(missing); err != nil {
				g.noteJoinFailed(missing, err)
			}
		}
		g.tried.Store(true)
		if g.aliveCount() > 0 {
			pause = rejoinPause
		} else {
			pause = min(2*pause, joinMax)
		}
		jittered := pause/2 + rand.N(pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(jittered):
		}
	}
}

// noteJoinFailed tells the operator, once, when a seed is of another cluster: a wrong address or a wrong
// data directory, which no time mends. Seeds that do not answer yet are normal.
func (g *gossip) noteJoinFailed(seeds []string, err error) {
	if g.strangers.Load() && !g.warned.Swap(true) {
		g.log.Warn("a seed belongs to another cluster and is left alone; check --join and --data", "seeds", seeds, "error", err)
		return
	}
	g.log.Debug("no seed answered", "seeds", seeds, "error", err)
}

// missing is the seeds and all nodes that were ever seen, without this node and those that are alive.
func (g *gossip) missing(seeds []string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	there := map[string]bool{g.addr: true}
	all := slices.Clone(seeds)
	for id, m := range g.known {
		all = append(all, m.gossipAddr)
		if g.alive[id] {
			there[m.gossipAddr] = true
		}
	}
	var out []string
	for _, s := range all {
		if s = strings.TrimSpace(s); s != "" && !there[s] && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// members lists the other nodes that are alive, by id.
func (g *gossip) members() []member {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []member
	for id := range g.alive {
		out = append(out, g.known[id])
	}
	slices.SortFunc(out, func(a, b member) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// everSeen is all other nodes that this process has heard of.
func (g *gossip) everSeen() map[string]member {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.known)
}

func (g *gossip) aliveCount() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.alive)
}

// close leaves the gossip pool in an orderly way. That is no removal from the cluster.
func (g *gossip) close() error {
	g.cancel()
	err := g.list.Leave(leaveTimeout)
	if err != nil {
		g.log.Debug("left gossip without an answer", "error", err)
	}
	err = g.list.Shutdown()
	g.joiner.Wait()
	return err
}

// The rest is called by memberlist, mostly with its lock held: nothing here may block or call it back.

// NodeMeta implements memberlist.Delegate.
func (g *gossip) NodeMeta(int) []byte { return *g.meta.Load() }

// NotifyMsg implements memberlist.Delegate.
func (g *gossip) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (g *gossip) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (g *gossip) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (g *gossip) MergeRemoteState([]byte, bool) {}

// NotifyAlive implements memberlist.AliveDelegate: it rejects nodes of another cluster.
func (g *gossip) NotifyAlive(n *memberlist.Node) error {
	m, err := decodeMember(n)
	if err != nil {
		return err
	}
	if own := *g.clusterID.Load(); own != "" && m.ClusterID != "" && own != m.ClusterID {
		g.strangers.Store(true)
		return fmt.Errorf("it belongs to cluster %s, this node to %s", m.ClusterID, own)
	}
	return nil
}

// NotifyMerge implements memberlist.MergeDelegate.
func (g *gossip) NotifyMerge(nodes []*memberlist.Node) error {
	for _, n := range nodes {
		if err := g.NotifyAlive(n); err != nil {
			return fmt.Errorf("node %q: %w", n.Name, err)
		}
	}
	return nil
}

// NotifyJoin implements memberlist.EventDelegate.
func (g *gossip) NotifyJoin(n *memberlist.Node) { g.see(n, true) }

// NotifyUpdate implements memberlist.EventDelegate.
func (g *gossip) NotifyUpdate(n *memberlist.Node) { g.see(n, true) }

// NotifyLeave implements memberlist.EventDelegate.
func (g *gossip) NotifyLeave(n *memberlist.Node) { g.see(n, false) }

func (g *gossip) see(n *memberlist.Node, alive bool) {
	if n.Name == g.self {
		return
	}
	m, err := decodeMember(n)
	if err != nil {
		return // NotifyAlive has said so
	}
	g.mu.Lock()
	g.known[m.ID] = m
	if alive {
		g.alive[m.ID] = true
	} else {
		delete(g.alive, m.ID)
	}
	g.mu.Unlock()
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

var errNoMember = errors.New("it is no raftcask node")

func decodeMember(n *memberlist.Node) (member, error) {
	var m member
	if err := json.Unmarshal(n.Meta, &m); err != nil {
		return member{}, fmt.Errorf("%w: %w", errNoMember, err)
	}
	if m.ID != n.Name || checkNodeID(m.ID) != nil {
		return member{}, fmt.Errorf("%w: it is called %q and says that it is %q", errNoMember, n.Name, m.ID)
	}
	m.gossipAddr = net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
	return m, nil
}
