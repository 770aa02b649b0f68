package resp

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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/raftcask/raftcask/command"
)

func TestCommandsAreAnswered(t *testing.T) {
	c := dial(t, start(t, Config{}, newFake()))
	c.ask("SET k v", "+OK\r\n")
	c.ask("get k", "$1\r\nv\r\n")
	c.ask("GET none", "$-1\r\n")
	c.ask("INCR n", ":1\r\n")
	c.ask("MGET k none n", "*3\r\n$1\r\nv\r\n$-1\r\n$1\r\n1\r\n")
	c.ask("INCR k", "-ERR value is not an integer or out of range\r\n")
	c.ask("GET", "-ERR wrong number of arguments for 'get' command\r\n")
	c.ask("MULTI", "-ERR unknown command 'MULTI', with args beginning with: \r\n")
	c.send(encode("foo", "a\r\nb", "c"))
	c.expect("-ERR unknown command 'foo', with args beginning with: 'a  b' 'c' \r\n")
	c.send("set k \"in\\tline\"\r\nget k\n")
	c.expect("+OK\r\n$7\r\nin\tline\r\n")
	c.ask("PING", "+PONG\r\n")
	c.ask("PING hello", "$5\r\nhello\r\n")
	c.ask("PING a b", "-ERR wrong number of arguments for 'ping' command\r\n")
	c.ask("ECHO hello", "$5\r\nhello\r\n")
	c.ask("ROLE", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n")
	c.ask("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n")
	c.ask("DBSIZE", ":2\r\n")
}

func TestHello(t *testing.T) {
	c := dial(t, start(t, Config{}, newFake()))
	c.ask("HELLO 4", "-NOPROTO unsupported protocol version\r\n")
	c.ask("HELLO 1", "-NOPROTO unsupported protocol version\r\n")
	c.ask("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n")
	c.ask("HELLO 3 FOO", "-ERR Syntax error in HELLO option 'FOO'\r\n")
	c.ask("HELLO 3 SETNAME", "-ERR Syntax error in HELLO option 'SETNAME'\r\n")
	c.ask("HELLO 3 AUTH default", "-ERR Syntax error in HELLO option 'AUTH'\r\n")
	noPassword := "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n"
	wrong := "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
	c.ask("HELLO 3 AUTH bob secret", wrong)
	c.ask("HELLO 3 AUTH bob secret FOO", "-ERR Syntax error in HELLO option 'FOO'\r\n")
	c.ask("AUTH secret", noPassword)
	c.ask("AUTH default secret", "+OK\r\n")
	c.ask("AUTH bob secret", wrong)
	c.ask("AUTH a b c", "-ERR syntax error\r\n")
	c.ask("CLIENT GETNAME", "$-1\r\n") // none of it changed anything, the version neither
	c.send(encode("HELLO", "3", "SETNAME", "a b"))
	c.expect("-ERR Client names cannot contain spaces, newlines or special characters.\r\n")
	c.send(encode("HELLO", "3", "SETNAME", "me"))
	want := "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.4.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n" +
		"$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
	c.expect(want)
	c.ask("HELLO", want)
	c.ask("CLIENT GETNAME", "$2\r\nme\r\n")
	c.ask("GET none", "_\r\n")
	c.ask("CONFIG GET save", "%1\r\n$4\r\nsave\r\n$0\r\n\r\n")
	c.ask("INFO none", "=4\r\ntxt:\r\n")
	c.ask("RESET", "+RESET\r\n")
	c.ask("GET none", "$-1\r\n")
	c.ask("CLIENT GETNAME", "$-1\r\n")
}

type replica struct{ *fakeBackend }

func (replica) Role() string { return "replica" }

func TestHelloTellsTheRole(t *testing.T) {
	c := dial(t, start(t, Config{}, replica{newFake()}))
	c.send(encode("HELLO"))
	if got := c.next(); !strings.Contains(got, "role\r\n$7\r\nreplica\r\n") {
		t.Errorf("%q", got)
	}
}

func TestSelect(t *testing.T) {
	c := dial(t, start(t, Config{}, newFake()))
	c.ask("SELECT 0", "+OK\r\n")
	c.ask("SELECT 1", "-ERR DB index is out of range\r\n")
	c.ask("SELECT -1", "-ERR DB index is out of range\r\n")
	c.ask("SELECT x", "-ERR value is not an integer or out of range\r\n")
	c.ask("SELECT 99999999999", "-ERR value is out of range, value must between -2147483648 and 2147483647\r\n")
}

func TestClientCommand(t *testing.T) {
	srv := start(t, Config{}, newFake())
	c, other := dial(t, srv), dial(t, srv)
	c.ask("CLIENT ID", ":1\r\n")
	other.ask("CLIENT ID", ":2\r\n")
	c.ask("CLIENT", "-ERR wrong number of arguments for 'client' command\r\n")
	c.ask("CLIENT FOO", "-ERR unknown subcommand 'FOO'. Try CLIENT HELP.\r\n")
	c.ask("CLIENT TRACKING ON", "-ERR unknown subcommand 'TRACKING'. Try CLIENT HELP.\r\n")
	c.ask("CLIENT SETNAME", "-ERR wrong number of arguments for 'client|setname' command\r\n")
	c.ask("CLIENT SETNAME me", "+OK\r\n")
	c.ask("CLIENT GETNAME", "$2\r\nme\r\n")
	c.ask("CLIENT SETINFO lib-name go-x", "+OK\r\n")
	c.ask("CLIENT SETINFO LIB-VER 1.2", "+OK\r\n")
	c.ask("CLIENT SETINFO lib-foo x", "-ERR Unrecognized option 'lib-foo'\r\n")
	c.send(encode("CLIENT", "SETINFO", "lib-name", "a b"))
	c.expect("-ERR lib-name cannot contain spaces, newlines or special characters.\r\n")
	c.ask("CLIENT NO-EVICT on", "+OK\r\n")
	c.ask("CLIENT NO-TOUCH maybe", "-ERR syntax error\r\n")
	c.ask("CLIENT LIST TYPE foo", "-ERR Unknown client type 'foo'\r\n")
	c.ask("CLIENT LIST TYPE pubsub", "$0\r\n\r\n")
	c.ask("CLIENT LIST ID x", "-ERR Invalid client ID\r\n")
	c.ask("CLIENT LIST ID", "-ERR syntax error\r\n")
	c.send(encode("CLIENT", "INFO"))
	info := c.next()
	for _, want := range []string{"id=1 ", "addr=" + c.conn.LocalAddr().String() + " ", "name=me ", "cmd=client|info ", "resp=2 ", "lib-name=go-x ", "lib-ver=1.2\n"} {
		if !strings.Contains(info, want) {
			t.Errorf("CLIENT INFO has no %q: %q", want, info)
		}
	}
	other.ask("HELLO 3 SETNAME you", other.helloText(2))
	c.send(encode("CLIENT", "LIST"))
	if list := c.next(); !strings.Contains(list, "name=me ") || !strings.Contains(list, "name=you ") || !strings.Contains(list, "resp=3") {
		t.Errorf("CLIENT LIST: %q", list)
	}
	c.send(encode("CLIENT", "LIST", "ID", "2", "7"))
	if list := c.next(); strings.Contains(list, "name=me ") || !strings.Contains(list, "name=you ") {
		t.Errorf("CLIENT LIST ID 2: %q", list)
	}
	c.ask("CLIENT SETNAME x", "+OK\r\n")
	c.send(encode("CLIENT", "SETNAME", ""))
	c.expect("+OK\r\n")
	c.ask("CLIENT GETNAME", "$-1\r\n")
}

func (c *client) helloText(id int) string {
	return fmt.Sprintf("%%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.4.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:%d\r\n"+
		"$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n", id)
}

func TestQuitAnswersAndCloses(t *testing.T) {
	c := dial(t, start(t, Config{}, newFake()))
	c.send(encode("SET", "k", "v") + encode("QUIT") + encode("GET", "k"))
	c.expect("+OK\r\n+OK\r\n")
	c.expectEnd()
}

func TestEndOfInputIsAnsweredFirst(t *testing.T) {
	c := dial(t, start(t, Config{}, newFake()))
	c.send(encode("SET", "k", "v") + "*1\r\n$4\r\nPI")
	if err := c.conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.expect("+OK\r\n")
	c.expectEnd()
}

// TestProtocolErrors sends every bad input, with much behind it: what came before is answered, then the
// error, then the end, and nothing is reset.
func TestProtocolErrors(t *testing.T) {
	srv := start(t, testLimits(), newFake())
	for _, bad := range badInputs {
		t.Run(bad.name, func(t *testing.T) {
			c := dial(t, srv)
			c.send(encode("PING") + encode("GET", "k") + bad.input)
			c.expect("+PONG\r\n$-1\r\n-ERR Protocol error: " + bad.want + "\r\n")
			c.send(strings.Repeat("more and more ", 10_000))
			c.expectEnd()
		})
	}
	dial(t, srv).ask("PING", "+PONG\r\n")
}

func TestTooLargeIsRefusedAndTheConnectionGoesOn(t *testing.T) {
	srv := start(t, Config{}, newFake())
	c := dial(t, srv)
	big := bytes.Repeat([]byte("x"), 1<<20)
	size := 60 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c.send(encode("SET", "before", "1") + fmt.Sprintf("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n", size))
	c.expect("+OK\r\n") // not only when the whole value was read
	for range size / len(big) {
		if _, err := c.conn.Write(big); err != nil {
			t.Fatal(err)
		}
	}
	c.send("\r\n" + encode("GET", "k"))
	c.expect(fmt.Sprintf("-ERR not applied: an argument of %d bytes is too long, the limit is %d\r\n$-1\r\n", size, command.DefaultMaxValueBytes))
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
		t.Errorf("%d bytes were allocated to refuse %d", got, size)
	}
	c.send(encode("SET", strings.Repeat("k", 70_000), "v"))
	c.expect("-ERR not applied: the key of 70000 bytes is too long, the limit is 65535\r\n")
	for _, read := range []string{"GET", "EXISTS"} { // nothing would have been applied
		c.send(encode(read, strings.Repeat("k", 70_000)))
		c.expect("-ERR the key of 70000 bytes is too long, the limit is 65535: no such key can exist\r\n")
	}
	largest := strings.Repeat("v", command.DefaultMaxValueBytes)
	c.send(encode("SET", "k", largest) + encode("GET", "k"))
	c.expect("+OK\r\n" + bulk(largest))
	c.send(fmt.Sprintf("*1\r\n$%d\r\n", 64<<20+1))
	c.expect("-ERR Protocol error: invalid bulk length\r\n")
	c.expectEnd()
}

