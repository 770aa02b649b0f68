package netfault

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	chunkBytes = 16 << 10
	// queueChunks bounds what is on its way in one direction of a connection; then the sender has to wait, as with a full window.
	queueChunks = 64
)

// link is one TCP connection from a node to another, in two halves.
type link struct {
	from, to       string
	client, server *net.TCPConn
	once           sync.Once
	done           chan struct{} // closed by reset
}

// reset ends both halves in the rough way: each node sees ECONNRESET.
func (l *link) reset() {
	l.once.Do(func() {
		close(l.done)
		for _, conn := range []*net.TCPConn{l.client, l.server} {
			_ = conn.SetLinger(0) // the connection may be gone already
			_ = conn.Close()
		}
	})
}

func (n *Network) accept(listener *net.TCPListener, to string, target *net.TCPAddr) {
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			return // closed
		}
		n.wg.Go(func() { n.connect(conn, to, target) })
	}
}

// connect joins an accepted connection with one to the node. When the node does not listen, or the one who called is gone, the
// caller sees a closed connection.
func (n *Network) connect(client *net.TCPConn, to string, target *net.TCPAddr) {
	from, err := n.source(client.RemoteAddr())
	if err != nil {
		_ = client.Close() // nobody is there
		return
	}
	server, err := net.DialTCP("tcp", nil, target)
	if err != nil {
		_ = client.Close() // as the node would have refused it
		return
	}
	l := &link{from: from, to: to, client: client, server: server, done: make(chan struct{})}
	n.mu.Lock()
	closed := n.closed
	n.links[l] = struct{}{}
	n.mu.Unlock()
	if closed {
		l.reset()
	}
	var halves sync.WaitGroup
	halves.Go(func() { n.carry(l, from, to, l.client, l.server) })
	halves.Go(func() { n.carry(l, to, from, l.server, l.client) })
	halves.Wait()
	l.reset()
	n.mu.Lock()
	delete(n.links, l)
	n.mu.Unlock()
}

// chunk is a piece of a stream. The last one is empty: the sender has closed its half.
type chunk struct {
	data []byte
	read time.Time
}

// carry moves one direction of a connection until its end.
func (n *Network) carry(l *link, from, to string, src, dst *net.TCPConn) {
	queue := make(chan chunk, queueChunks)
	n.wg.Go(func() { l.fill(queue, src) })
	for {
		var c chunk
		select {
		case c = <-queue:
		case <-l.done:
			return
		}
		if !n.hold(l, from, to, c) {
			return
		}
		if len(c.data) == 0 {
			_ = dst.CloseWrite() // the other direction may go on
			return
		}
		if _, err := dst.Write(c.data); err != nil {
			l.reset()
			return
		}
	}
}

// fill reads src to its end.
func (l *link) fill(queue chan<- chunk, src *net.TCPConn) {
	for {
		buf := make([]byte, chunkBytes)
		size, err := src.Read(buf)
		if err != nil && !errors.Is(err, io.EOF) {
			l.reset()
			return
		}
		select {
		case queue <- chunk{data: buf[:size], read: time.Now()}:
		case <-l.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// hold waits until the rules let a chunk arrive, or returns false when the connection has ended.
func (n *Network) hold(l *link, from, to string, c chunk) bool {
	begin := time.Now() // this chunk's turn: the chunks before it have left
	for {
		rule, changed := n.rule(from, to)
		due := c.read.Add(rule.Delay)
		if rule.BytesPerSecond > 0 {
			sent := begin.Add(time.Duration(len(c.data)) * time.Second / time.Duration(rule.BytesPerSecond))
			if sent.After(due) {
				due = sent
			}
		}
		wait := time.Until(due)
		if !rule.Cut && wait <= 0 {
			return true
		}
		var timer <-chan time.Time // a cut has no end of its own
		if !rule.Cut {
			timer = time.After(wait)
		}
		select {
		case <-timer:
		case <-changed:
		case <-l.done:
			return false
		}
	}
}
