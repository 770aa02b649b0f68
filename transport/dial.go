package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	// dialTimeout bounds connecting and the handshake together.
	dialTimeout = handshakeTimeout

	// After a failed dial, calls fail at once for firstBackoff/2 to firstBackoff, doubling up to
	// longestBackoff: a dead peer must not cost each call a dial, and one that is back must be noticed before
	// anybody cares.
	firstBackoff   = 25 * time.Millisecond
	longestBackoff = 200 * time.Millisecond

	// maxLinks is when links without a connection are swept: nodes change their addresses.
	maxLinks = 256
)

// dial connects to addr and runs the dialing side of the handshake. Every error is an ErrNotSent.
func (p *Peer) dial(ctx context.Context, addr string, kind Kind, group uint32) (*ownedConn, net.Conn, error) {
	hello := Hello{ClusterID: p.cfg.ClusterID(), NodeID: p.cfg.NodeID, Group: group, Kind: kind}
	if hello.ClusterID == "" && kind != KindControl {
		return nil, nil, notSent(fmt.Errorf("this node belongs to no cluster yet, it may open no %s connection", kind))
	}
	if len(hello.ClusterID) > maxIDBytes {
		return nil, nil, notSent(fmt.Errorf("cluster id of %d bytes, at most %d are allowed", len(hello.ClusterID), maxIDBytes))
	}
	dialer := net.Dialer{KeepAliveConfig: keepAlive}
	raw, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, notSent(err)
	}
	owned, ok := p.own(raw, false)
	if !ok {
		return nil, nil, notSent(net.ErrClosed)
	}
	conn, err := p.introduce(ctx, owned, addr, hello)
	if err != nil {
		closeQuietly(owned)
		if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", cause, err) // the i/o time-out alone would not say whose
		}
		return nil, nil, notSent(fmt.Errorf("handshake: %w", err))
	}
	return owned, conn, nil
}

// introduce runs TLS and the hello on a fresh connection, as long as ctx lasts.
func (p *Peer) introduce(ctx context.Context, owned *ownedConn, addr string, hello Hello) (net.Conn, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return nil, errors.New("handshake without a deadline")
	}
	if err := owned.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = owned.SetDeadline(time.Unix(1, 0)) }) // a canceled dial must not wait on
	defer stop()

	var conn net.Conn = owned
	if p.clientTLS != nil {
		cfg := p.clientTLS
		if cfg.ServerName == "" {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			cfg = cfg.Clone()
			cfg.ServerName = host
		}
		conn = tls.Client(owned, cfg)
	}
	if _, err := conn.Write(appendHello(nil, hello)); err != nil {
		return nil, fmt.Errorf("write the hello: %w", err)
	}
	if err := readAnswer(conn); err != nil {
		return nil, err
	}
	if !stop() {
		return nil, context.Cause(ctx) // the deadline of the past may be set at any moment
	}
	return conn, conn.SetDeadline(time.Time{})
}

// linkKey names the calls that share a connection.
type linkKey struct {
	addr  string
	kind  Kind
	group uint32
}

// link holds the connection for one key: there is none, one is being dialed, or one is in use.
type link struct {
	peer *Peer
	key  linkKey

	mu sync.Mutex
	// mu guards what follows.
	conn     *callConn
	dialing  chan struct{} // closed when the dial under way has ended; nil: none is
	failures int           // dials failed in a row
	retryAt  time.Time     // no dial before
	lastErr  error         // of the last failed dial
}

// link returns the link for a key, making it when it is missing.
func (p *Peer) link(key linkKey) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	if l, ok := p.links[key]; ok {
		return l, nil
	}
	if len(p.links) >= maxLinks {
		for k, l := range p.links {
			if l.idle() {
				delete(p.links, k) // at worst a caller that holds it dials a connection of its own
			}
		}
	}
	l := &link{peer: p, key: key}
	p.links[key] = l
	return l, nil
}

// idle reports whether nothing is lost when the link is dropped.
func (l *link) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dialing == nil && (l.conn == nil || !l.conn.alive())
}

// get returns the connection. Without one it dials, or waits for the dial under way, or fails at once when a
// dial has failed a moment ago. The connection may have died since; calls on it then say that they were not
// sent.
func (l *link) get(ctx context.Context) (*callConn, error) {
	l.mu.Lock()
	if l.conn != nil && l.conn.alive() {
		conn := l.conn
		l.mu.Unlock()
		return conn, nil
	}
	l.conn = nil
	if l.dialing == nil {
		if err := l.dialLocked(); err != nil {
			l.mu.Unlock()
			return nil, err
		}
	}
	dialing := l.dialing
	l.mu.Unlock()

	select {
	case <-dialing:
	case <-ctx.Done():
		return nil, notSent(fmt.Errorf("still connecting: %w", ctx.Err()))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.conn != nil:
		return l.conn, nil
	case l.lastErr != nil:
		return nil, l.lastErr
	default:
		return nil, notSent(errConnDead) // made and lost before this caller woke up
	}
}

// dialLocked starts a dial that outlives its caller's patience: others wait for it too, and the next call finds
// its result.
func (l *link) dialLocked() error {
	if l.lastErr != nil && time.Now().Before(l.retryAt) {
		return l.lastErr
	}
	dialing := make(chan struct{})
	if !l.peer.start(func() { l.dial(dialing) }) {
		return notSent(net.ErrClosed)
	}
	l.dialing = dialing
	return nil
}

// dial makes the connection, or notes why it cannot be made and when to try again.
func (l *link) dial(dialing chan struct{}) {
	ctx, cancel := context.WithTimeout(l.peer.ctx, dialTimeout)
	defer cancel()
	owned, raw, err := l.peer.dial(ctx, l.key.addr, l.key.kind, l.key.group)
	var conn *callConn
	if err == nil {
		var ok bool
		if conn, ok = l.peer.newCallConn(raw, owned); !ok {
			conn, err = nil, notSent(net.ErrClosed)
		}
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialing = nil
	close(dialing)
	l.conn, l.lastErr = conn, err
	if err == nil {
		l.failures = 0
		return
	}
	backoff := min(firstBackoff<<min(l.failures, 8), longestBackoff)
	l.failures++
	l.retryAt = time.Now().Add(backoff/2 + rand.N(backoff/2))
}
