package server

import (
	"context"
	"slices"
	"time"

	"github.com/raftcask/raftcask/command"
)

// freshness is what a stale read needs of a *cluster.Node.
type freshness interface {
	Age() (age time.Duration, known bool)
	NoteStaleRead()
	Freshen(ctx context.Context) error
	CheckStale() error
}

// freshenBudget is how long a stale read waits until its own node is fresh enough, before the leader is asked.
const freshenBudget = 500 * time.Millisecond

// ExecStale implements resp.StaleReader.
func (b backend) ExecStale(ctx context.Context, calls []command.Call, maxAge time.Duration) ([]command.Reply, time.Duration, bool) {
	return b.node.executor.execStale(ctx, calls, maxAge)
}

// execStale answers reads from this node's store if its data is at most maxAge old, or of any age if maxAge is
// negative. A node that is behind tries to catch up; if that takes too long the reads go the way of linearizable
// ones, which refuses them when nobody leads. age is that of the data when it had been read, in whole milliseconds rounded
// up, and 0 for the latter; it is never more than maxAge.
func (e *executor) execStale(ctx context.Context, calls []command.Call, maxAge time.Duration) (replies []command.Reply, age time.Duration, known bool) {
	if e.fresh == nil || e.fresh.CheckStale() != nil || !e.freshEnough(ctx, maxAge) {
		return e.Exec(ctx, calls), 0, true
	}
	begin := time.Now()
	e.fresh.NoteStaleRead()
	age, known = e.fresh.Age() // before the data is read, which may be newer
	tx := e.local.group.ReadTx()
	replies = make([]command.Reply, len(calls))
	for i := range calls {
		replies[i] = runRead(tx, calls[i])
	}
	e.metrics.observe(calls, replies, time.Since(begin))
	age = (age + time.Since(begin) + time.Millisecond - 1).Truncate(time.Millisecond)
	if maxAge >= 0 && age > maxAge { // it became too old while it was read
		return e.Exec(ctx, calls), 0, true
	}
	return replies, age, known
}

func (e *executor) freshEnough(ctx context.Context, maxAge time.Duration) bool {
	if maxAge < 0 {
		return true
	}
	enough := func() bool {
		age, known := e.fresh.Age()
		return known && age <= maxAge
	}
	if enough() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, freshenBudget)
	defer cancel()
	return e.fresh.Freshen(ctx) == nil && enough()
}

// readStale answers RAFTCASK READ <max-staleness-ms | ANY> <command> [<argument> ...]: a stale read that leaves the connection
// as it is. The reply is the age of the data in ms (-1: not known), and the command's own.
func (s *Server) readStale(ctx context.Context, args [][]byte) command.Reply {
	maxAge := time.Duration(-1)
	if !command.IsWord(args[2], "ANY") {
		var ok bool
		if maxAge, ok = command.ParseStaleness(args[2]); !ok {
			return command.Err("ERR the staleness must be ANY, or a number of milliseconds from 1 to 86400000")
		}
	}
	inner := slices.Clone(args[3:])
	spec, ok := command.Find(inner[0])
	switch {
	case !ok:
		return command.UnknownCommand(inner)
	case !spec.AcceptsArgs(len(inner)):
		return command.WrongArgs(spec.Name)
	case spec.Class != command.Read && spec.Class != command.ReadAll:
		return command.Err("ERR RAFTCASK READ takes commands that read keys, and " + spec.Name + " is none")
	}
	if refused := command.Check(spec, inner, command.Limits{MaxValueBytes: s.cfg.MaxValueBytes}); refused != nil {
		return *refused
	}
	replies, age, known := s.executor.execStale(ctx, []command.Call{{Spec: spec, Args: inner}}, maxAge)
	if replies[0].IsErr() {
		return replies[0]
	}
	ms := int64(-1)
	if known {
		ms = int64((age + time.Millisecond - 1) / time.Millisecond)
	}
	return command.Array(command.Int(ms), replies[0])
}
