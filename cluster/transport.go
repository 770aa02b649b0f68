package cluster

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	rpcTimeout = 10 * time.Second // of one raft RPC, a full AppendEntries to a slow disk included
	// dialTimeout is shorter: a node that does not answer a dial would hold up a shutdown for rpcTimeout.
	dialTimeout = 2 * time.Second
	connPool    = 3 // per peer: replication, heartbeats, votes
)

// transport wraps raft's network transport against its open bugs. It embeds the real type, so that raft
// still sees its optional interfaces: without RequestPreVote it would turn pre-vote off.
type transport struct {
	*raft.NetworkTransport
	watch    *stallWatch
	stream   *stream
	addrs    *addressBook
	counters *counters

	snapshotIdle time.Duration
	incoming     chan raft.RPC // unbuffered
	closing      chan struct{}
	received     chan struct{} // closed when receive has returned
	closeOnce    sync.Once
}

// newTransport starts a goroutine, which Close ends.
func newTransport(stream *stream, addrs *addressBook, watch *stallWatch, log *hclogAdapter, counters *counters) *transport {
	t := &transport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			ServerAddressProvider: addrs,
			Logger:                log,
			Stream:                stream,
			MaxPool:               connPool,
			// One: with pipelining, a follower's single refusal can end replication to it for the rest
			// of the term while its heartbeats look healthy (hashicorp/raft#612).
			MaxRPCsInFlight:         1,
			Timeout:                 rpcTimeout,
			MsgpackUseNewTimeFormat: true,
		}),
		watch: watch, stream: stream, addrs: addrs, counters: counters, snapshotIdle: snapshotIdle,
		incoming: make(chan raft.RPC), closing: make(chan struct{}), received: make(chan struct{}),
	}
	go t.receive()
	return t
}

// SetHeartbeatHandler drops the handler. raft would answer heartbeats on the connection's goroutine, where
// changing term and state races the main thread: a leader could store entries under a wrong term, and
// committed ones could be lost (hashicorp/raft#695). Without a handler they take the main path.
func (t *transport) SetHeartbeatHandler(func(rpc raft.RPC)) {}

// AppendEntries also carries heartbeats. A leader whose disk is stalled sends none, so that the others
// elect a leader that can write.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := t.watch.stalled(); err != nil {
		return err
	}
	return t.NetworkTransport.AppendEntries(id, target, req, resp)
}

// InstallSnapshot compresses the stream for nodes that understand it (compress.go).
func (t *transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if !t.addrs.takesSqueezed(id) {
		t.counters.snapshotRaw.Add(uint64(req.Size))
		t.counters.snapshotWire.Add(uint64(req.Size))
		return t.NetworkTransport.InstallSnapshot(id, target, req, resp, data)
	}
	squeezed, s, err := squeeze(req, data, t.counters)
	if err != nil {
		return err
	}
	err = t.NetworkTransport.InstallSnapshot(id, target, squeezed, resp, s)
	return errors.Join(err, s.Close())
}

// addressBook tells raft where a node is now, and what it understands. raft knows nodes by the address in its
// configuration, which is old after a restart elsewhere; gossip is newer.
type addressBook struct {
	addrs    atomic.Pointer[map[raft.ServerID]raft.ServerAddress]
	squeezed atomic.Pointer[map[raft.ServerID]bool]
}

// takesSqueezed tells whether a node understands compressed snapshots.
func (b *addressBook) takesSqueezed(id raft.ServerID) bool {
	m := b.squeezed.Load()
	return m != nil && (*m)[id]
}

var errNoAddress = errors.New("no address is known")

// ServerAddr implements raft.ServerAddressProvider. After an error raft uses its own address.
func (b *addressBook) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if m := b.addrs.Load(); m != nil {
		if addr, ok := (*m)[id]; ok {
			return addr, nil
		}
	}
	return "", errNoAddress
}

func (b *addressBook) replace(m map[raft.ServerID]raft.ServerAddress) { b.addrs.Store(&m) }

