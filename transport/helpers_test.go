package transport

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

const testCluster = "cluster-1"

// newPeer starts a peer of testCluster on a free port of loopback.
func newPeer(t testing.TB, id string, change ...func(*PeerConfig)) *Peer {
	t.Helper()
	p := listenPeer(t, id, change...)
	servePeer(t, p)
	return p
}

func listenPeer(t testing.TB, id string, change ...func(*PeerConfig)) *Peer {
	t.Helper()
	cfg := PeerConfig{Addr: "127.0.0.1:0", NodeID: id, ClusterID: func() string { return testCluster }}
	for _, c := range change {
		c(&cfg)
	}
	p, err := ListenPeer(cfg)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	return p
}

// servePeer serves until the end of the test.
func servePeer(t testing.TB, p *Peer) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- p.Serve() }()
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

func inCluster(id string) func(*PeerConfig) {
	return func(cfg *PeerConfig) { cfg.ClusterID = func() string { return id } }
}

// echo answers "<node>:<request>".
func echo(_ context.Context, from Hello, req []byte) ([]byte, error) {
	return append([]byte(from.NodeID+":"), req...), nil
}

// waitFor polls until the condition holds.
func waitFor(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func short(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// checkLeaks fails the test when goroutines of this package outlive its clean-up. Call it first.
func checkLeaks(t testing.TB) {
	t.Helper()
	before := goroutines()
	t.Cleanup(func() {
		deadline := time.Now().Add(10 * time.Second)
		for {
			var left []string
			for id, stack := range goroutines() {
				if _, ok := before[id]; !ok {
					left = append(left, stack)
				}
			}
			if len(left) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}

// goroutines returns the stacks of the goroutines that this package or raft started, by id.
func goroutines() map[string]string {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	found := make(map[string]string)
	for _, stack := range bytes.Split(buf, []byte("\n\n")) {
		s := string(stack)
		if strings.Contains(s, "transport.(*") || strings.Contains(s, "raft.(*") {
			if id, _, ok := strings.Cut(s, " ["); ok && !strings.Contains(s, "testing.tRunner") {
				found[id] = s
			}
		}
	}
	return found
}

// dialRaw connects without saying hello.
func dialRaw(t testing.TB, p *Peer) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// dialHello connects and runs the handshake.
func dialHello(t testing.TB, p *Peer, h Hello) net.Conn {
	t.Helper()
	conn := dialRaw(t, p)
	if _, err := conn.Write(appendHello(nil, h)); err != nil {
		t.Fatal(err)
	}
	if err := readAnswer(conn); err != nil {
		t.Fatalf("hello %+v: %v", h, err)
	}
	return conn
}

// closedAddr is an address where nobody listens.
func closedAddr(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return addr
}

func payload(i, size int) []byte {
	b := []byte(fmt.Sprintf("payload %d ", i))
	for len(b) < size { // doubling: byte by byte is slow under the race detector
		b = append(b, b[:min(len(b), size-len(b))]...)
	}
	return b
}

var discard = slog.New(slog.DiscardHandler)
