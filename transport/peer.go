// Package transport is the peer port: the one TCP port on which the nodes of a cluster talk to each other.
//
//	peer, err := transport.ListenPeer(transport.PeerConfig{Addr: ":9379", NodeID: "n1", ClusterID: identity.ClusterID})
//	peer.Handle(transport.KindConfirm, node.HandleConfirm)
//	layer := peer.StreamLayer(0, advertised)              // for raft.NewNetworkTransport
//	go peer.Serve()
//	answer, err := peer.Call(ctx, "10.0.0.2:9379", transport.KindConfirm, 0, request)
//
// # Protocol
//
// Whoever dials speaks first and says what the connection is for; whoever accepts answers once. After an
// accepting answer the connection belongs to its kind: a Raft connection to the group's StreamLayer, any other
// one to the calls. All integers are big-endian. With TLS configured the whole of it runs inside mutual TLS.
//
//	hello    | magic 4 | version 1 | length 2 | kind 1 | group 4 | length 1, cluster id | length 1, node id |
//	answer   | magic 4 | version 1 | verdict 1 | length 2 | reason |
//	frame    | length 4 | id 8 | tag 4 | payload |          length counts what follows it
//
// Frames carry calls. A request's tag is the time its caller will still wait, in ms (0: for ever); a reply
// repeats the request's id and its tag is a status. Id 0 is a probe: the receiver's reading loop sends it
// straight back. The answer's layout is the same in every version, so that an older or newer node can be told
// why it is refused.
//
// # Outcomes
//
// A call ends in one of three ways. The handler answered: its bytes, or a *RemoteError. The request certainly
// never left this node: errors.Is(err, ErrNotSent). Anything else: the handler may or may not have run, and
// only the caller knows whether asking again is safe.
//
// # Goroutines
//
// Peer owns them all and Close waits for them: one per accepted connection, one writer per call connection, one
// per request being handled; on the calling side a reader, a writer and a watch per connection. What raft
// starts on a StreamLayer's connections is raft's.
//
// The package assumes that whoever reaches the port is either a node or a stranger who may say anything:
// lengths are checked before memory is taken, and every wait before the handshake is over has a deadline.
// Without TLS it cannot tell the two apart.
package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// defaultMaxMessageBytes: raft entries are at most 512 KiB, a forwarded pipeline is bounded by the session
	// that read it.
	defaultMaxMessageBytes = 32 << 20

	// maxConns bounds the connections this node has accepted. A cluster of 9 nodes with 64 groups stays below 2,000.
	maxConns = 4096

	// maxHandshakes bounds the connections that have not said yet who they are.
	maxHandshakes = 256

	// handshakeTimeout covers TLS and hello on either side. A node under load answers in milliseconds; a stranger who
	// trickles bytes gives his place back after this long.
	handshakeTimeout = 3 * time.Second
)

// keepAlive finds out about a peer that vanished without a word, on connections where nobody waits for an
// answer: after 10 s + 3 × 5 s. Where somebody does wait, raft's own deadlines and the probes of calls are much
// faster.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

// PeerConfig configures a Peer. Addr and NodeID are required.
type PeerConfig struct {
	// Addr is where to listen, host:port; port 0 picks a free one.
	Addr string
	// NodeID names this node in every hello.
	NodeID string
	// ClusterID returns the id of the cluster this node belongs to, "" as long as it belongs to none. It is a
	// function because a node learns it only when the cluster is bootstrapped. Nil means always "".
	ClusterID func() string
	// TLS switches mutual TLS on. It needs certificates, and RootCAs or ClientCAs (one stands in for the
	// other). A certificate from the other side is always demanded, whatever ClientAuth says. The node id in a
	// hello is not compared with the certificate: VerifyConnection is the place for such a rule.
	TLS *tls.Config
	// Logger receives refusals and accept failures. Nil discards them.
	Logger *slog.Logger
	// MaxMessageBytes bounds one request or reply. Default 32 MiB. It must be the same on every node; more
	// costs memory per request being handled.
	MaxMessageBytes int
}

// Handler answers one request. ctx ends when the caller's deadline passes, when the connection breaks and when
// the Peer closes; from is the hello of the calling node. The handler owns req and gives up the slice that it
// returns. An error reaches the caller as *RemoteError.
type Handler = func(ctx context.Context, from Hello, req []byte) ([]byte, error)