func TestHalfWrittenCommands(t *testing.T) {
	c := dial(t, start(t, Config{}, newFake()))
	for _, b := range []byte(encode("SET", "key", "value") + encode("GET", "key")) {
		c.send(string(b))
	}
	c.expect("+OK\r\n$5\r\nvalue\r\n")
}

func TestMaxClients(t *testing.T) {
	srv := start(t, Config{MaxClients: 2}, newFake())
	a, b := dial(t, srv), dial(t, srv)
	a.ask("PING", "+PONG\r\n")
	b.ask("PING", "+PONG\r\n")
	c := dial(t, srv)
	c.send(strings.Repeat(encode("HELLO", "3"), 50_000)) // unread input must not reset the connection
	c.expect("-ERR max number of clients reached\r\n")
	c.expectEnd()
	if got := srv.Stats(); got.Clients != 2 || got.Accepted != 2 || got.Rejected != 1 {
		t.Errorf("stats %+v", got)
	}
	a.conn.Close()
	eventually(t, "the place of a closed connection is free", func() bool { return srv.Clients() == 1 })
	dial(t, srv).ask("PING", "+PONG\r\n")
}

func TestStatsCount(t *testing.T) {
	srv := start(t, Config{}, newFake())
	c := dial(t, srv)
	request, reply := encode("SET", "k", "v")+encode("FOO"), "+OK\r\n-ERR unknown command 'FOO', with args beginning with: \r\n"
	c.send(request)
	c.expect(reply)
	eventually(t, "all is counted", func() bool {
		got := srv.Stats()
		return got.Commands == 2 && got.BytesIn == uint64(len(request)) && got.BytesOut == uint64(len(reply))
	})
}

