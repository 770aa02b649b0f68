// Package resp is the port on which clients speak the Redis protocol, RESP2 and RESP3: the codec, the
// connections and their sessions. What the commands mean is in package command; who runs them is the
// Backend.
//
//	srv, err := resp.Listen(resp.Config{Addr: ":7379"}, backend)
//	if err != nil { … }
//	go func() { done <- srv.Serve() }()
//	…
//	err = srv.Close() // stops accepting, finishes what is running, closes, waits
//
// # A connection
//
// One goroutine, the session, owns a connection. It reads once, parses all complete commands in the
// buffer, gives them to the backend, renders the replies in order, and flushes once. Commands on data that
// follow each other go to Backend.Exec together, so that a pipeline is submitted before any of it is
// awaited. PING, HELLO, CLIENT and the other commands about the connection are answered by the session;
// between data commands they do not end a run, only their replies wait for their turn. INFO, ROLE, CONFIG
// and TIME are asked of Backend.Server after the run before them.
//
// # What a client can cost
//
// Every length is checked before memory is taken for it, and the memory grows with the bytes that have
// arrived. A value over the limit is read over and refused, and the connection goes on; a length over
// MaxBulkBytes, and whatever else is not the protocol, is answered by an error, and the connection is
// closed. A client that does not read its replies fills its queue (MaxPendingBytes); then nothing more is
// read from it, and after WriteTimeout it is closed. A panic closes the connection it happened on.
//
// Files: parser.go, inline.go and arena.go read; writer.go writes; session.go and connection.go decide;
// server.go accepts and closes.
package resp

import (
	"context"
	"log/slog"
	"time"

	"github.com/raftcask/raftcask/command"
)

// Backend answers what a session cannot answer by itself. It is called by many sessions at once.
type Backend interface {
	// Exec runs commands of class Read, ReadAll and Write in program order and returns one reply each. It may
	// keep the calls and their arguments after it has returned; nobody changes them. The replies, and the
	// values in them, must stay as they are until they are written. The calls have passed command.Check.
	Exec(ctx context.Context, calls []command.Call) []command.Reply
	// Server runs one command of class Server.
	Server(ctx context.Context, call command.Call) command.Reply
}

// RoleReporter is what a Backend may implement to tell HELLO its role: "master" (also the default) or
// "replica".
type RoleReporter interface{ Role() string }

// Version is the version of Redis that clients are told. 8 would make some of them use newer commands.
const Version = "7.4.0"

// Config says how to serve. Zero fields mean the defaults.
type Config struct {
	Addr string // host:port; default 127.0.0.1:7379

	// MaxClients bounds the connections. Default 10,000, as Redis. An idle one takes about 30 KiB.
	MaxClients int

	// Limits of keys and values. A longer argument is refused, and the connection goes on.
	Limits command.Limits
	// MaxBulkBytes is the longest argument that is read over in order to refuse it; a longer one ends the
	// connection. Default 64 MiB, and never less than a value may have.
	MaxBulkBytes int
	// MaxCommandBytes bounds the arguments of one command together, 24 bytes of overhead for each
	// included. A larger command is refused. Default 32 MiB, and never less than a value may have: an MSET
	// is one entry of the log.
	MaxCommandBytes int

	// MaxPendingBytes is how much a client may leave unread before the server stops reading from it. Default
	// 32 MiB: clients send a whole pipeline before they read.
	MaxPendingBytes int
	// MaxPendingTotal is how much all clients may leave unread together. Default 256 MiB.
	MaxPendingTotal int
	// WriteTimeout is how long a client may read nothing at all before it is closed. Default 30 s.
	WriteTimeout time.Duration
	// DrainTimeout is how long Close waits for running commands before it cuts the connections. Default 10 s.
	DrainTimeout time.Duration

	Logger *slog.Logger // default slog.Default()
}

func (c Config) withDefaults() Config {
	if c.Addr == "" {
		c.Addr = "127.0.0.1:7379"
	}
	c.Limits = c.Limits.WithDefaults()
	setDefault(&c.MaxClients, 10_000)
	setDefault(&c.MaxBulkBytes, 64<<20)
	setDefault(&c.MaxCommandBytes, 32<<20)
	setDefault(&c.MaxPendingBytes, 32<<20)
	setDefault(&c.MaxPendingTotal, 256<<20)
	setDefault(&c.WriteTimeout, 30*time.Second)
	setDefault(&c.DrainTimeout, 10*time.Second)
	c.MaxBulkBytes = max(c.MaxBulkBytes, c.Limits.MaxValueBytes)
	// One value with a key and a name must fit whatever was configured.
	c.MaxCommandBytes = max(c.MaxCommandBytes, c.Limits.MaxValueBytes+c.Limits.MaxKeyBytes+1<<10)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Stats are counters since Listen, for metrics and INFO.
type Stats struct {
	Clients  int    // connected now
	Accepted uint64 // connections accepted
	Rejected uint64 // connections refused because of MaxClients
	Commands uint64 // commands parsed, the refused ones included
	BytesIn  uint64
	BytesOut uint64
}
