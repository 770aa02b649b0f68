package transport

import (
	"errors"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// outboxBytes bounds what may wait for the writer; one frame is always let in. Whoever brings more waits.
	outboxBytes = 4 << 20

	// writeBytes is how much goes into one Write: enough to make system calls rare, little enough to encode
	// under the lock.
	writeBytes = 256 << 10

	// keepBufferBytes: a write buffer that one large frame has blown up beyond this is given back.
	keepBufferBytes = 1 << 20

	// writeTimeout is for writeBytes. Larger writes get a second more per MiB. A peer that takes nothing for so
	// long is as good as gone.
	writeTimeout = 10 * time.Second
)

var errOutboxClosed = errors.New("the connection is closed")

// outbox collects the frames of many goroutines and writes all that has queued with one Write. Its clock is the
// socket: while one Write is under way the next one collects, so that many small frames cost few system calls
// and one frame waits for nobody.
type outbox struct {
	wake chan struct{} // capacity 1: something was queued, or the outbox closed

	mu sync.Mutex
	// mu guards what follows; frames are encoded under it, so that a payload is never touched once its frame
	// has left the queue.
	queue  []frame
	bytes  int           // size of the queue
	room   chan struct{} // closed when the queue has shrunk; nil: nobody waits
	closed bool
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

// push queues a frame. It waits while the queue is full, until done is closed. An error means that the frame
// was not queued; without done being closed it is errOutboxClosed.
func (o *outbox) push(done <-chan struct{}, f frame) error {
	size := frameHeadBytes + len(f.payload)
	for {
		o.mu.Lock()
		if o.closed {
			o.mu.Unlock()
			return errOutboxClosed
		}
		if len(o.queue) == 0 || o.bytes+size <= outboxBytes {
			o.queue = append(o.queue, f)
			o.bytes += size
			o.mu.Unlock()
			o.signal()
			return nil
		}
		if o.room == nil {
			o.room = make(chan struct{})
		}
		room := o.room
		o.mu.Unlock()

		select {
		case <-room:
		case <-done:
			return errOutboxFull
		}
	}
}

var errOutboxFull = errors.New("the connection is congested")

// remove takes a frame back. False means that it has been encoded, or dropped by close.
func (o *outbox) remove(id uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, f := range o.queue {
		if f.id == id {
			o.drop(i, i+1)
			return true
		}
	}
	return false
}

// close refuses and drops everything from now on. It returns the ids of the frames that were never encoded.
func (o *outbox) close() (unsent []uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.queue {
		unsent = append(unsent, f.id)
	}
	o.closed = true
	o.drop(0, len(o.queue))
	o.signal()
	return unsent
}

// run writes until close or until a write fails. wrote is called after each successful write.
func (o *outbox) run(conn net.Conn, wrote func()) error {
	var buf []byte
	for range o.wake {
		runtime.Gosched() // whoever is about to queue does it first: 1.7 times the calls per second with 64 callers, nothing lost with one
		for {
			var open bool
			if buf, open = o.take(buf[:0]); !open {
				return nil
			}
			if len(buf) == 0 {
				break
			}
			timeout := writeTimeout + time.Duration(len(buf)>>20)*time.Second
			if err := conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
				return err
			}
			if _, err := conn.Write(buf); err != nil {
				return err
			}
			wrote()
			if cap(buf) > keepBufferBytes {
				buf = nil
			}
		}
	}
	return nil
}

// take encodes the front of the queue. It reports false when the outbox is closed.
func (o *outbox) take(buf []byte) ([]byte, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return buf, false
	}
	n := 0
	for n < len(o.queue) && (n == 0 || len(buf)+frameHeadBytes+len(o.queue[n].payload) <= writeBytes) {
		buf = appendFrame(buf, o.queue[n])
		n++
	}
	o.drop(0, n)
	return buf, true
}

// drop deletes queue[i:j] and lets waiting pushers try again. The caller holds mu.
func (o *outbox) drop(i, j int) {
	for _, f := range o.queue[i:j] {
		o.bytes -= frameHeadBytes + len(f.payload)
	}
	o.queue = slices.Delete(o.queue, i, j) // zeroes the tail: payloads must not stay reachable
	if o.room != nil && (i < j || o.closed) {
		close(o.room)
		o.room = nil
	}
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}