// TestPanicClosesOnlyItsConnection, after the client was told that it does not know the outcome.
func TestPanicClosesOnlyItsConnection(t *testing.T) {
	fake := newFake()
	fake.before = func(_ context.Context, calls []command.Call) {
		if string(calls[0].Args[1]) == "bomb" {
			panic("boom")
		}
	}
	log := &logBuffer{}
	srv := start(t, Config{Logger: slog.New(slog.NewTextHandler(log, nil))}, fake)
	other, c := dial(t, srv), dial(t, srv)
	other.ask("SET k v", "+OK\r\n")
	c.send(encode("PING") + encode("SET", "bomb", "v") + encode("SET", "k", "v"))
	c.expect("+PONG\r\n")
	for range 2 {
		if got := c.next(); !strings.HasPrefix(got, "-UNKNOWN ") {
			t.Errorf("%q", got)
		}
	}
	c.expectEnd()
	other.ask("GET k", "$1\r\nv\r\n")
	if got := log.String(); !strings.Contains(got, "boom") || !strings.Contains(got, "fake_test.go") {
		t.Errorf("log: %s", got)
	}
}

type mute struct{ *fakeBackend }

func (mute) Exec(context.Context, []command.Call) []command.Reply { return nil }

func TestMissingRepliesAreUnknown(t *testing.T) {
	c := dial(t, start(t, Config{}, mute{newFake()}))
	c.send(encode("SET", "k", "v"))
	if got := c.next(); !strings.HasPrefix(got, "-UNKNOWN ") {
		t.Errorf("%q", got)
	}
	c.ask("PING", "+PONG\r\n")
}