// Peer is one node's end of the peer port: it serves the other nodes' connections and calls them.
type Peer struct {
	cfg       PeerConfig
	listener  net.Listener
	serverTLS *tls.Config // nil: plain TCP
	clientTLS *tls.Config
	refusals  refusalLog

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup // every goroutine of the Peer, and Serve

	handshakes chan struct{} // one token per connection in its handshake

	mu sync.Mutex
	// mu guards what follows. It is held for map operations only, never across a network call.
	closed   bool
	accepted int                     // accepted connections that are still open
	conns    map[*ownedConn]struct{} // all connections that Close must close
	handlers map[Kind]Handler
	streams  map[uint32]*StreamLayer
	links    map[linkKey]*link
}

// ListenPeer opens the port. Connections are accepted from Serve on; Call works at once. Close must be called
// even if Serve never is.
func ListenPeer(cfg PeerConfig) (*Peer, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	p := &Peer{
		cfg:        cfg,
		refusals:   refusalLog{logger: cfg.Logger},
		handshakes: make(chan struct{}, maxHandshakes),
		conns:      make(map[*ownedConn]struct{}),
		handlers:   make(map[Kind]Handler),
		streams:    make(map[uint32]*StreamLayer),
		links:      make(map[linkKey]*link),
	}
	if cfg.TLS != nil {
		p.serverTLS, p.clientTLS = mutualTLS(cfg.TLS)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())

	listen := net.ListenConfig{KeepAliveConfig: keepAlive}
	listener, err := listen.Listen(p.ctx, "tcp", cfg.Addr)
	if err != nil {
		p.cancel()
		return nil, fmt.Errorf("listen for peers: %w", err)
	}
	p.listener = listener
	return p, nil
}

