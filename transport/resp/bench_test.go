package resp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/raftcask/raftcask/command"
)

const pipelineDepth = 16

// pipelineOf is a pipeline of commands as a client sends it: 16-byte keys, 256-byte values.
func pipelineOf(name string) []byte {
	var b strings.Builder
	for i := range pipelineDepth {
		key := fmt.Sprintf("key:%012d", i)
		if name == "SET" {
			b.WriteString(encode("SET", key, strings.Repeat("v", 256)))
		} else {
			b.WriteString(encode("GET", key))
		}
	}
	return []byte(b.String())
}

// BenchmarkParse is what a command costs from the read buffer to its arguments. One op is one command.
func BenchmarkParse(b *testing.B) {
	for _, name := range []string{"SET", "GET"} {
		b.Run(fmt.Sprintf("%s×%d", name, pipelineDepth), func(b *testing.B) {
			cfg := Config{}.withDefaults()
			p := newParser(&cfg)
			input := pipelineOf(name)
			b.ReportAllocs()
			b.SetBytes(int64(len(input) / pipelineDepth))
			n := 0
			for b.Loop() {
				if n%pipelineDepth == 0 {
					p.filled(copy(p.space(), input))
				}
				if event, err := p.next(); event != evCommand || err != nil {
					b.Fatal(event, err)
				}
				if n++; n%pipelineDepth == 0 {
					p.arena.release()
				}
			}
		})
	}
}

// BenchmarkRender is what a reply costs up to the output buffer.
func BenchmarkRender(b *testing.B) {
	elems := make([]command.Reply, 10)
	for i := range elems {
		elems[i] = command.BulkString(strings.Repeat("v", 16))
	}
	for _, c := range []struct {
		name  string
		reply command.Reply
	}{
		{"OK", command.OK()},
		{"Int", command.Int(12345)},
		{"Bulk256", command.BulkString(strings.Repeat("v", 256))},
		{"Array10", command.Array(elems...)},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := testWriter(nil)
			b.ReportAllocs()
			for b.Loop() {
				w.reply(&c.reply, 2)
				if len(w.buf) > 16<<10 {
					w.buf = w.buf[:0]
				}
			}
		})
	}
}

// okBackend costs nothing.
type okBackend struct{ replies []command.Reply }

func (o *okBackend) Exec(_ context.Context, calls []command.Call) []command.Reply {
	return o.replies[:len(calls)]
}

func (o *okBackend) Server(context.Context, command.Call) command.Reply { return command.OK() }

// discardConn is a socket that takes everything.
type discardConn struct{ net.Conn }

func (discardConn) Write(b []byte) (int, error) { return len(b), nil }

// BenchmarkSession is what the session adds to a command: parse, look up, check, submit, render. No socket.
// One op is one command.
func BenchmarkSession(b *testing.B) {
	for _, name := range []string{"SET", "GET"} {
		b.Run(fmt.Sprintf("%s×%d", name, pipelineDepth), func(b *testing.B) {
			cfg := Config{}.withDefaults()
			backend := &okBackend{replies: make([]command.Reply, pipelineDepth)}
			for i := range backend.replies {
				backend.replies[i] = command.OK()
			}
			srv := newServer(cfg, backend, nil)
			c := newSession(srv, discardConn{}, 1)
			input := pipelineOf(name)
			b.ReportAllocs()
			b.SetBytes(int64(len(input) / pipelineDepth))
			n := 0
			for b.Loop() {
				if n%pipelineDepth == 0 {
					c.parser.filled(copy(c.parser.space(), input))
					c.answer()
					c.out.seal()
					c.out.reuse()
				}
				n++
			}
		})
	}
}

// BenchmarkLoopback is a round trip over a socket with a pipeline, with a client that only copies. One op
// is one command.
func BenchmarkLoopback(b *testing.B) {
	for _, depth := range []int{1, pipelineDepth} {
		b.Run(fmt.Sprintf("SET×%d", depth), func(b *testing.B) {
			backend := &okBackend{replies: make([]command.Reply, depth)}
			for i := range backend.replies {
				backend.replies[i] = command.OK()
			}
			c := dial(b, start(b, Config{}, backend))
			in := bufio.NewReaderSize(c.conn, 64<<10)
			all := pipelineOf("SET")
			input := all[:len(all)/pipelineDepth*depth]
			want := make([]byte, depth*len("+OK\r\n"))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n++; n%depth != 0 {
					continue
				}
				if _, err := c.conn.Write(input); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(in, want); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
