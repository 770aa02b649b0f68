package resp

import (
	"errors"
	"math"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/raftcask/raftcask/command"
)

const (
	// flushBytes is how much may be rendered before it is offered to the socket in the middle of a batch.
	flushBytes = 64 << 10
	// borrowBytes: a value of this length is not copied into the buffer but written from where it is.
	borrowBytes = 32 << 10
	// drainStep is how much is written under one deadline, so that a slow reader of a large reply is told
	// from one that reads nothing.
	drainStep = 256 << 10
	// keepBuffer is the largest buffer that is kept for the next replies.
	keepBuffer = 2 * flushBytes
)

// writer renders replies and gives them to a connection.
//
// The session renders and flushes. A flush offers the bytes to the socket once, without waiting. What the
// socket does not take goes to a queue that a goroutine of its own, the drainer, writes under a
// deadline; it lives only as long as there is something left. So the session can go on reading from a
// client that sends a long pipeline before it reads the first reply: with a blocking write both sides
// would wait for each other. The queue is bounded: when it is full, flush waits, and a client that reads
// nothing for the time of the deadline is cut off.
type writer struct {
	conn     net.Conn
	raw      syscall.RawConn // nil when the connection is no socket; then everything is queued
	timeout  time.Duration
	maxQueue int
	total    *pendingTotal
	sent     *atomic.Uint64 // bytes flushed, of all connections

	// Rendered and not yet flushed; owned by the session. parts end at buf[:sealed].
	buf    []byte
	sealed int
	parts  [][]byte
	ready  int   // bytes in parts
	passed int64 // bytes flushed so far

	offer func(fd uintptr) bool // method value of offerOnce, made once
	taken int                   // result of offerOnce
	erred error

	mu       sync.Mutex // guards what follows
	changed  sync.Cond
	queue    [][]byte
	queued   int // bytes in queue, and in the drainer's hands
	draining bool
	err      error // once set, nothing is written any more
}

// pendingTotal counts what the writers of a server have queued together.
type pendingTotal struct {
	bytes atomic.Int64
	limit int64
}

func newWriter(conn net.Conn, cfg *Config, total *pendingTotal, sent *atomic.Uint64) *writer {
	w := &writer{conn: conn, timeout: cfg.WriteTimeout, maxQueue: cfg.MaxPendingBytes, total: total, sent: sent}
	w.changed.L = &w.mu
	w.offer = w.offerOnce
	if c, ok := conn.(syscall.Conn); ok && canOffer {
		if raw, err := c.SyscallConn(); err == nil { // else: the connection is closed, as the first write will tell
			w.raw = raw
		}
	}
	return w
}

// flush gives all that is rendered to the socket or the queue. An error means that the connection is
// lost; it stays.
func (w *writer) flush() error {
	w.seal()
	if w.ready == 0 {
		return w.failure()
	}
	w.sent.Add(uint64(w.ready))
	w.passed += int64(w.ready)
	w.mu.Lock()
	blocked := w.draining || w.err != nil
	w.mu.Unlock()
	n := 0
	if !blocked && w.raw != nil {
		w.taken, w.erred = 0, nil
		if err := w.raw.Write(w.offer); err != nil {
			w.erred = err
		}
		if n = w.taken; w.erred != nil {
			w.fail(w.erred)
		}
	}
	if n == w.ready {
		w.reuse()
		return nil
	}
	return w.enqueue(n)
}

// rendered counts the bytes of all replies so far.
func (w *writer) rendered() int64 { return w.passed + int64(w.ready+len(w.buf)-w.sealed) }

// seal ends the part that is being rendered.
func (w *writer) seal() {
	if part := w.buf[w.sealed:]; len(part) > 0 {
		w.parts = append(w.parts, part)
		w.ready += len(part)
		w.sealed = len(w.buf)
	}
}

