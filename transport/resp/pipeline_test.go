package resp

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftcask/raftcask/command"
)

// TestPipelineIsOneRun: data commands that follow each other are submitted together, connection commands
// between them do not end the run, and the replies keep their order.
func TestPipelineIsOneRun(t *testing.T) {
	fake := newFake()
	c := dial(t, start(t, Config{}, fake))
	c.send(encode("SET", "k", "1") + encode("PING") + encode("GET", "k") + encode("FOO") + encode("SET", "k", "2") +
		encode("HELLO", "3") + encode("GET", "none") + encode("SET", "", "x") + encode("GET", "k") + encode("HELLO", "2") + encode("GET", "none"))
	c.expect("+OK\r\n+PONG\r\n$1\r\n1\r\n-ERR unknown command 'FOO', with args beginning with: \r\n+OK\r\n")
	if hello := c.next(); !strings.HasPrefix(hello, "%7\r\n") || !strings.Contains(hello, "proto\r\n:3\r\n") {
		t.Errorf("HELLO 3: %q", hello)
	}
	c.expect("_\r\n-ERR not applied: a key must have at least one byte\r\n$1\r\n2\r\n")
	if hello := c.next(); !strings.HasPrefix(hello, "*14\r\n") || !strings.Contains(hello, "proto\r\n:2\r\n") {
		t.Errorf("HELLO 2: %q", hello)
	}
	c.expect("$-1\r\n")
	if runs := fake.takeRuns(); !slices.Equal(runs, []int{6}) {
		t.Errorf("runs of %d calls, want one of 6", runs)
	}
	// A question to the node comes after what was before it.
	c.send(encode("SET", "k", "1") + encode("ROLE") + encode("GET", "k"))
	c.expect("+OK\r\n*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n$1\r\n1\r\n")
	if runs := fake.takeRuns(); !slices.Equal(runs, []int{1, 1}) {
		t.Errorf("runs of %d calls, want two of 1", runs)
	}
}

// TestLargeRepliesMakeSmallBatches: all replies of a batch are in memory together.
func TestLargeRepliesMakeSmallBatches(t *testing.T) {
	fake := newFake()
	c := dial(t, start(t, Config{}, fake))
	value := strings.Repeat("v", 1<<20)
	c.ask("SET k "+value, "+OK\r\n")
	fake.takeRuns()
	c.send(strings.Repeat(encode("GET", "k"), 200))
	for range 200 {
		c.expect(bulk(value))
	}
	if runs := fake.takeRuns(); slices.Max(runs) > firstBatch || slices.Max(runs[1:]) > 8 {
		t.Errorf("runs of %d calls", runs)
	}
	small := strings.Repeat(encode("INCR", "n"), 20_000)
	go func() { _, _ = io.WriteString(c.conn, small) }() // a failure shows as missing replies
	for i := range 20_000 {
		c.expect(fmt.Sprintf(":%d\r\n", i+1))
	}
	if runs := fake.takeRuns(); slices.Max(runs) < 256 {
		t.Errorf("with small replies again, runs of %d calls", runs)
	}
}

// refusing applies nothing while it is on.
type refusing struct {
	*fakeBackend
	on atomic.Bool
}

func (r *refusing) Exec(ctx context.Context, calls []command.Call) []command.Reply {
	if r.on.Swap(false) { // only the first batch: the next one would succeed
		return slices.Repeat([]command.Reply{command.NoLeader()}, len(calls))
	}
	return r.fakeBackend.Exec(ctx, calls)
}

// TestRefusalHoldsForTheWholePipeline: go-redis sends a pipeline again when its first reply is a refusal,
// so nothing of it may have been applied.
func TestRefusalHoldsForTheWholePipeline(t *testing.T) {
	backend := &refusing{fakeBackend: newFake()}
	c := dial(t, start(t, Config{}, backend))
	for _, n := range []int{1, firstBatch, 3*firstBatch + 1} { // 8 KB: one read takes it
		backend.on.Store(true)
		c.send(strings.Repeat(encode("INCR", "n"), n))
		for range n {
			if got := c.next(); !strings.HasPrefix(got, "-CLUSTERDOWN not applied") {
				t.Fatalf("pipeline of %d: %q", n, got)
			}
		}
		c.ask("GET n", "$-1\r\n") // the next pipeline is served
	}
}

