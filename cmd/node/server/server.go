// Package server runs one raftcask node: it joins the engine and Raft (cluster),
// the peer port (transport), the Redis port (transport/resp) and the HTTP port
// (transport/http), which do not know each other.
//
//	node, err := server.Start(ctx, cfg)
//	err = node.Wait(ctx)             // nil when ctx ends; an error when the node must not go on
//	err = node.Stop(ctx)
//
// # A command's way
//
//	session → executor.Exec → leader? → local: proposer, or confirmation round and store
//	                                no → remote: peer port → the leader's serveForward → local
//
// # Goroutines
//
// Server owns the three that accept connections, and one that keeps a view of the
// other nodes (view.go). What the ports start is theirs. Stop ends all and waits.
//
// # Errors
//
// Start's error is one sentence for the operator: what is wrong, and what to do
// (errors.go). A fatal error while running, such as a failed fsync, comes out of Wait. The process must then exit
// without Stop: the store cannot trust what it holds in memory, and must not write it.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftcask/raftcask/cluster"
	"github.com/raftcask/raftcask/command"
	"github.com/raftcask/raftcask/transport"
	"github.com/raftcask/raftcask/transport/http"
	"github.com/raftcask/raftcask/transport/resp"
)

// groupID of the only group that a node has today.
const groupID = 0

// Server is a running node.
type Server struct {
	cfg      Config
	log      *slog.Logger
	started  time.Time
	registry *prometheus.Registry
	executor *executor

	peer *transport.Peer
	node atomic.Pointer[cluster.Node] // nil until it is open: the peer port asks for it before
	resp *resp.Server
	http *http.Server
	view *clusterView

	lock       io.Closer // of the data directory
	advertised struct{ resp, http, peer string }

	stopping atomic.Bool
	serving  sync.WaitGroup  // the accepting goroutines
	fatal    chan error      // capacity 1: the first one counts
	left     <-chan struct{} // closed when the node has left its cluster
}

// Start runs a node. It returns when the node listens on all its ports; joining a
// cluster goes on in the background. On error everything that was opened is closed.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, log: cfg.Logger, started: time.Now(), fatal: make(chan error, 1)}
	if err := s.start(ctx); err != nil {
		return nil, explain(cfg, errors.Join(err, s.release(ctx)))
	}
	s.log.Info("node is up", "version", cfg.Version, "data", cfg.DataDir, "resp", s.advertised.resp, "http", s.advertised.http,
		"peer", s.advertised.peer, "gossip", s.node.Load().GossipAddr(), "cluster_id", s.node.Load().ClusterID())
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	if err := s.openMetrics(); err != nil {
		return err
	}
	// The directory comes first, and the node's id in it: the peer port introduces this node by it. A new one is
	// written when the data is opened: who starts again on free ports may want another.
	var err error
	if s.lock, err = cluster.LockDir(s.cfg.DataDir); err != nil {
		return err
	}
	id, err := cluster.NodeID(s.cfg.DataDir, s.cfg.ID)
	if errors.Is(err, cluster.ErrConfig) {
		return fmt.Errorf("--id: %w", err)
	}
	if err != nil {
		return err
	}
	s.cfg.ID = id
	s.log = s.cfg.Logger.With("node", id)
	// Then the ports: one that is taken is found out before the node appears in a
	// cluster. Connections wait in the backlog until they are served.
	if err := s.listen(); err != nil {
		return err
	}
	// Then the data, Raft and gossip.
	if err := s.openNode(ctx); err != nil {
		return err
	}
	// Then the doors: to the peers first, because commands may need them.
	s.serve("peer", s.peer.Serve)
	s.serve("HTTP", s.http.Serve)
	s.serve("RESP", s.resp.Serve)
	return nil
}

func (s *Server) openMetrics() error {
	s.registry = newRegistry()
	sink := newRaftSink()
	if err := s.registry.Register(sink); err != nil {
		return fmt.Errorf("register raft's metrics: %w", err)
	}
	if err := sink.install(); err != nil {
		return fmt.Errorf("receive raft's metrics: %w", err)
	}
	return nil
}

// listen opens the three ports of this package; gossip's belongs to the node.
func (s *Server) listen() (err error) {
	s.peer, err = transport.ListenPeer(transport.PeerConfig{
		Addr: s.cfg.Peer.Bind, NodeID: s.cfg.ID, ClusterID: s.clusterID,
		Logger: s.log, MaxMessageBytes: maxMessageBytes,
	})
	if err != nil {
		return &portError{"peer", "--peer-addr", s.cfg.Peer.Bind, err}
	}
	s.executor = &executor{metrics: newCommandMetrics(s.registry)}
	s.resp, err = resp.Listen(resp.Config{
		Addr: s.cfg.Resp.Bind, MaxClients: s.cfg.MaxClients, Logger: s.log,
		Limits: command.Limits{MaxValueBytes: s.cfg.MaxValueBytes},
	}, backend{s})
	if err != nil {
		return &portError{"RESP", "--resp-addr", s.cfg.Resp.Bind, err}
	}
	s.http, err = http.New(http.Config{
		Addr:     s.cfg.HTTP.Bind,
		Live:     []http.Check{{Name: "node", Run: func(context.Context) error { return s.node.Load().Live() }}},
		Ready:    []http.Check{{Name: "node", Run: s.ready}},
		Gatherer: s.registry, Logger: s.log,
	})
	if err != nil {
		return &portError{"HTTP", "--http-addr", s.cfg.HTTP.Bind, err}
	}
	// Gossip listens for itself, after the data was opened, and its error has lost
	// the reason. So its port is tried here.
	if err := tryGossip(s.cfg.Gossip.Bind); err != nil {
		return &portError{"gossip", "--gossip-addr", s.cfg.Gossip.Bind, err}
	}
	return s.advertise()
}

