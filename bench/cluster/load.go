package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// key returns the i-th key as redis-benchmark writes it.
func key(i int) string { return fmt.Sprintf("key:%012d", i) }

// load puts every key, so that each GET finds a value and each SET replaces one, and then checks that it is so.
func load(ctx context.Context, addr string) error {
	c, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.close()
	value := strings.Repeat("x", valueBytes)
	const batch = 500
	for first := 0; first < keyCount; first += batch {
		for i := first; i < first+batch; i++ {
			if err := c.send("SET", key(i), value); err != nil {
				return err
			}
		}
		for i := first; i < first+batch; i++ {
			if err := expect("OK")(c.receive()); err != nil {
				return fmt.Errorf("SET %s: %w", key(i), err)
			}
		}
	}
	return verify(ctx, addr)
}

// verify checks what the benchmark's figures rest on: so many keys, each with a value of the right size.
func verify(ctx context.Context, addr string) error {
	c, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.close()
	if err := expect(strconv.Itoa(keyCount))(c.do("DBSIZE")); err != nil {
		return fmt.Errorf("DBSIZE: %w", err)
	}
	for i := 0; i < keyCount; i += 97 {
		if err := expect(strconv.Itoa(valueBytes))(c.do("STRLEN", key(i))); err != nil {
			return fmt.Errorf("STRLEN %s: %w", key(i), err)
		}
	}
	return nil
}

// expect returns a check of a reply.
func expect(want string) func(reply string, err error) error {
	return func(reply string, err error) error {
		if err == nil && reply != want {
			err = fmt.Errorf("the reply is %q, want %q", reply, want)
		}
		return err
	}
}

// conn is a Redis client of the few replies that are needed here.
type conn struct {
	net.Conn
	r *bufio.Reader
	w *bufio.Writer
}

func dial(ctx context.Context, addr string) (*conn, error) {
	nc, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := nc.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return &conn{Conn: nc, r: bufio.NewReader(nc), w: bufio.NewWriter(nc)}, nil
}

func (c *conn) close() { _ = c.Close() } // everything sent has been answered

func (c *conn) do(args ...string) (string, error) {
	if err := c.send(args...); err != nil {
		return "", err
	}
	return c.receive()
}

// send buffers one command; receive flushes.
func (c *conn) send(args ...string) error {
	_, err := fmt.Fprintf(c.w, "*%d\r\n", len(args))
	for _, arg := range args {
		if err == nil {
			_, err = fmt.Fprintf(c.w, "$%d\r\n%s\r\n", len(arg), arg)
		}
	}
	return err
}

// receive reads one simple string, error, integer or bulk string.
func (c *conn) receive() (string, error) {
	if c.w.Buffered() > 0 {
		if err := c.w.Flush(); err != nil {
			return "", err
		}
	}
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("empty reply")
	}
	switch line[0] {
	case '+', ':':
		return line[1:], nil
	case '-':
		return "", errors.New(line[1:])
	case '$':
		size, err := strconv.Atoi(line[1:])
		if err != nil || size < 0 || size > 1<<20 {
			return "", fmt.Errorf("bulk reply of length %s", line[1:])
		}
		bulk := make([]byte, size+2)
		if _, err := io.ReadFull(c.r, bulk); err != nil {
			return "", err
		}
		return string(bulk[:size]), nil
	}
	return "", fmt.Errorf("reply %q", line)
}