// reuse empties the buffer for the next replies.
func (w *writer) reuse() {
	clear(w.parts) // a borrowed value must not stay in memory until the next one
	w.parts, w.ready, w.sealed = w.parts[:0], 0, 0
	w.buf = w.buf[:0]
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
}

// rest gives back the memory that an idle connection does not need.
func (w *writer) rest() {
	if len(w.buf) == 0 {
		w.buf = nil
	}
}

// enqueue gives the parts, but for their first n bytes, to the drainer, and waits while too much is
// queued.
func (w *writer) enqueue(n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, part := range w.parts {
		if w.err != nil {
			break
		}
		skip := min(n, len(part))
		n -= skip
		if part = part[skip:]; len(part) > 0 {
			w.queue = append(w.queue, part)
			w.queued += len(part)
			w.total.bytes.Add(int64(len(part)))
		}
	}
	w.buf = nil // the drainer has it now
	w.reuse()
	if w.err == nil && !w.draining {
		w.draining = true
		go w.drain()
	}
	// The second condition waits for this client's own queue only: it ends, because the drainer ends.
	for w.err == nil && (w.queued > w.maxQueue || (w.queued > 0 && w.total.bytes.Load() > w.total.limit)) {
		w.changed.Wait()
	}
	return w.err
}

// drain writes the queue until it is empty or the connection fails. finish waits for it.
func (w *writer) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && len(w.queue) > 0 {
		parts := w.queue
		w.queue = nil
		w.mu.Unlock()
		err := w.writeParts(parts)
		w.mu.Lock()
		if err != nil && w.err == nil {
			w.err = err
			_ = w.conn.Close() // wakes the session, which may be reading; its error would tell nothing new
		}
	}
	if w.err == nil {
		// The next flush offers to the socket again, without a deadline.
		w.err = w.conn.SetWriteDeadline(time.Time{})
	}
	w.total.bytes.Add(-int64(w.queued))
	w.queue, w.queued, w.draining = nil, 0, false
	w.changed.Broadcast()
}