// tryGossip listens on the port as gossip will, TCP and UDP, and stops again.
func tryGossip(addr string) error {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return errors.Join(err, tcp.Close())
	}
	return errors.Join(tcp.Close(), udp.Close())
}

// advertise decides by which addresses the others reach this node.
func (s *Server) advertise() error {
	for _, port := range []struct {
		to   *string
		addr Address
		on   net.Addr
	}{
		{&s.advertised.peer, s.cfg.Peer, s.peer.Addr()},
		{&s.advertised.resp, s.cfg.Resp, s.resp.Addr()},
		{&s.advertised.http, s.cfg.HTTP, s.http.Addr()},
	} {
		addr, err := port.addr.advertised(port.on)
		if err != nil {
			return err
		}
		*port.to = addr
	}
	return nil
}

// openNode opens the data directory, Raft and gossip, and joins them to the ports.
func (s *Server) openNode(ctx context.Context) error {
	advertised, err := netip.ParseAddrPort(s.advertised.peer)
	var peerAddr net.Addr = net.TCPAddrFromAddrPort(advertised)
	if err != nil {
		peerAddr = nameAddr(s.advertised.peer) // a host name
	}
	node, err := cluster.Open(ctx, cluster.Config{
		NodeID: s.cfg.ID, Dir: s.cfg.DataDir,
		PeerAddr: s.advertised.peer, RespAddr: s.advertised.resp, HTTPAddr: s.advertised.http,
		GossipBind: s.cfg.Gossip.Bind, GossipAdvertise: s.cfg.Gossip.Advertise,
		Join: s.cfg.Join, BootstrapExpect: s.cfg.BootstrapExpect, NonVoter: s.cfg.NonVoter, Version: s.cfg.Version,
		Peers: peers{s.peer}, StreamLayer: s.peer.StreamLayer(groupID, peerAddr),
		Engine: s.cfg.engine(), Limits: s.cfg.limits(), Logger: s.cfg.Logger, OnFatal: s.onFatal,
	})
	if err != nil {
		return err
	}
	s.node.Store(node)
	s.left = node.Left()
	group := clusterGroup{node.Group()}
	s.executor.local = local{group}
	s.executor.removed, s.executor.fresh = node.Removed, node
	s.executor.remote = remote{self: s.cfg.ID, group: group, groupID: groupID, peers: s.peer}
	s.peer.Handle(transport.KindConfirm, func(ctx context.Context, from transport.Hello, req []byte) ([]byte, error) {
		return node.HandleConfirm(ctx, from.NodeID, req)
	})
	s.peer.Handle(transport.KindControl, func(ctx context.Context, from transport.Hello, req []byte) ([]byte, error) {
		return node.HandleControl(ctx, from.NodeID, req)
	})
	s.peer.Handle(transport.KindForward, s.executor.serveForward)
	s.view = watchCluster(node)
	return s.registry.Register(newNodeCollector(s))
}

// serve accepts connections on one port until it is closed.
func (s *Server) serve(port string, accept func() error) {
	s.serving.Go(func() {
		if err := accept(); err != nil {
			s.onFatal(fmt.Errorf("the %s port is broken: %w", port, err))
		}
	})
}

// clusterID is asked by the peer port for every connection.
func (s *Server) clusterID() string {
	if node := s.node.Load(); node != nil {
		return node.ClusterID()
	}
	return ""
}

// ready is what /readyz checks.
func (s *Server) ready(context.Context) error {
	if s.stopping.Load() {
		return errors.New("the node is stopping")
	}
	return s.node.Load().Ready()
}

// onFatal is called when the node must not go on.
func (s *Server) onFatal(err error) {
	select {
	case s.fatal <- err:
	default: // the first one is the cause
	}
}

// Wait returns nil when ctx ends or the node has left its cluster, and an error when the node must not go on: then
// the process has to exit without Stop.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.left:
		s.log.Info("the node has left its cluster")
		sleep(ctx, leftLinger)
		return nil
	case err := <-s.fatal:
		return errors.New(fatalText(s.cfg.DataDir, err))
	}
}

// Stop ends the node in the reverse order of Start, and waits until all is over.
// ctx limits the handing over of leadership.
func (s *Server) Stop(ctx context.Context) error {
	// First /readyz fails, so that load balancers stop sending new clients.
	s.stopping.Store(true)
	// Then somebody else leads, while this node still answers and forwards: what
	// its clients send in between goes to the new leader.
	s.handOver(ctx)
	return s.release(ctx)
}

func (s *Server) handOver(ctx context.Context) {
	group := s.node.Load().Group()
	if !group.IsLeader() || len(s.replicas()) == 0 {
		return // nobody to hand over to
	}
	if err := group.Transfer(ctx, ""); err != nil {
		s.log.Warn("leadership was not handed over; the others will elect a leader", "error", err)
	}
}

// release closes what is open.
func (s *Server) release(ctx context.Context) error {
	var errs []error
	// The sessions finish the commands they are in. They need the node for it.
	if s.resp != nil {
		errs = append(errs, s.resp.Close())
	}
	// Health and metrics ask the node too.
	if s.http != nil {
		errs = append(errs, s.http.Close())
	}
	if s.view != nil {
		s.view.close()
	}
	// Gossip, Raft and the store, which need the peer port to say goodbye.
	if node := s.node.Load(); node != nil {
		errs = append(errs, node.Close(ctx))
	}
	if s.peer != nil {
		errs = append(errs, s.peer.Close())
	}
	s.serving.Wait()
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}
