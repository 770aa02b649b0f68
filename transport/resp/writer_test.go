package resp

import (
	"io"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftcask/raftcask/command"
)

func testWriter(conn net.Conn) *writer {
	cfg := Config{}.withDefaults()
	return newWriter(conn, &cfg, &pendingTotal{limit: int64(cfg.MaxPendingTotal)}, new(atomic.Uint64))
}

// pipeWriter writes to a connection that is no socket, so that everything goes through the drainer.
func pipeWriter(t testing.TB) (*writer, <-chan string) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	got := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(theirs) // ends when ours is closed
		got <- string(all)
	}()
	return testWriter(ours), got
}

func TestRender(t *testing.T) {
	var list command.Strings
	list.Add([]byte("a"))
	list.Add([]byte(""))
	for _, c := range []struct {
		reply        command.Reply
		resp2, resp3 string
	}{
		{command.OK(), "+OK\r\n", "+OK\r\n"},
		{command.Err("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"},
		{command.Int(0), ":0\r\n", ":0\r\n"},
		{command.Int(math.MinInt64), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"},
		{command.Int(9), ":9\r\n", ":9\r\n"},
		{command.Int(10), ":10\r\n", ":10\r\n"},
		{command.Int(-1), ":-1\r\n", ":-1\r\n"},
		{command.Bulk(nil), "$0\r\n\r\n", "$0\r\n\r\n"},
		{command.BulkString("a\r\nb"), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"},
		{command.Nil(), "$-1\r\n", "_\r\n"},
		{command.Array(), "*0\r\n", "*0\r\n"},
		{command.Array(command.Int(1), command.Array(command.Nil())), "*2\r\n:1\r\n*1\r\n$-1\r\n", "*2\r\n:1\r\n*1\r\n_\r\n"},
		{list.Reply(), "*2\r\n$1\r\na\r\n$0\r\n\r\n", "*2\r\n$1\r\na\r\n$0\r\n\r\n"},
		{command.Map(command.BulkString("k"), command.Int(1)), "*2\r\n$1\r\nk\r\n:1\r\n", "%1\r\n$1\r\nk\r\n:1\r\n"},
		{command.Set(command.Simple("a")), "*1\r\n+a\r\n", "~1\r\n+a\r\n"},
		{command.Double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"},
		{command.Double(math.Inf(1)), "$3\r\ninf\r\n", ",inf\r\n"},
		{command.Double(math.Inf(-1)), "$4\r\n-inf\r\n", ",-inf\r\n"},
		{command.Double(math.NaN()), "$3\r\nnan\r\n", ",nan\r\n"},
		{command.Bool(true), ":1\r\n", "#t\r\n"},
		{command.Bool(false), ":0\r\n", "#f\r\n"},
		{command.Verbatim("text"), "$4\r\ntext\r\n", "=8\r\ntxt:text\r\n"},
	} {
		for proto, want := range map[int]string{2: c.resp2, 3: c.resp3} {
			w := testWriter(nil)
			w.reply(&c.reply, proto)
			if got := string(w.buf); got != want {
				t.Errorf("%v in RESP%d: %q, want %q", c.reply, proto, got, want)
			}
		}
	}
	w := testWriter(nil)
	w.reply(&command.Reply{}, 2)
	if got := string(w.buf); !strings.HasPrefix(got, "-UNKNOWN ") {
		t.Errorf("no reply: %q", got)
	}
}

// TestLargeValuesAreWrittenInOrder mixes values that are borrowed with small ones.
func TestLargeValuesAreWrittenInOrder(t *testing.T) {
	w, got := pipeWriter(t)
	var want strings.Builder
	for i := range 50 {
		for _, size := range []int{0, 10, borrowBytes - 1, borrowBytes, 3 * borrowBytes, 300_000} {
			value := strings.Repeat(string(rune('a'+i%26)), size)
			r := command.BulkString(value)
			w.reply(&r, 2)
			want.WriteString(bulk(value))
		}
		if i%7 == 0 {
			if err := w.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	w.conn.Close()
	if all := <-got; all != want.String() {
		t.Errorf("%d bytes differ from the %d expected", len(all), want.Len())
	}
}

// deadlineConn remembers its write deadline.
type deadlineConn struct {
	net.Conn
	deadline time.Time
}

func (d *deadlineConn) SetWriteDeadline(t time.Time) error {
	d.deadline = t
	return d.Conn.SetWriteDeadline(t)
}

// TestDrainerLeavesNoDeadline: it would fail a later flush, which sets none.
func TestDrainerLeavesNoDeadline(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }() // ends when ours is closed
	conn := &deadlineConn{Conn: ours}
	w := testWriter(conn)
	r := command.OK()
	w.reply(&r, 2)
	if err := w.finish(); err != nil || !conn.deadline.IsZero() {
		t.Errorf("deadline %v, error %v", conn.deadline, err)
	}
}

func TestWriterFailsForGood(t *testing.T) {
	w, _ := pipeWriter(t)
	w.conn.Close()
	for range 10 {
		r := command.BulkString(strings.Repeat("x", 100_000))
		w.reply(&r, 2)
	}
	if err := w.finish(); err == nil {
		t.Error("no error")
	}
	if w.queued != 0 || w.ready != 0 || w.total.bytes.Load() != 0 {
		t.Errorf("%d bytes queued, %d ready, %d counted", w.queued, w.ready, w.total.bytes.Load())
	}
}
