package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestCallReachesTheHandler(t *testing.T) {
	checkLeaks(t)
	server := listenPeer(t, "n1")
	var from Hello
	server.Handle(KindForward, func(_ context.Context, h Hello, req []byte) ([]byte, error) {
		from = h
		return append([]byte("got "), req...), nil
	})
	servePeer(t, server)
	caller := newPeer(t, "n2")
	answer, err := caller.Call(short(t), server.Addr().String(), KindForward, 5, []byte("this"))
	if err != nil || string(answer) != "got this" {
		t.Fatalf("got %q, %v", answer, err)
	}
	if want := (Hello{ClusterID: testCluster, NodeID: "n2", Group: 5, Kind: KindForward}); from != want {
		t.Errorf("the handler saw a call from %+v, want %+v", from, want)
	}
}

func TestConcurrentCallsGetTheirOwnAnswers(t *testing.T) {
	checkLeaks(t)
	server := listenPeer(t, "n1")
	server.Handle(KindForward, echo)
	servePeer(t, server)
	caller := newPeer(t, "n2")
	ctx := short(t)
	var callers sync.WaitGroup
	for g := range 64 {
		callers.Go(func() {
			for i := range 100 {
				req := payload(g*1000+i, (g*i*37)%20000)
				answer, err := caller.Call(ctx, server.Addr().String(), KindForward, uint32(g%3), req)
				if err != nil || !bytes.Equal(answer, append([]byte("n2:"), req...)) {
					t.Errorf("call %d of caller %d: %d bytes, %v", i, g, len(answer), err)
					return
				}
			}
		})
	}
	callers.Wait()
	caller.mu.Lock()
	defer caller.mu.Unlock()
	if len(caller.conns) != 3 {
		t.Errorf("%d connections for 3 groups", len(caller.conns))
	}
}

func TestMessagesUpToTheLimitPass(t *testing.T) {
	checkLeaks(t)
	const limit = 9 << 20 // more than an outbox holds
	small := func(cfg *PeerConfig) { cfg.MaxMessageBytes = limit }
	server := listenPeer(t, "n1", small)
	server.Handle(KindForward, func(_ context.Context, _ Hello, req []byte) ([]byte, error) { return req, nil })
	server.Handle(KindControl, func(context.Context, Hello, []byte) ([]byte, error) { return make([]byte, limit+1), nil })
	servePeer(t, server)
	caller := newPeer(t, "n2", small)
	addr := server.Addr().String()

	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			req := payload(1, limit)
			if answer, err := caller.Call(short(t), addr, KindForward, 0, req); err != nil || !bytes.Equal(answer, req) {
				t.Errorf("a message of the largest size: %d bytes, %v", len(answer), err)
			}
		})
	}
	callers.Wait()
	if _, err := caller.Call(short(t), addr, KindForward, 0, make([]byte, limit+1)); !errors.Is(err, ErrNotSent) {
		t.Errorf("a request above the limit: %v, want ErrNotSent", err)
	}
	// The handler ran: this must not look like a refusal.
	_, err := caller.Call(short(t), addr, KindControl, 0, nil)
	var remote *RemoteError
	if err == nil || errors.As(err, &remote) || errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "at most") {
		t.Errorf("an answer above the limit: %v, want an unknown outcome", err)
	}
}

func TestHandlersErrorIsRemoteError(t *testing.T) {
	checkLeaks(t)
	server := listenPeer(t, "n1")
	server.Handle(KindControl, func(context.Context, Hello, []byte) ([]byte, error) { return nil, errors.New("no such member") })
	servePeer(t, server)
	_, err := newPeer(t, "n2").Call(short(t), server.Addr().String(), KindControl, 0, nil)
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.Text != "no such member" {
		t.Errorf("got %v", err)
	}
	if errors.Is(err, ErrNotSent) {
		t.Error("the request was handled, the error must not say ErrNotSent")
	}
}

func TestDeadPeerFailsFastAndNotSent(t *testing.T) {
	checkLeaks(t)
	caller := newPeer(t, "n1")
	addr := closedAddr(t)
	for i := range 50 { // through dials and back-off
		if _, err := caller.Call(short(t), addr, KindConfirm, 0, nil); !errors.Is(err, ErrNotSent) {
			t.Fatalf("call %d: %v, want ErrNotSent", i, err)
		}
	}
	l, err := caller.link(linkKey{addr: addr, kind: KindConfirm})
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failures >= 50 {
		t.Errorf("50 calls cost %d dials", l.failures)
	}
	if wait := time.Until(l.retryAt); wait > longestBackoff {
		t.Errorf("the next dial is %v away, at most %v is allowed", wait, longestBackoff)
	}
}

