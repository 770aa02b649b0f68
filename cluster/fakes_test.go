package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftcask/raftcask/bitcask"
	"github.com/raftcask/raftcask/fsm"
	"github.com/raftcask/raftcask/internal/vfs"
)

// fakeRaft stores and applies proposed entries one after another, as a leader alone would, and lets a test
// hold back, refuse and lose them.
type fakeRaft struct {
	t     testing.TB
	store *bitcask.Store
	term  uint64 // of the log; an entry of another term is void

	mu      sync.Mutex
	entries [][]byte
	index   uint64
	hold    bool
	held    []*fakeFuture
	refuse  error // answer to new entries, which are not stored
	arrived chan struct{}
}

type fakeFuture struct {
	data     []byte
	done     chan struct{}
	err      error
	response any
}

func (f *fakeFuture) Error() error  { <-f.done; return f.err }
func (f *fakeFuture) Response() any { return f.response }
func (f *fakeFuture) Index() uint64 { return 0 }

func newFakeRaft(t testing.TB, now func() time.Time) *fakeRaft {
	t.Helper()
	store, err := bitcask.Open("cask", &bitcask.Options{Replicated: true, FS: vfs.NewMem(), Logger: quiet(), Now: now, SegmentBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return &fakeRaft{t: t, store: store, term: 1, arrived: make(chan struct{}, 1000)}
}

func (r *fakeRaft) Apply(data []byte, _ time.Duration) raft.ApplyFuture {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &fakeFuture{data: data, done: make(chan struct{})}
	r.entries = append(r.entries, data)
	switch {
	case r.refuse != nil:
		f.err = r.refuse
		close(f.done)
	case r.hold:
		r.held = append(r.held, f)
	default:
		r.applyLocked(f)
	}
	select {
	case r.arrived <- struct{}{}:
	default: // the test does not count them
	}
	return f
}

func (r *fakeRaft) applyLocked(f *fakeFuture) {
	r.index++
	if err := r.store.Append([]bitcask.Entry{{Index: r.index, Term: r.term, Data: f.data}}); err != nil {
		r.t.Errorf("append: %v", err)
	}
	if err := r.store.Commit(r.index); err != nil {
		r.t.Errorf("commit: %v", err)
	}
	if term, _ := bitcask.BatchTerm(f.data); term != r.term {
		f.response = fsm.ErrStaleTerm
	}
	close(f.done)
}

// setHold makes raft keep entries instead of applying them.
func (r *fakeRaft) setHold(hold bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = hold
}

// release applies what was held, or answers it with err.
func (r *fakeRaft) release(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.held {
		if err != nil {
			f.err = err
			close(f.done)
		} else {
			r.applyLocked(f)
		}
	}
	r.held, r.hold = nil, false
}

func (r *fakeRaft) setRefuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = err
}

func (r *fakeRaft) setTerm(term uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.term = term
}

func (r *fakeRaft) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.entries)
}

// awaitEntry waits for the next entry to arrive.
func (r *fakeRaft) awaitEntry() {
	r.t.Helper()
	select {
	case <-r.arrived:
	case <-time.After(10 * time.Second):
		r.t.Fatal("no entry was proposed")
	}
}

func (r *fakeRaft) get(key string) (string, bool) {
	r.t.Helper()
	value, _, err := r.store.Read([]byte(key), nil)
	if errors.Is(err, bitcask.ErrNotFound) {
		return "", false
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return string(value), true
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// testLog writes to the test's log while the test runs, for those that need to be understood when they fail.
func testLog(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.over = true
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type testWriter struct {
	t    testing.TB
	mu   sync.Mutex
	over bool
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.t.Log(string(bytes.TrimSpace(p)))
	}
	return len(p), nil
}

// until polls until ok returns nil.
func until(t testing.TB, limit time.Duration, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", limit, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// noLeaks fails the test if goroutines of this package or of its libraries outlive it. Call it first.
func noLeaks(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		until(t, 15*time.Second, func() error {
			buf := make([]byte, 1<<20)
			buf = buf[:runtime.Stack(buf, true)]
			for _, stack := range strings.Split(string(buf), "\n\n")[1:] {
				if strings.Contains(stack, "raft.(*deferError).Error") && strings.Contains(stack, "(*proposer).complete") {
					continue // raft never answers what was on its way to the state machine when it shut down
				}
				for _, where := range []string{"raftcask/cluster.", "hashicorp/raft.", "hashicorp/memberlist.", "raftcask/bitcask."} {
					if strings.Contains(stack, where) && !strings.Contains(stack, "testing.tRunner") && !strings.Contains(stack, "testing.(*B)") {
						return fmt.Errorf("a goroutine is left:\n%s", stack)
					}
				}
			}
			return nil
		})
	})
}

// noPeers is a Peers that reaches nobody.
type noPeers struct{}

func (noPeers) Call(context.Context, string, Channel, []byte) ([]byte, error) {
	return nil, errors.New("nobody is there")
}

// tcpLayer is a raft.StreamLayer over plain TCP.
type tcpLayer struct{ net.Listener }

func newTCPLayer(t testing.TB, addr string) *tcpLayer {
	t.Helper()
	var l net.Listener
	until(t, 5*time.Second, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	return &tcpLayer{l}
}

func (l *tcpLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(address), timeout)
}
