package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
)

// sockets are the connections of a Client. Close of the Client closes them here, below go-redis, which would
// complain on the program's standard error about connections that are closed while they are in use.
type sockets struct {
	mu     sync.Mutex
	closed bool
	open   map[*socket]struct{}
}

// socket is a connection that is taken off the list when it is closed.
type socket struct {
	net.Conn
	list *sockets
	once sync.Once
	err  error
}

// pollable is a socket that go-redis can ask whether the server has hung up: it does so before each use, and
// only if it finds this interface.
type pollable struct {
	*socket
	syscall.Conn
}

// add puts a connection on the list. After closeAll it is closed instead.
func (s *sockets) add(conn net.Conn) (net.Conn, error) {
	c := &socket{Conn: conn, list: s}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.open[c] = struct{}{}
	}
	s.mu.Unlock()
	if closed {
		_ = conn.Close() // ErrClosed says more
		return nil, ErrClosed
	}
	if raw, ok := conn.(syscall.Conn); ok {
		return pollable{c, raw}, nil
	}
	return c, nil
}

func (s *sockets) closeAll() {
	s.mu.Lock()
	s.closed = true
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for c := range open {
		_ = c.Close() // whoever uses it learns of it
	}
}

// Close closes the connection once.
func (c *socket) Close() error {
	c.once.Do(func() {
		c.list.mu.Lock()
		delete(c.list.open, c)
		c.list.mu.Unlock()
		c.err = c.Conn.Close()
	})
	return c.err
}

// dial connects for go-redis. It never fails: a connection that could not be made fails with its error at the
// first use. For go-redis counts failed dials, and after a few of them refuses new ones for a second, which is
// longer than an election.
func (n *node) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, n.core.opts.DialTimeout)
	defer cancel()
	stop := context.AfterFunc(n.core.ctx, cancel)
	defer stop()

	conn, err := n.connect(ctx, network, addr)
	if err != nil {
		return failedConn{&dialError{err}}, nil
	}
	return conn, nil
}

func (n *node) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	raw, err := n.core.opts.Dialer(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn, err := n.core.sockets.add(raw)
	if err != nil {
		return nil, err
	}
	ready, err := n.greet(ctx, conn)
	if err != nil {
		_ = conn.Close() // err says more
		return nil, err
	}
	return ready, nil
}

// greet runs TLS and one PING on a fresh connection. The PING finds out about a server that hangs, or that
// refuses the connection as one too many, before a write is sent down the line and cannot be taken back.
func (n *node) greet(ctx context.Context, conn net.Conn) (net.Conn, error) {
	raw := conn
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if base := n.core.opts.TLS; base != nil {
		cfg := base.Clone()
		if cfg.ServerName == "" {
			host, _, err := net.SplitHostPort(n.addr)
			if err != nil {
				return nil, err
			}
			cfg.ServerName = host
		}
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		conn = secure
	}
	if _, err := io.WriteString(conn, "*1\r\n$4\r\nPING\r\n"); err != nil {
		return nil, err
	}
	answer, err := readLine(conn)
	if err != nil {
		return nil, fmt.Errorf("greet the server: %w", err)
	}
	if text, failed := strings.CutPrefix(answer, "-"); failed && code(text) != "NOAUTH" && !definite[code(text)] {
		return nil, errors.New("the server refuses connections: " + text)
	}
	if !strings.HasPrefix(answer, "-") && answer != "+PONG" {
		return nil, fmt.Errorf("this is not a Redis port: PING was answered with %q", answer)
	}
	if !stop() {
		return nil, context.Cause(ctx) // the deadline of the past may be set at any moment
	}
	return conn, nil
}

// readLine reads up to CRLF and not a byte further, since the connection goes on to somebody who buffers.
func readLine(r io.Reader) (string, error) {
	const most = 512
	line, one := make([]byte, 0, 64), make([]byte, 1)
	for len(line) < most {
		if _, err := io.ReadFull(r, one); err != nil {
			return "", err
		}
		line = append(line, one[0])
		if text, ok := strings.CutSuffix(string(line), "\r\n"); ok {
			return text, nil
		}
	}
	return "", errors.New("the answer to PING does not end")
}

// dialError is why there is no connection. go-redis unwraps errors of this stage once; this is the layer for it.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }

func (e *dialError) Unwrap() error { return e.err }

// failedConn is a connection that could not be made.
type failedConn struct{ err *dialError }

func (c failedConn) Read([]byte) (int, error) { return 0, c.err }

func (c failedConn) Write([]byte) (int, error) { return 0, c.err }

func (failedConn) Close() error { return nil }

func (failedConn) LocalAddr() net.Addr { return &net.TCPAddr{} }

func (failedConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }

func (failedConn) SetDeadline(time.Time) error { return nil }

func (failedConn) SetReadDeadline(time.Time) error { return nil }

func (failedConn) SetWriteDeadline(time.Time) error { return nil }
