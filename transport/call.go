package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// A connection on which something was sent and nothing has been received since is probed after probeAfter
	// and given up after deadAfter: a partition leaves such connections open for minutes, and every call on
	// them would run into its deadline. A peer that is only slow at answering still sends the probe back.
	probeAfter = time.Second
	deadAfter  = 2 * time.Second
	watchEvery = 500 * time.Millisecond
)

var (
	errSilent   = fmt.Errorf("nothing was received for %v", deadAfter)
	errConnDead = errors.New("the connection was closed")
)

// Call sends req to the handler for kind at addr and waits for its answer. Calls to the same address, kind and
// group share one connection, which is made when it is first needed and made anew when it broke. req may be
// reused when Call has returned. See the package comment for what an error says about the outcome.
func (p *Peer) Call(ctx context.Context, addr string, kind Kind, group uint32, req []byte) ([]byte, error) {
	if len(req) > p.cfg.MaxMessageBytes {
		return nil, notSent(fmt.Errorf("%s call to %s: request of %d bytes, at most %d are allowed", kind, addr, len(req), p.cfg.MaxMessageBytes))
	}
	l, err := p.link(linkKey{addr: addr, kind: kind, group: group})
	if err != nil {
		return nil, notSent(fmt.Errorf("%s call to %s: %w", kind, addr, err))
	}
	// Twice at most: the first connection may turn out to have died while nobody used it.
	for range 2 {
		var conn *callConn
		if conn, err = l.get(ctx); err != nil {
			break
		}
		var answer []byte
		if answer, err = conn.call(ctx, req); err == nil {
			return answer, nil
		}
		if !errors.Is(err, errConnDead) || !errors.Is(err, ErrNotSent) {
			break
		}
	}
	var remote *RemoteError
	if errors.As(err, &remote) {
		return nil, err
	}
	return nil, fmt.Errorf("%s call to %s: %w", kind, addr, err)
}

// callConn is the calling side of one connection. Its reader, writer and watch end when fail has closed the
// connection.
type callConn struct {
	conn     net.Conn
	closer   io.Closer // the socket below conn: a TLS goodbye could block on a peer that is gone
	maxBytes int
	out      *outbox
	done     chan struct{} // closed when dead is set

	spare sync.Pool // of *call

	// silentSince is when the first frame after the last received byte was written, in unix ns; 0: all was answered.
	silentSince atomic.Int64

	mu sync.Mutex
	// mu guards what follows.
	pending map[uint64]*call
	lastID  uint64
	dead    error // set once, by fail
}

// call is one call in flight. It is reused, hence the rule: whoever removes it from pending, and only he, may send to
// result, and it becomes spare only when nobody can send any more.
type call struct{ result chan callResult } // capacity 1

type callResult struct {
	answer []byte
	err    error
}

// newCallConn starts the goroutines of a connection whose handshake is over.
func (p *Peer) newCallConn(conn net.Conn, closer io.Closer) (*callConn, bool) {
	c := &callConn{
		conn: conn, closer: closer, maxBytes: p.cfg.MaxMessageBytes, out: newOutbox(),
		done: make(chan struct{}), pending: make(map[uint64]*call),
	}
	run := func(loop func() error) func() { return func() { c.fail(loop()) } }
	started := p.start(run(c.read)) && p.start(run(c.write)) && p.start(run(c.watch))
	if !started {
		c.fail(net.ErrClosed) // the ones that did start see the closed connection
	}
	return c, started
}

// call sends one request and waits for the answer.
func (c *callConn) call(ctx context.Context, req []byte) ([]byte, error) {
	f := frame{payload: req}
	if deadline, ok := ctx.Deadline(); ok {
		f.tag = patienceTag(time.Until(deadline))
	}
	if err := ctx.Err(); err != nil {
		return nil, notSent(err)
	}
	w, id, err := c.register()
	if err != nil {
		return nil, err
	}
	f.id = id
	if err := c.out.push(ctx.Done(), f); err != nil {
		c.withdraw(id, w)
		if errors.Is(err, errOutboxFull) {
			return nil, notSent(fmt.Errorf("%w: %w", err, ctx.Err()))
		}
		return nil, notSent(errConnDead)
	}
	select {
	case r := <-w.result:
		c.spare.Put(w)
		return r.answer, r.err
	case <-ctx.Done():
	}
	if c.out.remove(id) {
		c.withdraw(id, w)
		return nil, notSent(ctx.Err())
	}
	if r, ok := c.withdraw(id, w); ok {
		return r.answer, r.err // the answer came at the last moment
	}
	return nil, fmt.Errorf("no answer in time, the outcome is unknown: %w", ctx.Err())
}

// register enters a new call into pending.
func (c *callConn) register() (*call, uint64, error) {
	w, ok := c.spare.Get().(*call)
	if !ok {
		w = &call{result: make(chan callResult, 1)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil {
		c.spare.Put(w)
		return nil, 0, notSent(errConnDead)
	}
	c.lastID++
	c.pending[c.lastID] = w
	return w, c.lastID, nil
}

// withdraw ends a call whose caller stops waiting. When somebody else has taken it out of pending already, its
// result is returned.
func (c *callConn) withdraw(id uint64, w *call) (callResult, bool) {
	c.mu.Lock()
	_, mine := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	var r callResult
	if !mine {
		r = <-w.result // being sent right now
	}
	c.spare.Put(w)
	return r, !mine
}

// read hands answers to their callers until the connection breaks.
func (c *callConn) read() error {
	r := bufio.NewReaderSize(hearing{c}, readBufferBytes)
	var head [frameHeadBytes]byte
	for {
		f, err := readFrame(r, &head, c.maxBytes)
		if err != nil {
			return err
		}
		c.mu.Lock()
		w, ok := c.pending[f.id]
		delete(c.pending, f.id)
		c.mu.Unlock()
		if !ok {
			continue // a probe, or a call whose caller has gone
		}
		switch f.tag {
		case statusOK:
			w.result <- callResult{answer: f.payload}
		case statusError:
			w.result <- callResult{err: &RemoteError{Text: string(f.payload)}}
		default:
			w.result <- callResult{err: fmt.Errorf("the request was handled, but its answer was lost, the outcome is unknown: %s", f.payload)}
		}
	}
}

// hearing reads from the connection and notes that the peer is alive, also in the middle of a long answer.
type hearing struct{ c *callConn }

func (h hearing) Read(b []byte) (int, error) {
	n, err := h.c.conn.Read(b)
	if n > 0 {
		h.c.silentSince.Store(0)
	}
	return n, err
}

func (c *callConn) write() error {
	return c.out.run(c.conn, func() {
		c.silentSince.CompareAndSwap(0, time.Now().UnixNano())
	})
}

// watch gives the connection up when the peer has fallen silent.
func (c *callConn) watch() error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	probed := int64(0)              // the silence that the last probe was for
	dontWait := make(chan struct{}) // a full outbox needs no probe: it holds enough to be answered
	close(dontWait)
	for {
		select {
		case <-c.done:
			return nil
		case <-ticker.C:
		}
		since := c.silentSince.Load()
		if since == 0 {
			continue
		}
		silence := time.Duration(time.Now().UnixNano() - since)
		if silence > deadAfter {
			return errSilent
		}
		if silence > probeAfter && probed != since {
			probed = since
			if err := c.out.push(dontWait, frame{id: probeID}); errors.Is(err, errOutboxClosed) {
				return err
			}
		}
	}
}

// fail closes the connection and ends its calls, the ones whose frames were never encoded as not sent. Only its
// first call counts.
func (c *callConn) fail(cause error) {
	c.mu.Lock()
	if c.dead != nil {
		c.mu.Unlock()
		return
	}
	if cause == nil || errors.Is(cause, io.EOF) {
		cause = errConnDead
	}
	c.dead = cause
	close(c.done)
	pending := c.pending
	c.pending = make(map[uint64]*call)
	c.mu.Unlock()

	_ = c.closer.Close() // its fate is decided
	for _, id := range c.out.close() {
		if w, ok := pending[id]; ok {
			w.result <- callResult{err: notSent(errConnDead)}
			delete(pending, id)
		}
	}
	for _, w := range pending {
		w.result <- callResult{err: fmt.Errorf("the connection broke after the request was sent, the outcome is unknown: %w", cause)}
	}
}

// alive reports whether a call may still be tried.
func (c *callConn) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}
