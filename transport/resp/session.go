package resp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftcask/raftcask/command"
)

const (
	// maxBatch and maxBatchBytes bound the commands that are run at once, and their arguments; a larger
	// pipeline is several batches.
	maxBatch      = 8192
	maxBatchBytes = 4 << 20
	// firstBatch is the bound for a new connection. It grows up to maxBatch while the replies of a batch have
	// no more than batchReplyBytes, and shrinks down to one command when they have: all replies of a batch
	// are in memory together, and a pipeline of short GETs may ask for much.
	firstBatch      = 128
	batchReplyBytes = 4 << 20
	// refusalTime is how long a refusal holds for the rest of a pipeline, see session.exec.
	refusalTime = time.Second
	// idleTime is after how long without a command a connection gives back its large buffers.
	idleTime = 2 * time.Second
	// minCalls is one allocation for calls.
	minCalls = 64
)

// session is one connection. Its goroutine, run, owns every field that is not said to be shared.
type session struct {
	srv     *Server
	conn    net.Conn
	id      int64
	created time.Time

	parser parser
	out    *writer
	batch  batch
	limit  int // of commands in a batch

	proto  int   // 2 or 3, as the next reply is rendered
	quit   bool  // nothing is parsed any more
	armed  bool  // a read deadline is set
	failed error // a protocol error, to be answered last

	mode readMode

	refusal   *command.Reply // of the last command before, if it was not applied
	refusedAt time.Time

	calls []command.Call // the batch's calls are its end; filled up to its length and never used again
	kept  int            // bytes of arguments that calls points at

	lastActive atomic.Int64                 // Unix ms; shared
	lastSpec   atomic.Pointer[command.Spec] // shared

	mu      sync.Mutex // guards what follows; CLIENT LIST of other sessions reads it
	info    clientInfo
	closing bool
}

// batch is what was parsed and not yet answered.
type batch struct {
	calls  []command.Call // for the backend
	order  []int32        // the replies in order: i for that of calls[i], ^i for direct[i]
	direct []direct
	bytes  int // arguments of calls
}

// direct is a reply that needs no backend.
type direct struct {
	reply command.Reply
	proto int // the version to render in from here on; 0 leaves it
}

func newSession(srv *Server, conn net.Conn, id int64) *session {
	c := &session{
		srv: srv, conn: conn, id: id, created: time.Now(), proto: 2, limit: firstBatch,
		parser: newParser(&srv.cfg),
		out:    newWriter(conn, &srv.cfg, &srv.pending, &srv.bytesOut),
		info:   clientInfo{proto: 2},
	}
	c.lastActive.Store(c.created.UnixMilli())
	return c
}

// run serves the connection until either side ends it.
func (c *session) run() {
	defer func() { _ = c.conn.Close() }() // everything was written, or the connection is lost
	defer func() {
		if reason := recover(); reason != nil {
			c.logPanic(reason)
			_ = c.conn.Close() // before the drainer is waited for
			_ = c.out.finish() // the connection is closed
		}
	}()
	err := c.serve()
	if flushErr := c.out.finish(); err == nil {
		err = flushErr
	}
	switch {
	case c.failed != nil:
		c.srv.cfg.Logger.Info("a Redis client broke the protocol", "client", c.conn.RemoteAddr(), "error", err)
		linger(c.conn, c.srv.closing)
	case err != nil:
		c.srv.cfg.Logger.Debug("a Redis client was lost", "client", c.conn.RemoteAddr(), "error", err)
	case c.quit:
		linger(c.conn, c.srv.closing)
	}
}

func (c *session) logPanic(reason any) {
	c.srv.cfg.Logger.Error("panic while a Redis client was served, its connection is closed",
		"client", c.conn.RemoteAddr(), "panic", reason, "stack", string(debug.Stack()))
}

// serve reads, answers and flushes, in turn. It returns nil when the client has gone or quit, or the
// server closes.
func (c *session) serve() error {
	for !c.quit {
		n, err := c.read()
		if n > 0 {
			c.parser.filled(n)
			c.lastActive.Store(time.Now().UnixMilli())
			c.srv.bytesIn.Add(uint64(n))
			c.answer()
			if err := c.out.flush(); err != nil {
				return fmt.Errorf("write: %w", err)
			}
			if !c.parser.midway() {
				c.refusal = nil
			}
		}
		switch {
		case c.failed != nil:
			return c.failed
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, errClosing):
			return nil
		default:
			return fmt.Errorf("read: %w", err)
		}
	}
	return nil
}

var errClosing = errors.New("the server is closing")

// read waits for input. When there has been none for a while, it gives back large buffers and waits on.
func (c *session) read() (int, error) {
	for {
		if err := c.arm(c.parser.large()); err != nil {
			return 0, err
		}
		n, err := c.conn.Read(c.parser.space())
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		c.parser.rest()
		c.out.rest()
		c.calls, c.kept = nil, 0
	}
}

// arm sets a read deadline, or takes it away. It is only set while there is something to give back, so
// that most reads need none. Under the lock, because wake sets one too, which must not be undone.
func (c *session) arm(on bool) error {
	if !on && !c.armed && !isClosed(c.srv.closing) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return errClosing
	}
	var deadline time.Time
	if on {
		deadline = time.Now().Add(idleTime)
	}
	c.armed = on
	return c.conn.SetReadDeadline(deadline)
}

// wake ends the session when what it is doing is done: it will not wait for input any more. Called by
// Server.Close.
func (c *session) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection
}

// answer runs all commands in the buffer, and renders their replies and the protocol error after them.
func (c *session) answer() {
	for !c.quit && c.failed == nil {
		event, err := c.parser.next()
		if err != nil {
			c.failed = fmt.Errorf("protocol error: %w", err)
			c.reply(command.Err("ERR Protocol error: " + err.Error()))
			break
		}
		if event == evMore {
			break
		}
		if event == evRefused {
			c.reply(*c.parser.refusal)
		} else {
			c.command(c.parser.args)
		}
		if len(c.batch.order) >= c.limit || c.batch.bytes >= maxBatchBytes {
			c.settle()
		}
	}
	c.settle()
	c.parser.arena.release()
}

// command puts one command into the batch.
func (c *session) command(args [][]byte) {
	spec, ok := command.Find(args[0])
	if !ok && isHTTP(args[0]) {
		c.failed = errHTTP
		return
	}
	if !ok {
		c.reply(command.UnknownCommand(args))
		return
	}
	if !spec.AcceptsArgs(len(args)) {
		c.reply(command.WrongArgs(spec.Name))
		return
	}
	c.lastSpec.Store(spec)
	switch spec.Class {
	case command.Connection:
		c.connection(spec, args)
	case command.Server:
		c.settle() // what was before it has happened
		if isReadMode(spec, args) {
			c.reply(c.readMode(args))
			return
		}
		c.reply(c.server(command.Call{Spec: spec, Args: args}))
	default:
		if refused := command.Check(spec, args, c.srv.cfg.Limits); refused != nil {
			c.reply(*refused)
			return
		}
		c.call(command.Call{Spec: spec, Args: args})
	}
}

// errHTTP ends a session without a word. A web page that someone opens can make a browser send an HTTP request to this
// port, with commands in its body; Redis closes such a connection for the same reason.
var errHTTP = errors.New("this is an HTTP request, not the Redis protocol: it may come from a web page that tries to send commands")

func isHTTP(name []byte) bool { return command.IsWord(name, "POST") || command.IsWord(name, "HOST:") }

// call adds a command for the backend.
func (c *session) call(call command.Call) {
	if len(c.calls) == cap(c.calls) {
		c.calls = append(make([]command.Call, 0, max(minCalls, 2*len(c.batch.calls))), c.batch.calls...)
		c.batch.calls, c.kept = c.calls, 0
	}
	b := &c.batch
	from := len(c.calls) - len(b.calls)
	c.calls = append(c.calls, call)
	b.calls = c.calls[from:]
	b.order = append(b.order, int32(len(b.calls)-1))
	for _, arg := range call.Args {
		b.bytes += len(arg)
	}
}

