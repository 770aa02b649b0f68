package transport

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// streamBacklog bounds the connections that wait for raft to accept them. Raft's accept loop only starts a
// goroutine, so that more than a few waiting means that it is gone.
const streamBacklog = 64

// StreamLayer is the Raft connections of one group: what hashicorp/raft's NetworkTransport needs below it.
type StreamLayer struct {
	peer      *Peer
	group     uint32
	advertise net.Addr
	places    chan struct{} // one token per connection that is promised or queued
	queue     chan net.Conn // never full: its senders hold a place
	done      chan struct{} // closed by Close
	closeOnce sync.Once
}

var _ raft.StreamLayer = (*StreamLayer)(nil)

// StreamLayer returns the Raft connections of a group. advertise is the address by which the other nodes reach
// this one; nil means the listener's. A group has one layer at a time: asking for it again, as a restarted
// group does, closes the one before.
func (p *Peer) StreamLayer(group uint32, advertise net.Addr) *StreamLayer {
	if advertise == nil {
		advertise = p.Addr()
	}
	s := &StreamLayer{
		peer: p, group: group, advertise: advertise,
		places: make(chan struct{}, streamBacklog), queue: make(chan net.Conn, streamBacklog), done: make(chan struct{}),
	}
	p.mu.Lock()
	before := p.streams[group]
	closed := p.closed
	if !closed {
		p.streams[group] = s
	}
	p.mu.Unlock()
	if before != nil {
		_ = before.Close() // never fails
	}
	if closed {
		_ = s.Close()
	}
	return s
}

// Accept returns the next connection that another node has opened to this group. After Close it fails with
// net.ErrClosed.
func (s *StreamLayer) Accept() (net.Conn, error) {
	select {
	case <-s.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case conn := <-s.queue:
		<-s.places
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Dial opens a connection to the same group on another node.
func (s *StreamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if timeout <= 0 || timeout > dialTimeout {
		timeout = dialTimeout
	}
	ctx, cancel := context.WithTimeout(s.peer.ctx, timeout)
	defer cancel()
	owned, conn, err := s.peer.dial(ctx, string(address), KindRaft, s.group)
	if err != nil {
		return nil, err
	}
	if !s.adopt(owned) {
		return nil, net.ErrClosed
	}
	return conn, nil
}

// Addr is the advertised address: raft takes it for its own.
func (s *StreamLayer) Addr() net.Addr { return s.advertise }

// Close ends Accept and closes all connections of the group, also those that raft is using: a group that stops
// must not leave half of a conversation behind. The Peer goes on. It never fails.
func (s *StreamLayer) Close() error {
	s.closeOnce.Do(func() {
		s.peer.mu.Lock()
		close(s.done) // under the lock, so that adopt sees it or is seen by the loop
		if s.peer.streams[s.group] == s {
			delete(s.peer.streams, s.group)
		}
		var mine []*ownedConn
		for conn := range s.peer.conns {
			if conn.stream == s {
				mine = append(mine, conn)
			}
		}
		s.peer.mu.Unlock()
		for _, conn := range mine {
			closeQuietly(conn)
		}
	})
	return nil
}

// reserve promises a place in the queue. The caller holds the Peer's lock.
func (s *StreamLayer) reserve() bool {
	select {
	case s.places <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *StreamLayer) unreserve() { <-s.places }

// deliver queues an accepted connection in its reserved place.
func (s *StreamLayer) deliver(owned *ownedConn, conn net.Conn) {
	if !s.adopt(owned) {
		s.unreserve()
		return
	}
	s.queue <- conn
}

// adopt makes Close close the connection. When the layer is closed already, adopt closes the connection and
// reports false.
func (s *StreamLayer) adopt(owned *ownedConn) bool {
	s.peer.mu.Lock()
	closed := false
	select {
	case <-s.done:
		closed = true
	default:
		owned.stream = s
	}
	s.peer.mu.Unlock()
	if closed {
		closeQuietly(owned)
	}
	return !closed
}
