package integration

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// redis is a connection that speaks RESP2 by hand: it sends exactly the bytes that a test wants and returns each reply as it
// came. Replies are string (bulk), status (simple), int64, redisError, nil and []any.
type redis struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

type (
	status     string
	redisError string
)

func (e redisError) Error() string { return string(e) }

const replyTimeout = 30 * time.Second

func dialRedis(t testing.TB, addr string) *redis {
	t.Helper()
	c, err := tryDialRedis(addr)
	if err != nil {
		t.Fatal(err)
	}
	c.t = t
	t.Cleanup(func() { _ = c.Close() }) // the server may have closed it
	return c
}

func tryDialRedis(addr string) (*redis, error) {
	nc, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return &redis{Conn: nc, r: bufio.NewReader(nc)}, nil
}

// do sends one command and returns its reply; only a broken connection fails the test.
func (c *redis) do(args ...string) any {
	c.t.Helper()
	reply, err := c.try(args...)
	if err != nil {
		c.t.Fatalf("%.60q: %v", args, err)
	}
	return reply
}

func (c *redis) try(args ...string) (any, error) {
	if err := c.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return nil, err
	}
	if _, err := c.Write(encode(args...)); err != nil {
		return nil, err
	}
	return c.receive()
}

// encode returns a command in RESP.
func encode(args ...string) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, arg := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return b
}

// receive reads one reply.
func (c *redis) receive() (any, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line, ok := strings.CutSuffix(line, "\r\n")
	if !ok || line == "" {
		return nil, fmt.Errorf("reply %q", line)
	}
	text := line[1:]
	switch line[0] {
	case '+':
		return status(text), nil
	case '-':
		return redisError(text), nil
	case ':':
		return strconv.ParseInt(text, 10, 64)
	case '$':
		return c.bulk(text)
	case '*':
		return c.array(text)
	}
	return nil, fmt.Errorf("reply %q", line)
}

func (c *redis) bulk(size string) (any, error) {
	n, err := strconv.Atoi(size)
	if err != nil || n < 0 {
		return nil, err
	}
	b := make([]byte, n+2)
	if _, err := io.ReadFull(c.r, b); err != nil {
		return nil, err
	}
	if string(b[n:]) != "\r\n" {
		return nil, errors.New("bulk string without its end")
	}
	return string(b[:n]), nil
}

func (c *redis) array(size string) (any, error) {
	n, err := strconv.Atoi(size)
	if err != nil || n < 0 {
		return nil, err
	}
	items := make([]any, n)
	for i := range items {
		if items[i], err = c.receive(); err != nil {
			return nil, err
		}
	}
	return items, nil
}

// dbsize asks one node for the number of keys.
func dbsize(t testing.TB, addr string) (int, error) {
	t.Helper()
	c, err := tryDialRedis(addr)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }() // answered
	reply, err := c.try("DBSIZE")
	if err != nil {
		return 0, err
	}
	n, ok := reply.(int64)
	if !ok {
		return 0, fmt.Errorf("DBSIZE: %v", reply)
	}
	return int(n), nil
}

func mustDBSize(t testing.TB, addr string) int {
	t.Helper()
	n, err := dbsize(t, addr)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// startRedis runs a redis-server for the tests that compare with it, and returns its address.
func startRedis(t testing.TB) string {
	t.Helper()
	addr := freeAddr(t)
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	c := startCommand(t, exec.Command("redis-server", "--bind", host, "--port", port, "--dir", testDir(t), "--save", "", "--appendonly", "no"))
	eventually(t, 20*time.Second, "redis-server answers", func() error {
		if !c.running() {
			t.Fatalf("redis-server ended: %s", &c.stdout)
		}
		_, err := dbsize(t, addr)
		return err
	})
	return addr
}