func TestCallsResumeWhenThePeerIsBack(t *testing.T) {
	checkLeaks(t)
	caller := newPeer(t, "n2")
	first := listenPeer(t, "n1")
	first.Handle(KindForward, echo)
	servePeer(t, first)
	addr := first.Addr().String()
	if _, err := caller.Call(short(t), addr, KindForward, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "calls to fail", func() bool {
		_, err := caller.Call(short(t), addr, KindForward, 0, nil)
		return errors.Is(err, ErrNotSent)
	})
	second := listenPeer(t, "n1", func(cfg *PeerConfig) { cfg.Addr = addr })
	second.Handle(KindForward, echo)
	servePeer(t, second)
	waitFor(t, "calls to succeed", func() bool {
		_, err := caller.Call(short(t), addr, KindForward, 0, nil)
		if err != nil && !errors.Is(err, ErrNotSent) {
			t.Errorf("got %v, want ErrNotSent or success", err)
		}
		return err == nil
	})
}

// A connection that died while nobody used it costs the next call a dial, not an error.
func TestConnectionThatDiedUnusedIsReplaced(t *testing.T) {
	checkLeaks(t)
	server := listenPeer(t, "n1")
	server.Handle(KindForward, echo)
	servePeer(t, server)
	caller := newPeer(t, "n2")
	for i := range 20 {
		if _, err := caller.Call(short(t), server.Addr().String(), KindForward, 0, nil); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		l, err := caller.link(linkKey{addr: server.Addr().String(), kind: KindForward})
		if err != nil {
			t.Fatal(err)
		}
		l.mu.Lock()
		conn := l.conn
		l.mu.Unlock()
		conn.fail(io.EOF)
	}
}

func TestPeerKilledMidCallIsUnknown(t *testing.T) {
	checkLeaks(t)
	server := listenPeer(t, "n1")
	handling := make(chan struct{})
	server.Handle(KindForward, func(ctx context.Context, _ Hello, _ []byte) ([]byte, error) {
		close(handling)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	servePeer(t, server)
	caller := newPeer(t, "n2")
	failed := make(chan error, 1)
	go func() {
		_, err := caller.Call(context.Background(), server.Addr().String(), KindForward, 0, nil)
		failed <- err
	}()
	<-handling
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	err := <-failed
	var remote *RemoteError
	if err == nil || errors.Is(err, ErrNotSent) || errors.As(err, &remote) || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("got %v, want an unknown outcome", err)
	}
}

func TestCanceledCallSaysWhetherItWasSent(t *testing.T) {
	checkLeaks(t)
	server := listenPeer(t, "n1")
	handling := make(chan struct{}, 1)
	ended := make(chan error, 1)
	server.Handle(KindForward, func(ctx context.Context, _ Hello, _ []byte) ([]byte, error) {
		handling <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	})
	server.Handle(KindConfirm, echo)
	servePeer(t, server)
	caller := newPeer(t, "n2")
	addr := server.Addr().String()

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := caller.Call(ctx, addr, KindForward, 0, nil); !errors.Is(err, ErrNotSent) || !errors.Is(err, context.Canceled) {
		t.Errorf("canceled before: %v, want ErrNotSent", err)
	}

	ctx, cancel = context.WithCancel(context.Background())
	go func() { <-handling; cancel() }()
	if _, err := caller.Call(ctx, addr, KindForward, 0, nil); errors.Is(err, ErrNotSent) || !errors.Is(err, context.Canceled) {
		t.Errorf("canceled while handled: %v, want an unknown outcome", err)
	}
	if _, err := caller.Call(short(t), addr, KindConfirm, 0, nil); err != nil {
		t.Errorf("the connection after a canceled call: %v", err)
	}
	if err := caller.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the handler's context did not end with its connection")
	}
}

func TestHandlerKnowsTheCallersDeadline(t *testing.T) {
	checkLeaks(t)
	server := listenPeer(t, "n1")
	left := make(chan time.Duration, 1)
	server.Handle(KindForward, func(ctx context.Context, _ Hello, _ []byte) ([]byte, error) {
		if deadline, ok := ctx.Deadline(); ok {
			left <- time.Until(deadline)
		} else {
			left <- -1
		}
		return nil, nil
	})
	servePeer(t, server)
	caller := newPeer(t, "n2")
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if _, err := caller.Call(ctx, server.Addr().String(), KindForward, 0, nil); err != nil {
		t.Fatal(err)
	}
	if got := <-left; got <= 0 || got > time.Hour+time.Millisecond {
		t.Errorf("the handler has %v left of an hour", got)
	}
	if _, err := caller.Call(context.Background(), server.Addr().String(), KindForward, 0, nil); err != nil {
		t.Fatal(err)
	}
	if got := <-left; got != -1 {
		t.Errorf("the handler got a deadline %v away from a caller that has none", got)
	}
}

