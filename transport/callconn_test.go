package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipePeer is enough of a Peer for connections that are not sockets.
func pipePeer(t *testing.T) *Peer {
	p := &Peer{cfg: PeerConfig{NodeID: "n1", Logger: discard, MaxMessageBytes: defaultMaxMessageBytes}}
	p.ctx, p.cancel = context.WithCancel(t.Context())
	return p
}

func pipeConn(t *testing.T, p *Peer, conn net.Conn) *callConn {
	c, ok := p.newCallConn(conn, conn)
	if !ok {
		t.Fatal("no connection")
	}
	return c
}

func TestQueuedRequestOfABrokenConnectionIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipePeer(t)
		ours, theirs := net.Pipe()
		c := pipeConn(t, p, ours)
		results := make([]error, 3)
		ctx2, cancel2 := context.WithCancel(context.Background())
		for i, ctx := range []context.Context{context.Background(), context.Background(), ctx2} {
			go func() { _, results[i] = c.call(ctx, []byte("request")) }()
			synctest.Wait() // the first request is stuck in Write, the others are queued
		}
		cancel2()
		synctest.Wait()
		if err := results[2]; !errors.Is(err, ErrNotSent) || !errors.Is(err, context.Canceled) {
			t.Errorf("canceled while queued: %v, want ErrNotSent", err)
		}
		_ = theirs.Close()
		synctest.Wait()
		if err := results[0]; err == nil || errors.Is(err, ErrNotSent) {
			t.Errorf("the request being written: %v, want an unknown outcome", err)
		}
		if err := results[1]; !errors.Is(err, ErrNotSent) {
			t.Errorf("the queued request: %v, want ErrNotSent", err)
		}
		p.running.Wait()
	})
}

func TestCanceledQueuedRequestIsNeverWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipePeer(t)
		ours, theirs := net.Pipe()
		c := pipeConn(t, p, ours)
		go func() { _, _ = c.call(context.Background(), []byte("first")) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		go func() { _, _ = c.call(ctx, []byte("second")) }()
		synctest.Wait()
		go func() { _, _ = c.call(context.Background(), []byte("third")) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		var head [frameHeadBytes]byte
		for _, want := range []string{"first", "third"} {
			f, err := readFrame(theirs, &head, 100)
			if err != nil || string(f.payload) != want {
				t.Errorf("the peer reads %q, %v, want %q", f.payload, err, want)
			}
		}
		_ = theirs.Close()
		p.running.Wait()
	})
}

func TestFullOutboxMakesCallersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipePeer(t)
		ours, theirs := net.Pipe()
		c := pipeConn(t, p, ours)
		var results [4]error
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		for i := range results { // one is being written, one fills the queue, two wait for room
			go func() { _, results[i] = c.call(ctx, make([]byte, outboxBytes)) }()
			synctest.Wait()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if errors.Is(results[0], ErrNotSent) || !errors.Is(results[0], context.DeadlineExceeded) {
			t.Errorf("the request being written: %v, want an unknown outcome", results[0])
		}
		for _, err := range results[1:] {
			if !errors.Is(err, ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a waiting request: %v, want ErrNotSent", err)
			}
		}
		_ = theirs.Close()
		p.running.Wait()
	})
}

// After a partition the connection looks open for minutes. It is given up deadAfter the last sign of life.
func TestSilentPeerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipePeer(t)
		ours, theirs := net.Pipe()
		c := pipeConn(t, p, ours)
		sunk := make(chan struct{})
		go func() {
			defer close(sunk)
			_, _ = io.Copy(io.Discard, theirs) // it takes everything and says nothing
		}()
		time.Sleep(time.Hour) // an idle connection is not a silent peer
		start := time.Now()
		for range 4 { // calls of short patience, one after another, must not start the clock anew
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			if _, err := c.call(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a call of short patience: %v", err)
			}
			cancel()
		}
		_, err := c.call(context.Background(), nil)
		if !errors.Is(err, errSilent) || errors.Is(err, ErrNotSent) {
			t.Errorf("got %v, want an unknown outcome because of silence", err)
		}
		if took := time.Since(start); took < deadAfter || took > deadAfter+2*watchEvery {
			t.Errorf("given up after %v, want about %v", took, deadAfter)
		}
		if c.alive() {
			t.Error("the connection is still in use")
		}
		p.running.Wait()
		_ = theirs.Close()
		<-sunk
	})
}

func TestSlowHandlerIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipePeer(t)
		ours, theirs := net.Pipe()
		c := pipeConn(t, p, ours)
		served := make(chan struct{})
		go func() {
			defer close(served)
			p.serveCalls(theirs, theirs, Hello{NodeID: "n2"}, func(context.Context, Hello, []byte) ([]byte, error) {
				time.Sleep(10 * deadAfter)
				return []byte("at last"), nil
			})
		}()
		answer, err := c.call(context.Background(), nil)
		if err != nil || string(answer) != "at last" {
			t.Errorf("got %q, %v", answer, err)
		}
		c.fail(nil)
		<-served
		p.running.Wait()
	})
}

// What a handler returns because nobody waits for it any more must not be taken for its answer.
func TestHandlerThatWasStoppedGivesNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, stop := range []string{"the caller's patience", "the peer"} {
			p := pipePeer(t)
			ours, theirs := net.Pipe()
			served := make(chan struct{})
			go func() {
				defer close(served)
				p.serveCalls(ours, io.NopCloser(nil), Hello{NodeID: "n2"}, func(ctx context.Context, _ Hello, _ []byte) ([]byte, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				})
			}()
			f := frame{id: 1}
			if stop == "the peer" {
				go func() {
					time.Sleep(time.Millisecond)
					p.cancel()
				}()
			} else {
				f.tag = 1
			}
			if _, err := theirs.Write(appendFrame(nil, f)); err != nil {
				t.Fatal(err)
			}
			if err := theirs.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			var head [frameHeadBytes]byte
			if got, err := readFrame(theirs, &head, 100); err == nil {
				t.Errorf("stopped by %s, it answered %d %q", stop, got.tag, got.payload)
			}
			_ = theirs.Close()
			<-served
			_ = ours.Close()
		}
	})
}

func TestManySmallFramesAreOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipePeer(t)
		ours, theirs := net.Pipe()
		counted := &countingConn{Conn: ours}
		c := pipeConn(t, p, counted)
		for range 101 {
			go func() { _, _ = c.call(context.Background(), []byte("small")) }()
			synctest.Wait()
		}
		var head [frameHeadBytes]byte
		for i := range 101 {
			if f, err := readFrame(theirs, &head, 100); err != nil || string(f.payload) != "small" {
				t.Fatalf("frame %d: %q, %v", i, f.payload, err)
			}
		}
		synctest.Wait()
		if writes := counted.writes.Load(); writes != 2 {
			t.Errorf("101 frames took %d writes, want 2: the first, and all that came meanwhile", writes)
		}
		_ = theirs.Close()
		p.running.Wait()
	})
}

type countingConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}