// streamHub shares one stream layer between the successive transports of a group. raft closes its
// transport, and with it the layer, when it shuts down; the group may start another raft over it.
type streamHub struct {
	inner raft.StreamLayer
	conns chan net.Conn // unbuffered: the accept loop waits for the stream that takes the connection
	stop  chan struct{}
	done  chan struct{}
}

func newStreamHub(inner raft.StreamLayer) *streamHub {
	h := &streamHub{inner: inner, conns: make(chan net.Conn), stop: make(chan struct{}), done: make(chan struct{})}
	go h.accept()
	return h
}

// accept ends when the layer is closed.
func (h *streamHub) accept() {
	defer close(h.done)
	for {
		conn, err := h.inner.Accept()
		if err != nil {
			select {
			case <-h.stop:
				return
			case <-time.After(50 * time.Millisecond): // out of file descriptors, say
				continue
			}
		}
		select {
		case h.conns <- conn:
		case <-h.stop:
			_ = conn.Close() // nobody has used it
			return
		}
	}
}

// Close closes the layer and waits for the accept loop.
func (h *streamHub) Close() error {
	close(h.stop)
	err := h.inner.Close()
	<-h.done
	return err
}

// open makes a stream layer for one transport.
func (h *streamHub) open() *stream {
	return &stream{hub: h, closed: make(chan struct{}), conns: map[*streamConn]struct{}{}}
}

// stream is a raft.StreamLayer whose Close ends its own connections only. raft's transport leaves accepted
// connections open when it closes, and its RPCs wait for answers up to rpcTimeout: closing the
// connections ends both.
type stream struct {
	hub    *streamHub
	closed chan struct{}

	mu    sync.Mutex
	over  bool
	conns map[*streamConn]struct{}
}

// Accept implements net.Listener.
func (s *stream) Accept() (net.Conn, error) {
	select {
	case conn := <-s.hub.conns:
		return s.adopt(conn, true)
	case <-s.closed:
		return nil, net.ErrClosed
	case <-s.hub.stop:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (s *stream) Addr() net.Addr { return s.hub.inner.Addr() }

// Dial implements raft.StreamLayer.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	select {
	case <-s.closed:
		return nil, net.ErrClosed
	default:
	}
	conn, err := s.hub.inner.Dial(address, min(timeout, dialTimeout))
	if err != nil {
		return nil, err
	}
	return s.adopt(conn, false)
}

func (s *stream) adopt(conn net.Conn, accepted bool) (net.Conn, error) {
	c := &streamConn{Conn: conn, owner: s, accepted: accepted}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		_ = conn.Close() // nobody has used it
		return nil, net.ErrClosed
	}
	s.conns[c] = struct{}{}
	return c, nil
}

// Close implements net.Listener.
func (s *stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil
	}
	s.over = true
	close(s.closed)
	for c := range s.conns {
		_ = c.Conn.Close() // whoever reads or writes there gets the error
	}
	clear(s.conns)
	return nil
}

// dropAccepted closes the connections that other nodes have opened. They open new ones.
func (s *stream) dropAccepted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.accepted {
			_ = c.Conn.Close() // its user gets the error
			delete(s.conns, c)
		}
	}
}

type streamConn struct {
	net.Conn
	owner    *stream
	accepted bool // from another node
	// deadline is raft's, for all of an RPC. raft sets it before it uses the connection.
	deadline time.Time
}

// SetDeadline implements net.Conn.
func (c *streamConn) SetDeadline(t time.Time) error {
	c.deadline = t
	return c.Conn.SetDeadline(t)
}

// Read implements net.Conn. raft's deadline for an RPC is also that for sending it. A large request over a slow
// network would take longer each time it is tried, so the answer's time begins when the request is out.
func (c *streamConn) Read(p []byte) (int, error) {
	if now := time.Now(); !c.deadline.IsZero() && c.deadline.Before(now.Add(rpcTimeout)) {
		if err := c.SetReadDeadline(now.Add(rpcTimeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

// Write implements net.Conn. raft allows an InstallSnapshot time in proportion to its size, hours for a large
// one; a peer that vanished would keep replication waiting that long. So each piece must go out in time.
func (c *streamConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(rpcTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Close implements net.Conn.
func (c *streamConn) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.conns, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}
