package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/internal/vfs"
)

const (
	peersFile = "peers.json"
	// foundingPause is the pause between two steps of a node that is not in a cluster.
	foundingPause = 200 * time.Millisecond
)

// Node is this process's part in a cluster. Its methods are safe for concurrent use.
type Node struct {
	cfg      Config
	log      *slog.Logger
	identity *identityStore
	group    *Group
	gossip   *gossip
	boot     *bootstrapper
	addrs    *addressBook
	fatal    *fatal

	wake    chan struct{} // capacity 1: the membership loop has something to do
	cancel  context.CancelFunc
	ctx     context.Context
	workers sync.WaitGroup

	told    identityView         // what gossip says of this node; owned by the membership loop
	peers   []string             // addresses in peers.json; owned by the membership loop
	watched map[string]time.Time // since when a new node is caught up; owned by the membership loop

	// joinedBy is an index of the log by which this node was in the configuration; owned by the membership loop.
	joinedBy uint64

	// waitingSaid is when the log said last what the node waits for; owned by the membership loop.
	waitingSaid time.Time

	changing sync.Mutex // held while the membership is being changed, network calls included

	mu      sync.Mutex
	refusal string // why the leader does not take this node

	// serving is held for reading by what reads the stores for other nodes and operators. Close takes it
	// once, so that none of those runs into a closed engine.
	serving sync.RWMutex
	closed  bool

	fresh freshener
	gone  atomic.Bool // identity.Removed, for the path of every command
	left  chan struct{}
	leave sync.Once // closes left
}

// identityView is the part of the identity that gossip carries.
type identityView struct {
	clusterID string
	removed   bool
}

// Open starts a node. A node that was in a cluster goes back to it; a new one founds one with others
// (BootstrapExpect) or waits to be welcomed. That happens in the background: see Ready. On error everything
// is closed again, the stream layer too.
func Open(_ context.Context, cfg Config) (_ *Node, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		if cfg.StreamLayer != nil {
			err = errors.Join(err, cfg.StreamLayer.Close())
		}
		return nil, err
	}
	n := &Node{
		cfg: cfg, addrs: &addressBook{}, fatal: &fatal{call: cfg.OnFatal},
		wake: make(chan struct{}, 1), watched: map[string]time.Time{},
		left: make(chan struct{}), fresh: freshener{wake: make(chan struct{}, 1)},
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if n.identity, err = openIdentity(vfs.OS(), cfg.Dir, cfg.NodeID); err != nil {
		n.cancel()
		return nil, errors.Join(err, cfg.StreamLayer.Close())
	}
	if id := n.identity.get(); id.refuse(cfg.Dir) != nil {
		n.cancel()
		return nil, errors.Join(id.refuse(cfg.Dir), cfg.StreamLayer.Close())
	}
	n.log = cfg.Logger.With("node", n.ID())
	n.cfg.Logger = n.log
	n.gossip = newGossip(n.log, n.ID())
	n.refreshAddresses()
	n.group, err = openGroup(n.cfg, groupParts{
		dir: filepath.Join(cfg.Dir, groupsDir, fmt.Sprintf("%04d", defaultGroup)), nodeID: n.ID(),
		identity: n.identity, addrs: n.addrs, fatal: n.fatal.stop, describe: n.respAddrOf,
	})
	if err != nil {
		n.cancel()
		return nil, err
	}
	n.boot = n.newBootstrapper()
	if err := n.gossip.start(&n.cfg, n.describeSelf(), n.seeds()); err != nil {
		n.cancel()
		return nil, errors.Join(err, n.group.close(n.ctx, false))
	}
	n.told = viewOf(n.identity.get())
	n.workers.Go(n.membership)
	n.workers.Go(n.keepFresh)
	return n, nil
}

// newBootstrapper gives the founding of a cluster what it needs of the node.
func (n *Node) newBootstrapper() *bootstrapper {
	return &bootstrapper{
		self: setMember{n.ID(), n.cfg.PeerAddr}, expect: n.cfg.BootstrapExpect, identity: n.identity,
		members: n.gossip.members, ask: n.askNode, found: n.group.bootstrap, log: n.log,
	}
}

// Group is the node's Raft group.
func (n *Node) Group() *Group { return n.group }

// ID is the node's id.
func (n *Node) ID() string { return n.identity.get().NodeID }

// ClusterID is empty while the node is in no cluster.
func (n *Node) ClusterID() string { return n.identity.get().ClusterID }

// GossipAddr is where other nodes reach this one's gossip.
func (n *Node) GossipAddr() string { return n.gossip.addr }

// HandleConfirm answers a confirmation round.
func (n *Node) HandleConfirm(_ context.Context, _ string, req []byte) ([]byte, error) {
	return n.group.handleConfirm(req)
}

// Close hands leadership over, leaves gossip, and closes the stores. The node stays a member of its cluster. ctx
// limits the handing over.
func (n *Node) Close(ctx context.Context) error { return n.close(ctx, true) }

func (n *Node) close(ctx context.Context, orderly bool) error {
	n.serving.Lock()
	if n.closed {
		n.serving.Unlock()
		return ErrClosed
	}
	n.closed = true
	n.serving.Unlock()
	// First whoever changes the membership, then leadership while the others still see this node, then gossip.
	n.cancel()
	n.workers.Wait()
	return errors.Join(n.group.close(ctx, orderly), n.gossip.close())
}

