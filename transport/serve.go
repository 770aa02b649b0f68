package transport

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// maxInFlight bounds the requests of one connection that are being handled. At the bound the connection is
	// not read: the caller's requests wait in the socket and in its outbox.
	maxInFlight = 1024

	readBufferBytes = 64 << 10

	maxErrorBytes = 4 << 10 // of a handler's error text
)

// callServer is the accepting side of one connection that carries calls. Its reading loop runs in the goroutine
// of serveCalls.
type callServer struct {
	conn     net.Conn
	closer   io.Closer // the socket below conn
	from     Hello
	handler  Handler
	maxBytes int
	out      *outbox
	slots    chan struct{} // one token per request being handled
	handlers sync.WaitGroup
}

// serveCalls answers the calls of one connection until it breaks or the Peer closes. It returns when every
// handler has returned.
func (p *Peer) serveCalls(conn net.Conn, closer io.Closer, from Hello, handler Handler) {
	s := &callServer{
		conn: conn, closer: closer, from: from, handler: handler, maxBytes: p.cfg.MaxMessageBytes,
		out: newOutbox(), slots: make(chan struct{}, maxInFlight),
	}
	ctx, cancel := context.WithCancel(p.ctx)
	written := make(chan struct{})
	go func() { // waited for below
		defer close(written)
		_ = s.out.run(conn, func() {}) // the caller sees a broken connection for himself
		_ = s.closer.Close()           // ends the reading loop
	}()

	err := s.read(ctx)
	cancel()
	s.out.close()
	_ = s.closer.Close() // it is broken, or nobody wants it any more
	<-written
	s.handlers.Wait()
	if p.ctx.Err() == nil {
		p.cfg.Logger.Debug("a peer's connection for calls ended", "peer", from.NodeID, "kind", from.Kind.String(), "reason", err)
	}
}

// read starts a handler for each request until the connection ends.
func (s *callServer) read(ctx context.Context) error {
	r := bufio.NewReaderSize(s.conn, readBufferBytes)
	var head [frameHeadBytes]byte
	for {
		f, err := readFrame(r, &head, s.maxBytes)
		if err != nil {
			return err
		}
		if f.id == probeID {
			if err := s.out.push(ctx.Done(), frame{id: probeID}); err != nil {
				return err
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
			s.handlers.Go(func() { s.handle(ctx, f) })
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// handle runs the handler for one request and queues its answer.
func (s *callServer) handle(ctx context.Context, f frame) {
	defer func() { <-s.slots }()
	callCtx, cancel := ctx, context.CancelFunc(func() {})
	if f.tag != 0 {
		callCtx, cancel = context.WithTimeout(ctx, time.Duration(f.tag)*time.Millisecond)
	}
	defer cancel()

	answer := frame{id: f.id, tag: statusOK}
	payload, err := s.handler(callCtx, s.from, f.payload)
	if ctx.Err() != nil || (err != nil && callCtx.Err() != nil) {
		// The connection is going down, or the caller has stopped waiting. An error that only tells so must not
		// reach him as the handler's word.
		return
	}
	switch {
	case err != nil:
		answer.tag, payload = statusError, []byte(cut(err.Error(), min(maxErrorBytes, s.maxBytes)))
	case len(payload) > s.maxBytes:
		text := fmt.Sprintf("the answer has %d bytes, at most %d are allowed", len(payload), s.maxBytes)
		answer.tag, payload = statusLost, []byte(cut(text, s.maxBytes))
	}
	answer.payload = payload
	// It fails only when the connection is gone, and then there is nobody to answer.
	_ = s.out.push(ctx.Done(), answer)
}

func cut(text string, maxBytes int) string { return text[:min(len(text), maxBytes)] }