// reply adds a reply that is known already.
func (c *session) reply(r command.Reply) { c.replyIn(r, 0) }

// replyIn adds a reply from which on another version of the protocol holds.
func (c *session) replyIn(r command.Reply, proto int) {
	c.batch.direct = append(c.batch.direct, direct{r, proto})
	c.batch.order = append(c.batch.order, ^int32(len(c.batch.direct)-1))
}

// settle runs the calls of the batch and renders all replies in order.
func (c *session) settle() {
	b := &c.batch
	if len(b.order) == 0 {
		return
	}
	c.srv.commands.Add(uint64(len(b.order)))
	var replies []command.Reply
	if len(b.calls) > 0 {
		replies = c.exec(b.calls)
	}
	before := c.out.rendered()
	for _, i := range b.order {
		if i >= 0 {
			c.out.reply(&replies[i], c.proto)
			continue
		}
		d := &b.direct[^i]
		if d.proto != 0 {
			c.proto = d.proto
		}
		c.out.reply(&d.reply, c.proto)
	}
	c.adapt(len(b.order), int(c.out.rendered()-before))
	c.clearBatch()
}

// adapt chooses the bound for the next batch, after one of n commands with so many bytes of replies.
func (c *session) adapt(n, replyBytes int) {
	if replyBytes > batchReplyBytes {
		c.limit = max(n*batchReplyBytes/replyBytes, 1)
	} else if n >= c.limit {
		c.limit = min(2*c.limit, maxBatch)
	}
}

// exec runs calls, unless what came before them in the same pipeline was refused. A pipeline may be
// several batches, and a later one could succeed where an earlier one was not applied. Then a client that
// sends the whole pipeline again, as go-redis does when its first reply is "try again", would run the later
// one twice. So the refusal holds for what was sent with it, as far as this side can tell: while input is
// certainly pending, but not for long, since a client may well send an endless stream.
func (c *session) exec(calls []command.Call) []command.Reply {
	if c.refusal != nil && time.Since(c.refusedAt) < refusalTime {
		return slices.Repeat([]command.Reply{*c.refusal}, len(calls))
	}
	replies := c.submit(calls)
	if last := replies[len(replies)-1]; command.IsNotApplied(&last) {
		c.refusal, c.refusedAt = &last, time.Now()
	} else {
		c.refusal = nil
	}
	return replies
}

// submit gives calls to the backend and sees to it that there is one reply for each, whatever happens: a
// command that may have been run must not end in a closed connection without a word, because some client
// libraries would send it again.
func (c *session) submit(calls []command.Call) (replies []command.Reply) {
	defer func() {
		if reason := recover(); reason != nil {
			c.logPanic(reason)
			c.quit = true
			replies = unanswered(len(calls))
		}
	}()
	replies = c.runCalls(calls[:len(calls):len(calls)])
	if len(replies) != len(calls) { // none can be trusted to belong to its call
		c.srv.cfg.Logger.Error("the backend gave a wrong number of replies", "calls", len(calls), "replies", len(replies))
		replies = unanswered(len(calls))
	}
	return replies
}

func unanswered(n int) []command.Reply {
	return slices.Repeat([]command.Reply{command.Unknown("internal error, see the log of the node")}, n)
}

// server asks the backend for the reply to a command of class Server.
func (c *session) server(call command.Call) (reply command.Reply) {
	defer func() {
		if reason := recover(); reason != nil {
			c.logPanic(reason)
			c.quit = true
			reply = command.Err("ERR internal error, see the log of the node")
		}
	}()
	return c.srv.backend.Server(c.srv.ctx, call)
}

// clearBatch makes the batch empty. The calls are left to the backend: what follows goes behind them,
// unless they hold much memory.
func (c *session) clearBatch() {
	b := &c.batch
	if c.kept += b.bytes; c.kept > maxKept {
		c.calls, c.kept = nil, 0
	}
	b.calls, b.bytes = nil, 0
	b.order = b.order[:0]
	clear(b.direct)
	b.direct = b.direct[:0]
	if cap(b.direct) > minCalls {
		b.direct = nil
	}
}
