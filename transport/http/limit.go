package http

import (
	"net"
	"sync"
)

// limitedListener accepts no more than a number of connections at a time.
type limitedListener struct {
	net.Listener
	places chan struct{} // one token per open connection
	done   chan struct{} // closed by Close
	once   sync.Once
	err    error
}

func limit(l net.Listener, n int) *limitedListener {
	return &limitedListener{Listener: l, places: make(chan struct{}, n), done: make(chan struct{})}
}

// Accept waits for a place, then for a connection.
func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitedConn{Conn: conn, release: sync.OnceFunc(func() { <-l.places })}, nil
}

// Close closes the listener; further calls repeat the outcome of the first.
func (l *limitedListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.err = l.Listener.Close()
	})
	return l.err
}

type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}