func TestCloseLetsRunningCommandsFinish(t *testing.T) {
	fake := newFake()
	entered, leave := make(chan struct{}), make(chan struct{})
	fake.before = func(ctx context.Context, _ []command.Call) {
		close(entered)
		<-leave
		if ctx.Err() != nil {
			t.Error("the context ended while the command ran")
		}
	}
	srv := start(t, Config{}, fake)
	idle, busy := dial(t, srv), dial(t, srv)
	idle.ask("PING", "+PONG\r\n")
	busy.send(encode("SET", "k", "v") + encode("GET", "k"))
	<-entered
	closed := make(chan error, 1)
	go func() { closed <- srv.Close() }()
	idle.expectEnd()
	if conn, err := net.Dial("tcp", srv.Addr().String()); err == nil {
		conn.Close()
		t.Error("a connection was accepted while the server closes")
	}
	select {
	case <-closed:
		t.Fatal("Close did not wait for a running command")
	default:
	}
	close(leave)
	busy.expect("+OK\r\n$1\r\nv\r\n")
	busy.expectEnd()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// TestCloseEndsTheContextOfWhatDoesNotFinish: and the client still hears of it.
func TestCloseEndsTheContextOfWhatDoesNotFinish(t *testing.T) {
	fake := newFake()
	entered := make(chan struct{})
	fake.before = func(ctx context.Context, _ []command.Call) {
		close(entered)
		<-ctx.Done()
	}
	srv := start(t, Config{DrainTimeout: 10 * time.Millisecond}, fake)
	c := dial(t, srv)
	c.send(encode("SET", "k", "v"))
	<-entered
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	c.expect("+OK\r\n")
	c.expectEnd()
}

// TestCloseCutsWhoDoesNotRead: replies that nobody reads do not hold up the end.
func TestCloseCutsWhoDoesNotRead(t *testing.T) {
	srv := start(t, Config{DrainTimeout: 10 * time.Millisecond, MaxPendingBytes: 1 << 20}, newFake())
	c := dial(t, srv)
	c.ask("SET k "+strings.Repeat("v", 1<<20), "+OK\r\n")
	c.send(strings.Repeat(encode("GET", "k"), 50))
	eventually(t, "the queue fills", func() bool { return srv.pending.bytes.Load() > 0 })
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
}

func TestIdleConnectionGivesBackItsBuffer(t *testing.T) {
	srv := start(t, Config{}, newFake())
	c := dial(t, srv)
	burst := strings.Repeat(encode("PING"), 50_000)
	go func() { _, _ = io.WriteString(c.conn, burst) }() // a failure shows as missing replies
	c.expect(strings.Repeat("+PONG\r\n", 50_000))
	session := srv.list()[0]
	resting := func() bool { // the deadline is taken away once the buffer is small again
		session.mu.Lock()
		defer session.mu.Unlock()
		return !session.armed
	}
	eventually(t, "the session rests", resting)
	c.ask("PING", "+PONG\r\n")
}

// brokenListener fails a few times before it accepts.
type brokenListener struct {
	net.Listener
	failures atomic.Int64
	err      error
}

func (l *brokenListener) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: l.err}
	}
	return l.Listener.Accept()
}

func TestAcceptGoesOnAfterPassingErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		stop bool
	}{{syscall.EMFILE, false}, {syscall.ECONNABORTED, false}, {syscall.EINVAL, true}, {errors.New("other"), true}} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		broken := &brokenListener{Listener: ln, err: c.err}
		broken.failures.Store(3)
		cfg := Config{Logger: slog.New(slog.DiscardHandler)}.withDefaults()
		srv := newServer(cfg, newFake(), broken)
		done := make(chan error, 1)
		go func() { done <- srv.Serve() }()
		if c.stop {
			if err := <-done; !errors.Is(err, c.err) {
				t.Errorf("%v: Serve returned %v", c.err, err)
			}
		} else {
			dial(t, srv).ask("PING", "+PONG\r\n")
		}
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if !c.stop {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
}

func TestListenSaysWhatFailed(t *testing.T) {
	srv := start(t, Config{}, newFake())
	if _, err := Listen(Config{Addr: srv.Addr().String()}, newFake()); err == nil || !strings.Contains(err.Error(), "listen for Redis clients") {
		t.Errorf("error %v", err)
	}
}