// TestRefusalEndsInAnEndlessStream: a client that never pauses is served again.
func TestRefusalEndsInAnEndlessStream(t *testing.T) {
	backend := &refusing{fakeBackend: newFake()}
	backend.on.Store(true)
	c := dial(t, start(t, Config{}, backend))
	done := make(chan struct{})
	defer close(done)
	go func() { // always in the middle of a command
		rest := strings.Repeat(encode("INCR", "n"), 100)
		for sent := "*2\r\n"; ; sent = rest[4:] + "*2\r\n" {
			if _, err := io.WriteString(c.conn, sent); err != nil {
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	}()
	for {
		if got := c.next(); got == ":1\r\n" {
			return
		}
	}
}

func TestLongPipeline(t *testing.T) {
	const n = 10_000
	c := dial(t, start(t, Config{}, newFake()))
	var input, want strings.Builder
	for i := range n {
		key := fmt.Sprintf("key:%d", i%100)
		input.WriteString(encode("SET", key, fmt.Sprint(i)) + encode("GET", key) + encode("INCR", "n"))
		want.WriteString("+OK\r\n" + bulk(fmt.Sprint(i)) + fmt.Sprintf(":%d\r\n", i+1))
	}
	go func() { _, _ = io.WriteString(c.conn, input.String()) }() // a failure shows as missing replies
	c.expect(want.String())
}

// TestWholePipelineBeforeTheFirstReply is how many clients pipeline: they write everything and only then
// read. The replies, 40 MB, are more than the sockets hold.
func TestWholePipelineBeforeTheFirstReply(t *testing.T) {
	srv := start(t, Config{MaxPendingBytes: 64 << 20}, newFake())
	c := dial(t, srv)
	value := strings.Repeat("v", 1000)
	c.ask("SET k "+value, "+OK\r\n")
	c.send(strings.Repeat(encode("GET", "k"), 40_000))
	for range 40_000 {
		c.expect(bulk(value))
	}
	eventually(t, "the queue is accounted for", func() bool { return srv.pending.bytes.Load() == 0 })
	c.ask("PING", "+PONG\r\n") // and the next flush goes straight to the socket again
}

// TestClientThatNeverReadsIsCutOff: its pending output is bounded all the while, and others are served.
func TestClientThatNeverReadsIsCutOff(t *testing.T) {
	const limit = 1 << 20
	srv := start(t, Config{MaxPendingBytes: limit, WriteTimeout: 200 * time.Millisecond}, newFake())
	c := dial(t, srv)
	c.ask("SET k "+strings.Repeat("v", 10_000), "+OK\r\n")
	go func() { // until it is cut off
		for {
			if _, err := io.WriteString(c.conn, strings.Repeat(encode("GET", "k"), 100)); err != nil {
				return
			}
		}
	}()
	var highest int64
	eventually(t, "the client is cut off", func() bool {
		highest = max(highest, srv.pending.bytes.Load())
		return srv.Clients() == 0
	})
	// A flush in the middle of a batch adds flushBytes and a reply at most.
	if highest < limit/2 || highest > limit+2*flushBytes {
		t.Errorf("up to %d bytes were pending, the limit is %d", highest, limit)
	}
	if left := srv.pending.bytes.Load(); left != 0 {
		t.Errorf("%d bytes are still counted as pending", left)
	}
	dial(t, srv).ask("PING", "+PONG\r\n")
}

// TestSlowReaderIsServed: one that reads little by little is not taken for one that does not read.
func TestSlowReaderIsServed(t *testing.T) {
	srv := start(t, Config{MaxPendingBytes: 1 << 20}, newFake())
	c := dial(t, srv)
	if err := c.conn.SetReadBuffer(16 << 10); err != nil {
		t.Fatal(err)
	}
	value := strings.Repeat("v", 1<<20)
	c.ask("SET k "+value, "+OK\r\n")
	c.send(strings.Repeat(encode("GET", "k"), 8))
	want := strings.Repeat(bulk(value), 8)
	for len(want) > 0 {
		n := min(len(want), 64<<10)
		c.expect(want[:n])
		want = want[n:]
		runtime.Gosched()
	}
}