func TestRequestsBeingHandledAreBounded(t *testing.T) {
	checkLeaks(t)
	server := listenPeer(t, "n1")
	var running, most atomic.Int64
	release := make(chan struct{})
	server.Handle(KindForward, func(ctx context.Context, _ Hello, _ []byte) ([]byte, error) {
		now := running.Add(1)
		for {
			seen := most.Load()
			if now <= seen || most.CompareAndSwap(seen, now) {
				break
			}
		}
		select {
		case <-release:
		case <-ctx.Done():
		}
		running.Add(-1)
		return nil, nil
	})
	servePeer(t, server)
	caller := newPeer(t, "n2")
	ctx := short(t)
	var callers sync.WaitGroup
	for range maxInFlight + 200 {
		callers.Go(func() {
			if _, err := caller.Call(ctx, server.Addr().String(), KindForward, 0, nil); err != nil {
				t.Errorf("call: %v", err)
			}
		})
	}
	waitFor(t, "all places taken", func() bool { return running.Load() == maxInFlight })
	close(release)
	callers.Wait()
	if most.Load() > maxInFlight {
		t.Errorf("%d requests were handled at once, at most %d are allowed", most.Load(), maxInFlight)
	}
}

func TestCloseEndsCallsInFlight(t *testing.T) {
	checkLeaks(t)
	server := listenPeer(t, "n1")
	server.Handle(KindForward, func(ctx context.Context, _ Hello, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	servePeer(t, server)
	caller := newPeer(t, "n2")
	var callers sync.WaitGroup
	for i := range 100 {
		callers.Go(func() {
			if _, err := caller.Call(context.Background(), server.Addr().String(), KindForward, uint32(i%4), nil); err == nil {
				t.Error("a call succeeded")
			}
		})
	}
	waitFor(t, "4 connections", func() bool {
		caller.mu.Lock()
		defer caller.mu.Unlock()
		return len(caller.conns) == 4
	})
	if err := caller.Close(); err != nil {
		t.Error(err)
	}
	callers.Wait()
	if _, err := caller.Call(context.Background(), server.Addr().String(), KindForward, 0, nil); !errors.Is(err, ErrNotSent) {
		t.Errorf("a call after Close: %v, want ErrNotSent", err)
	}
	if layer := caller.StreamLayer(0, nil); layer != nil {
		if _, err := layer.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after Close: %v", err)
		}
	}
}

func TestLinksToOldAddressesAreSwept(t *testing.T) {
	checkLeaks(t)
	p := newPeer(t, "n1")
	for i := range 3 * maxLinks {
		if _, err := p.link(linkKey{addr: strconv.Itoa(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.links) > maxLinks {
		t.Errorf("%d links are kept, at most %d are allowed", len(p.links), maxLinks)
	}
}

func TestHandleRefusesMistakes(t *testing.T) {
	p := newPeer(t, "n1")
	p.Handle(KindConfirm, echo)
	for name, mistake := range map[string]func(){
		"twice":   func() { p.Handle(KindConfirm, echo) },
		"raft":    func() { p.Handle(KindRaft, echo) },
		"unknown": func() { p.Handle('x', echo) },
		"nil":     func() { p.Handle(KindForward, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			mistake()
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]PeerConfig{
		"no node id":      {Addr: "127.0.0.1:0"},
		"long node id":    {Addr: "127.0.0.1:0", NodeID: strings.Repeat("x", 256)},
		"negative limit":  {Addr: "127.0.0.1:0", NodeID: "n1", MaxMessageBytes: -1},
		"unusable listen": {Addr: "256.0.0.1:0", NodeID: "n1"},
	} {
		if p, err := ListenPeer(cfg); err == nil {
			t.Errorf("%s: accepted", name)
			_ = p.Close()
		}
	}
}

func BenchmarkCall(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run("callers="+strconv.Itoa(callers), func(b *testing.B) { benchmarkCalls(b, callers) })
	}
}

func benchmarkCalls(b *testing.B, callers int) {
	server := listenPeer(b, "n1")
	server.Handle(KindConfirm, func(_ context.Context, _ Hello, req []byte) ([]byte, error) { return req, nil })
	servePeer(b, server)
	caller := newPeer(b, "n2")
	addr := server.Addr().String()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	req := make([]byte, 32)
	if _, err := caller.Call(ctx, addr, KindConfirm, 0, req); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := caller.Call(ctx, addr, KindConfirm, 0, req); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	running.Wait()
}