func (w *writer) writeParts(parts [][]byte) error {
	for _, part := range parts {
		for len(part) > 0 {
			if err := w.conn.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
				return err
			}
			n, err := w.conn.Write(part[:min(len(part), drainStep)])
			part = part[n:]
			w.mu.Lock()
			w.queued -= n
			w.total.bytes.Add(-int64(n))
			w.changed.Broadcast()
			w.mu.Unlock()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// finish flushes and waits until everything is written or the connection has failed.
func (w *writer) finish() error {
	err := w.flush()
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.draining {
		w.changed.Wait()
	}
	return errors.Join(err, w.err)
}

// pending is how many bytes the client has not taken yet.
func (w *writer) pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queued
}

func (w *writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

func (w *writer) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// reply renders r in the given version of the protocol, 2 or 3. A long one is flushed on the way; an error
// of that shows at the next flush.
func (w *writer) reply(r *command.Reply, proto int) {
	switch r.Kind() {
	case command.KindSimple:
		w.buf = appendLine(append(w.buf, '+'), r.Text())
	case command.KindError:
		w.buf = appendLine(append(w.buf, '-'), r.Text())
	case command.KindNone:
		w.buf = appendLine(append(w.buf, '-'), command.Unknown("internal error, there is no reply").Text())
	case command.KindInt:
		w.buf = appendNumber(w.buf, ':', r.Int())
	case command.KindBulk:
		w.bulk(r.Bytes())
	case command.KindNil:
		w.buf = appendNil(w.buf, proto)
	case command.KindDouble:
		w.double(r.Float(), proto)
	case command.KindBool:
		w.bool(r.Int() != 0, proto)
	case command.KindVerbatim:
		w.verbatim(r.Text(), proto)
	case command.KindStrings:
		w.strings(r)
	case command.KindArray:
		w.elements(r, '*', r.Len(), proto)
	case command.KindSet:
		w.elements(r, pick(proto, '*', '~'), r.Len(), proto)
	case command.KindMap:
		if proto >= 3 {
			w.elements(r, '%', r.Len()/2, proto)
		} else {
			w.elements(r, '*', r.Len(), proto)
		}
	}
	w.flushLong()
}

func (w *writer) elements(r *command.Reply, mark byte, n, proto int) {
	w.buf = appendNumber(w.buf, mark, int64(n))
	elems := r.Elems()
	for i := range elems {
		w.reply(&elems[i], proto)
	}
}

// strings renders a list that may have millions of elements; it is flushed on the way.
func (w *writer) strings(r *command.Reply) {
	w.buf = appendNumber(w.buf, '*', int64(r.Len()))
	for elem := range r.All() {
		w.bulk(elem.Bytes())
		w.flushLong()
	}
}

// flushLong flushes what is long enough already; the error stays, and the next flush returns it.
func (w *writer) flushLong() {
	if w.ready+len(w.buf)-w.sealed >= flushBytes {
		_ = w.flush() // see above
	}
}

func (w *writer) bulk(b []byte) {
	w.buf = appendNumber(w.buf, '$', int64(len(b)))
	if len(b) >= borrowBytes {
		w.seal()
		w.parts = append(w.parts, b)
		w.ready += len(b)
	} else {
		w.buf = append(w.buf, b...)
	}
	w.buf = append(w.buf, '\r', '\n')
}

func (w *writer) verbatim(s string, proto int) {
	if proto >= 3 {
		w.buf = appendNumber(w.buf, '=', int64(len(s)+len("txt:")))
		w.buf = append(w.buf, "txt:"...)
	} else {
		w.buf = appendNumber(w.buf, '$', int64(len(s)))
	}
	w.buf = append(w.buf, s...)
	w.buf = append(w.buf, '\r', '\n')
}

func (w *writer) double(f float64, proto int) {
	var digits [32]byte
	text := digits[:0]
	switch {
	case math.IsInf(f, 1):
		text = append(text, "inf"...)
	case math.IsInf(f, -1):
		text = append(text, "-inf"...)
	case math.IsNaN(f):
		text = append(text, "nan"...)
	default:
		text = strconv.AppendFloat(text, f, 'g', -1, 64)
	}
	if proto < 3 {
		w.bulk(text)
		return
	}
	w.buf = append(w.buf, ',')
	w.buf = append(w.buf, text...)
	w.buf = append(w.buf, '\r', '\n')
}

func (w *writer) bool(v bool, proto int) {
	switch {
	case proto >= 3 && v:
		w.buf = append(w.buf, "#t\r\n"...)
	case proto >= 3:
		w.buf = append(w.buf, "#f\r\n"...)
	case v:
		w.buf = append(w.buf, ":1\r\n"...)
	default:
		w.buf = append(w.buf, ":0\r\n"...)
	}
}

func appendNil(buf []byte, proto int) []byte {
	if proto >= 3 {
		return append(buf, "_\r\n"...)
	}
	return append(buf, "$-1\r\n"...)
}

func appendNumber(buf []byte, mark byte, n int64) []byte {
	buf = append(buf, mark)
	if 0 <= n && n < 10 {
		return append(buf, '0'+byte(n), '\r', '\n')
	}
	buf = strconv.AppendInt(buf, n, 10)
	return append(buf, '\r', '\n')
}

// appendLine appends text and CRLF. A line break in the text, which may quote a client, becomes spaces:
// it would end the line, and what follows would be taken for another reply.
func appendLine(buf []byte, text string) []byte {
	from := len(buf)
	buf = append(buf, text...)
	for i, c := range buf[from:] {
		if c == '\r' || c == '\n' {
			buf[from+i] = ' '
		}
	}
	return append(buf, '\r', '\n')
}

func pick(proto int, resp2, resp3 byte) byte {
	if proto >= 3 {
		return resp3
	}
	return resp2
}
