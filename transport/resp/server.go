package resp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Server accepts connections and runs a session on each.
type Server struct {
	cfg     Config
	backend Backend
	ln      net.Listener
	pending pendingTotal

	// ctx is given to the backend. It ends when the connections are cut, not when Close begins.
	ctx context.Context
	cut context.CancelFunc

	closing   chan struct{} // closed by Close
	closeOnce sync.Once
	running   sync.WaitGroup // sessions and refusals
	refusing  chan struct{}  // a slot for each refusal under way

	mu       sync.Mutex // guards what follows
	sessions map[int64]*session
	lastID   int64
	closed   bool

	accepted, rejected, commands, bytesIn, bytesOut atomic.Uint64
}

// keepAlive finds peers that are gone without a word after about two minutes.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 20 * time.Second, Count: 3}

// Listen opens the port. Nothing is accepted before Serve.
func Listen(cfg Config, b Backend) (*Server, error) {
	cfg = cfg.withDefaults()
	lc := net.ListenConfig{KeepAliveConfig: keepAlive} // TCP_NODELAY is Go's default
	ln, err := lc.Listen(context.Background(), "tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen for Redis clients: %w", err)
	}
	return newServer(cfg, b, ln), nil
}

// maxRefusals is how many refused clients are told so at a time. More are closed without a word.
const maxRefusals = 64

func newServer(cfg Config, b Backend, ln net.Listener) *Server {
	s := &Server{
		cfg: cfg, backend: b, ln: ln,
		closing:  make(chan struct{}),
		refusing: make(chan struct{}, maxRefusals),
		sessions: map[int64]*session{},
	}
	s.pending.limit = int64(cfg.MaxPendingTotal)
	s.ctx, s.cut = context.WithCancel(context.Background())
	return s
}

// Addr is the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Clients is the number of connections.
func (s *Server) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Stats are the counters now.
func (s *Server) Stats() Stats {
	return Stats{
		Clients:  s.Clients(),
		Accepted: s.accepted.Load(),
		Rejected: s.rejected.Load(),
		Commands: s.commands.Load(),
		BytesIn:  s.bytesIn.Load(),
		BytesOut: s.bytesOut.Load(),
	}
}

const (
	minBackOff = 5 * time.Millisecond
	maxBackOff = time.Second
)

// Serve accepts connections until Close, and then returns nil. When accepting fails for want of something
// that may come back, as file descriptors, it waits and goes on.
func (s *Server) Serve() error {
	backOff := minBackOff
	for {
		conn, err := s.ln.Accept()
		if err == nil {
			backOff = minBackOff
			s.accept(conn)
			continue
		}
		if isClosed(s.closing) {
			return nil
		}
		if !passing(err) {
			return fmt.Errorf("accept Redis clients: %w", err)
		}
		s.cfg.Logger.Warn("cannot accept a Redis client, trying again", "error", err, "after", backOff)
		select {
		case <-time.After(backOff):
		case <-s.closing:
			return nil
		}
		backOff = min(2*backOff, maxBackOff)
	}
}

// passing reports whether accepting may succeed later.
func passing(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, // scarce, and given back
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR, syscall.EAGAIN, syscall.EPROTO, // this connection's trouble
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// accept starts a session on conn, or refuses it.
func (s *Server) accept(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close() // never used
		return
	}
	if len(s.sessions) >= s.cfg.MaxClients {
		s.rejected.Add(1)
		s.refuse(conn)
		return
	}
	s.accepted.Add(1)
	s.lastID++
	c := newSession(s, conn, s.lastID)
	s.sessions[c.id] = c
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		defer s.forget(c)
		c.run()
	}()
}

// refuse tells a client that there are too many. It does not wait for the client.
func (s *Server) refuse(conn net.Conn) {
	select {
	case s.refusing <- struct{}{}:
	default:
		_ = conn.Close() // never used
		return
	}
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		defer func() { <-s.refusing }()
		defer func() { _ = conn.Close() }() // nothing is lost by an error
		if err := conn.SetWriteDeadline(time.Now().Add(lingerTime)); err != nil {
			return
		}
		if _, err := conn.Write([]byte("-ERR max number of clients reached\r\n")); err == nil {
			linger(conn, s.closing)
		}
	}()
}

func (s *Server) forget(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, c.id)
}

// list returns the sessions in the order in which they connected.
func (s *Server) list() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.sessions), func(a, b *session) int { return int(a.id - b.id) })
}

func (s *Server) role() string {
	if r, ok := s.backend.(RoleReporter); ok {
		return r.Role()
	}
	return "master"
}

// Close stops accepting, lets the commands that are running finish and be answered, closes the
// connections and waits for their goroutines. After DrainTimeout it cuts what is left.
func (s *Server) Close() error {
	var err error
	s.closeOnce.Do(func() {
		close(s.closing)
		err = s.ln.Close()
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		for _, c := range s.list() {
			c.wake()
		}
	})
	s.drain()
	if err != nil {
		return fmt.Errorf("close the port for Redis clients: %w", err)
	}
	return nil
}

// drain waits for the sessions. When the time is over it first ends the context of the commands that
// run, so that their clients still hear what became of them: a connection that is closed without a reply
// makes some client libraries send the command again.
func (s *Server) drain() {
	defer s.cut()
	done := make(chan struct{})
	go func() { // ends when the sessions have ended, for which drain waits
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-time.After(s.cfg.DrainTimeout):
	}
	s.cfg.Logger.Warn("commands of Redis clients still run while the server closes, their context ends", "clients", s.Clients())
	s.cut()
	select {
	case <-done:
		return
	case <-time.After(lingerTime):
	}
	for _, c := range s.list() {
		_ = c.conn.Close() // the session reports what it could not do
	}
	<-done
}

const (
	lingerTime  = time.Second
	lingerBytes = 4 << 20
)

// linger lets the peer read the last reply. To close a connection while there is unread input resets it,
// and the reset can overtake the reply. So: send the end, and read until the peer has closed, but not
// for long. It returns early when closing is closed.
func linger(conn net.Conn, closing <-chan struct{}) {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	defer func() {
		close(stop)
		<-stopped
	}()
	go func() {
		defer close(stopped)
		select {
		case <-closing:
			_ = conn.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection
		case <-stop:
		}
	}()
	deadline := time.Now().Add(lingerTime)
	buf := make([]byte, minBuffer)
	for total := 0; total < lingerBytes; {
		if isClosed(closing) || conn.SetReadDeadline(deadline) != nil {
			return
		}
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		total += n
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