// membership brings this node into a cluster, and then keeps the cluster's membership, as long as it leads.
func (n *Node) membership() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	member := false
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-timer.C:
		case <-n.wake:
		case <-n.gossip.changed:
		}
		n.refreshAddresses()
		n.savePeers()
		if !member && !n.Removed() {
			if member = n.found(); !member {
				n.sayWaiting()
			}
		}
		n.tell()
		if n.Removed() {
			n.group.retire()
			member = false
		}
		if member {
			n.noteJoined()
			n.reconcile(n.ctx)
			n.stopIfDamaged(n.ctx)
		}
		pause := n.cfg.Timing.Reconcile
		if !member || !n.identity.get().Joined {
			pause = min(pause, foundingPause)
		}
		timer.Reset(pause)
	}
}

// found does the next step of becoming a member.
func (n *Node) found() bool {
	if n.cfg.BootstrapExpect > 0 && len(n.cfg.Join) > 0 && !n.gossip.tried.Load() {
		return false // a seed may know a cluster
	}
	done, err := n.boot.step(n.ctx)
	if err != nil && n.ctx.Err() == nil {
		n.log.Info("no cluster yet", "error", err)
	}
	return done && err == nil
}

// poke wakes the membership loop.
func (n *Node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// tell spreads what changed about this node.
func (n *Node) tell() {
	now := viewOf(n.identity.get())
	if now == n.told {
		return
	}
	if err := n.gossip.setSelf(n.describeSelf()); err != nil {
		n.log.Error("this node cannot describe itself", "error", err)
		return
	}
	n.gossip.announce()
	n.told = now
}

func viewOf(id identity) identityView { return identityView{id.ClusterID, id.Removed} }

func (n *Node) describeSelf() member {
	id := n.identity.get()
	return member{
		ID: id.NodeID, PeerAddr: n.cfg.PeerAddr, RespAddr: n.cfg.RespAddr, HTTPAddr: n.cfg.HTTPAddr,
		Version: n.cfg.Version, ClusterID: id.ClusterID, Expect: n.cfg.BootstrapExpect, Removed: id.Removed, NonVoter: n.cfg.NonVoter, Squeezed: true,
	}
}

// refreshAddresses tells raft where everybody is: by gossip, else by its own configuration.
func (n *Node) refreshAddresses() {
	m := map[raft.ServerID]raft.ServerAddress{}
	if n.group != nil {
		if s := n.group.session(); s != nil {
			for _, server := range s.servers() {
				m[server.ID] = server.Address
			}
		}
	}
	squeezed := map[raft.ServerID]bool{}
	for id, known := range n.gossip.everSeen() {
		m[raft.ServerID(id)] = raft.ServerAddress(known.PeerAddr)
		squeezed[raft.ServerID(id)] = known.Squeezed
	}
	m[raft.ServerID(n.ID())] = raft.ServerAddress(n.cfg.PeerAddr)
	n.addrs.replace(m)
	n.addrs.squeezed.Store(&squeezed)
}

func (n *Node) respAddrOf(id string) string {
	if id == n.ID() {
		return n.cfg.RespAddr
	}
	return n.gossip.everSeen()[id].RespAddr
}

// seeds are the configured gossip addresses and those of the nodes that were known when the process ended.
func (n *Node) seeds() []string {
	data, err := vfs.ReadFile(vfs.OS(), filepath.Join(n.cfg.Dir, peersFile))
	if err == nil {
		err = json.Unmarshal(data, &n.peers)
	}
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		n.log.Warn("the addresses of known nodes cannot be read; going on with --join", "file", peersFile, "error", err)
	}
	return slices.Concat(n.cfg.Join, n.peers)
}

// savePeers remembers the gossip addresses of the nodes that are alive, so that a node finds its cluster again
// when its seeds are gone.
func (n *Node) savePeers() {
	var now []string
	for _, m := range n.gossip.members() {
		now = append(now, m.gossipAddr)
	}
	if len(now) == 0 || slices.Equal(now, n.peers) {
		return
	}
	data, err := json.Marshal(now)
	if err == nil {
		err = writeFileAtomic(vfs.OS(), n.cfg.Dir, peersFile, data)
	}
	if err != nil {
		n.log.Warn("the addresses of known nodes cannot be saved", "error", err)
		return
	}
	n.peers = now
}

// setRefusal notes why the leader does not take this node.
func (n *Node) setRefusal(reason string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refusal != reason {
		n.log.Error("the cluster refuses this node", "reason", reason)
	}
	n.refusal = reason
}

// fatal passes on the first error after which the node must not go on.
type fatal struct {
	call func(error)
	once sync.Once
	err  atomic.Pointer[error]
}

func (f *fatal) stop(err error) {
	f.once.Do(func() {
		f.err.Store(&err)
		f.call(err)
	})
}

// exitOnFatal ends the process. Nothing can be closed in an orderly way: the disk may not answer.
func exitOnFatal(log *slog.Logger) func(error) {
	return func(err error) {
		log.Error("the node stops: it cannot go on safely", "error", err)
		os.Exit(1)
	}
}