// fill sets defaults and validates.
func (cfg *PeerConfig) fill() error {
	if cfg.NodeID == "" || len(cfg.NodeID) > maxIDBytes {
		return fmt.Errorf("node id %q must have 1 to %d bytes", cfg.NodeID, maxIDBytes)
	}
	if cfg.ClusterID == nil {
		cfg.ClusterID = func() string { return "" }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxMessageBytes == 0 {
		cfg.MaxMessageBytes = defaultMaxMessageBytes
	}
	if cfg.MaxMessageBytes < 0 || int64(cfg.MaxMessageBytes) > maxFramePayload {
		return fmt.Errorf("largest message of %d bytes must be between 1 and %d", cfg.MaxMessageBytes, int64(maxFramePayload))
	}
	return nil
}

// mutualTLS derives the accepting and the dialing configuration: both sides show and demand a certificate.
func mutualTLS(base *tls.Config) (server, client *tls.Config) {
	server, client = base.Clone(), base.Clone()
	server.ClientAuth = tls.RequireAndVerifyClientCert
	if server.ClientCAs == nil {
		server.ClientCAs = server.RootCAs
	}
	if client.RootCAs == nil {
		client.RootCAs = client.ClientCAs
	}
	for _, cfg := range []*tls.Config{server, client} {
		if cfg.MinVersion == 0 {
			cfg.MinVersion = tls.VersionTLS13 // both ends are ours
		}
	}
	return server, client
}

// Addr is the address of the listener, with the port that was picked.
func (p *Peer) Addr() net.Addr { return p.listener.Addr() }

// Handle sets the handler for the calls of one kind. It must be called before Serve, once per kind, and not for
// KindRaft: anything else is a mistake in the program, and panics.
func (p *Peer) Handle(kind Kind, h Handler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !kind.valid() || kind == KindRaft || h == nil {
		panic(fmt.Sprintf("transport: no handler can be set for connections of kind %s", kind))
	}
	if _, ok := p.handlers[kind]; ok {
		panic(fmt.Sprintf("transport: a second handler for connections of kind %s", kind))
	}
	p.handlers[kind] = h
}

// Serve accepts connections until Close, and then returns nil. Another error means that the listener is broken.
func (p *Peer) Serve() error {
	if !p.hold() {
		return nil
	}
	defer p.running.Done()
	pause := firstAcceptPause
	for {
		conn, err := p.listener.Accept()
		switch {
		case err == nil:
			pause = firstAcceptPause
			p.admit(conn)
		case p.ctx.Err() != nil: // Close
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on the peer port: %w", err)
		default:
			// Out of descriptors, or a connection that died in the backlog. Wait, or the loop burns a core.
			p.cfg.Logger.Warn("accept on the peer port failed", "error", err, "retry_in", pause)
			if !sleep(p.ctx, pause) {
				return nil
			}
			pause = min(2*pause, longestAcceptPause)
		}
	}
}

const (
	firstAcceptPause   = 5 * time.Millisecond
	longestAcceptPause = time.Second
)

// admit starts the handshake of an accepted connection, or drops the connection when too many are open.
func (p *Peer) admit(raw net.Conn) {
	conn, ok := p.own(raw, true)
	if !ok {
		p.refusals.add(slog.LevelWarn, raw.RemoteAddr(), "too many connections are open")
		return
	}
	select {
	case p.handshakes <- struct{}{}:
	default:
		p.refusals.add(slog.LevelWarn, raw.RemoteAddr(), "too many connections are in their handshake")
		closeQuietly(conn)
		return
	}
	if !p.start(func() { p.receive(conn) }) {
		closeQuietly(conn)
	}
}

// receive runs the accepting side of one connection: handshake, then what the hello asked for.
func (p *Peer) receive(owned *ownedConn) {
	var conn net.Conn = owned
	if p.serverTLS != nil {
		conn = tls.Server(owned, p.serverTLS)
	}
	hello, route, err := p.acceptHello(conn)
	<-p.handshakes
	if err != nil {
		closeQuietly(owned) // not through TLS: its goodbye could block on a stranger who does not read
		return
	}
	if route.stream != nil {
		route.stream.deliver(owned, conn)
		return
	}
	p.serveCalls(conn, owned, hello, route.handler)
}

// Close stops accepting, closes every connection, cancels the handlers and waits until all goroutines have
// ended. Calls in flight end with an error. It may be called more than once.
func (p *Peer) Close() error {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	streams := slices.Collect(maps.Values(p.streams))
	conns := slices.Collect(maps.Keys(p.conns))
	p.mu.Unlock()

	var err error
	if first {
		p.cancel() // before the listener: Serve tells a closed port from a broken one by it
		err = p.listener.Close()
		for _, s := range streams {
			_ = s.Close() // never fails
		}
		for _, conn := range conns {
			closeQuietly(conn)
		}
	}
	p.running.Wait()
	return err
}

// start runs fn in a goroutine that Close waits for. It reports false, and runs nothing, after Close.
func (p *Peer) start(fn func()) bool {
	if !p.hold() {
		return false
	}
	go func() {
		defer p.running.Done()
		fn()
	}()
	return true
}

// hold makes Close wait for a matching running.Done. It reports false after Close.
func (p *Peer) hold() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.running.Add(1)
	return true
}

// ownedConn is a connection that Close of its Peer closes. Whoever closes it earlier takes it off the Peer's list.
type ownedConn struct {
	net.Conn
	peer     *Peer
	accepted bool
	stream   *StreamLayer // guarded by peer.mu; nil: no Raft connection
}

// own puts a connection on the list. It closes the connection and reports false when the Peer is closed or has
// accepted too many.
func (p *Peer) own(conn net.Conn, accepted bool) (*ownedConn, bool) {
	owned := &ownedConn{Conn: conn, peer: p, accepted: accepted}
	p.mu.Lock()
	ok := !p.closed && (!accepted || p.accepted < maxConns)
	if ok {
		p.conns[owned] = struct{}{}
		if accepted {
			p.accepted++
		}
	}
	p.mu.Unlock()
	if !ok {
		closeQuietly(conn)
	}
	return owned, ok
}

// Close closes the connection and takes it off the Peer's list.
func (c *ownedConn) Close() error {
	c.peer.mu.Lock()
	if _, ok := c.peer.conns[c]; ok {
		delete(c.peer.conns, c)
		if c.accepted {
			c.peer.accepted--
		}
	}
	c.peer.mu.Unlock()
	return c.Conn.Close()
}

// closeQuietly closes a connection whose fate is already decided: an error here can tell nobody anything new.
func closeQuietly(conn net.Conn) { _ = conn.Close() }

// sleep waits for d; false means that ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
