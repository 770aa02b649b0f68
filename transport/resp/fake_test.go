package resp

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raftcask/raftcask/command"
	"github.com/raftcask/raftcask/command/commandtest"
)

// patience is how long a test waits for something that must happen. It is never waited out when all is well.
const patience = 20 * time.Second

// fakeBackend runs the command table on a map. before, if set, is called with each run of calls.
type fakeBackend struct {
	mem    *commandtest.Memory
	before func(ctx context.Context, calls []command.Call)

	mu   sync.Mutex // guards runs
	runs []int      // how many calls each Exec had
}

func newFake() *fakeBackend { return &fakeBackend{mem: commandtest.New()} }

func (f *fakeBackend) Exec(ctx context.Context, calls []command.Call) []command.Reply {
	f.mu.Lock()
	f.runs = append(f.runs, len(calls))
	f.mu.Unlock()
	if f.before != nil {
		f.before(ctx, calls)
	}
	return f.mem.Exec(calls)
}

func (f *fakeBackend) takeRuns() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	runs := f.runs
	f.runs = nil
	return runs
}

func (f *fakeBackend) Server(_ context.Context, call command.Call) command.Reply {
	switch call.Spec.Name {
	case "info":
		return command.Info(call.Args, []command.Section{{Title: "Server", Lines: []command.Param{
			{Name: "redis_version", Value: Version}, {Name: "redis_mode", Value: "standalone"},
		}}})
	case "role":
		return command.RoleMaster(0, nil)
	case "config":
		return command.Config(call.Args, []command.Param{{Name: "appendonly", Value: "yes"}, {Name: "save", Value: ""}})
	default:
		return command.Time(time.Now())
	}
}

// logBuffer is a log that tests read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// start serves b until the test ends, and then checks that no goroutine is left.
func start(t testing.TB, cfg Config, b Backend) *Server {
	t.Helper()
	goroutines := runtime.NumGoroutine()
	cfg.Addr = "127.0.0.1:0"
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	srv, err := Listen(cfg, b)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve() }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		eventually(t, "all goroutines of the server end", func() bool { return runtime.NumGoroutine() <= goroutines })
	})
	return srv
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("did not happen: %s\n%s", what, buf[:runtime.Stack(buf, true)])
		}
	}
}

// client is a connection whose bytes the test sees.
type client struct {
	t    testing.TB
	conn *net.TCPConn
	in   *bufio.Reader
}

func dial(t testing.TB, srv *Server) *client {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &client{t: t, conn: conn.(*net.TCPConn), in: bufio.NewReader(conn)}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// expect reads exactly the bytes of want.
func (c *client) expect(want string) {
	c.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c.in, got)
	if err != nil || string(got) != want {
		c.t.Fatalf("got %.300q (%v)\nwant %.300q", got[:n], err, want)
	}
}

// ask sends a command of plain words and expects the bytes of want.
func (c *client) ask(line, want string) {
	c.t.Helper()
	c.send(encode(strings.Fields(line)...))
	c.expect(want)
}

// expectEnd reads the end of the stream.
func (c *client) expectEnd() {
	c.t.Helper()
	rest, err := io.ReadAll(c.in)
	if err != nil || len(rest) > 0 {
		c.t.Fatalf("got %.300q (%v), want the end", rest, err)
	}
}

// next reads one reply, of RESP2 or RESP3, as it came.
func (c *client) next() string {
	c.t.Helper()
	raw, err := readRaw(c.in)
	if err != nil {
		c.t.Fatalf("read a reply: %v after %.100q", err, raw)
	}
	return raw
}

func readRaw(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return line, err
	}
	n := 0
	if _, err := fmt.Sscanf(line[1:], "%d", &n); err != nil && strings.ContainsRune("$=*~%", rune(line[0])) {
		return line, err
	}
	switch line[0] {
	case '$', '=':
		if n < 0 {
			return line, nil
		}
		body := make([]byte, n+2)
		_, err := io.ReadFull(in, body)
		return line + string(body), err
	case '%':
		n *= 2
	case '*', '~':
	default:
		return line, nil
	}
	for range n {
		elem, err := readRaw(in)
		line += elem
		if err != nil {
			return line, err
		}
	}
	return line, nil
}

// bulk is a bulk string of RESP.
func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }
