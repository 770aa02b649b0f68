package resp

import (
	"context"
	"time"

	"github.com/raftcask/raftcask/command"
)

// StaleReader is what a Backend may implement for RAFTCASK READMODE stale. ExecStale answers commands of the classes
// Read and ReadAll from this node's own data if it is at most maxAge old, or of any age if maxAge is negative;
// otherwise as Exec. age is how old the data was at most, if that is known.
type StaleReader interface {
	ExecStale(ctx context.Context, calls []command.Call, maxAge time.Duration) (replies []command.Reply, age time.Duration, known bool)
}

// readMode is how a connection reads.
type readMode struct {
	stale  bool
	maxAge time.Duration // negative: any
	// age of the data of the last stale read.
	age   time.Duration
	known bool
}

// isReadMode recognizes RAFTCASK READMODE, which is about one connection.
func isReadMode(spec *command.Spec, args [][]byte) bool {
	return spec.Name == "raftcask" && len(args) > 1 && command.IsWord(args[1], "READMODE")
}

// readMode answers RAFTCASK READMODE [LINEARIZABLE | STALE [max-staleness-ms]]. Alone it tells the mode, the bound
// (-1: none) and the age of the data of the last stale read in ms (-1: not known).
func (c *session) readMode(args [][]byte) command.Reply {
	if _, ok := c.srv.backend.(StaleReader); !ok {
		return command.Err("ERR stale reads are not offered here")
	}
	switch {
	case len(args) == 2:
		return c.mode.describe()
	case len(args) == 3 && command.IsWord(args[2], "LINEARIZABLE"):
		c.mode = readMode{}
		return command.OK()
	case len(args) == 3 && command.IsWord(args[2], "STALE"):
		c.mode = readMode{stale: true, maxAge: -1}
		return command.OK()
	case len(args) == 4 && command.IsWord(args[2], "STALE"):
		ms, ok := command.ParseStaleness(args[3])
		if !ok {
			return command.Err("ERR the staleness must be a number of milliseconds from 1 to 86400000")
		}
		c.mode = readMode{stale: true, maxAge: ms}
		return command.OK()
	}
	return command.Err("ERR READMODE takes LINEARIZABLE, STALE or STALE with a number of milliseconds")
}

func (m *readMode) describe() command.Reply {
	name, bound, age := "linearizable", int64(-1), int64(-1)
	if m.stale {
		name = "stale"
		if m.maxAge >= 0 {
			bound = m.maxAge.Milliseconds()
		}
	}
	if m.known {
		age = ceilMS(m.age)
	}
	return command.Array(command.BulkString(name), command.Int(bound), command.Int(age))
}

// ceilMS never says less than it is.
func ceilMS(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

// runCalls gives calls to the backend in the connection's mode. A run with a write in it is ordered by the leader: its
// reads see the writes before them.
func (c *session) runCalls(calls []command.Call) []command.Reply {
	if c.mode.stale {
		if b, ok := c.srv.backend.(StaleReader); ok && onlyReads(calls) {
			replies, age, known := b.ExecStale(c.srv.ctx, calls, c.mode.maxAge)
			c.mode.age, c.mode.known = age, known
			return replies
		}
	}
	return c.srv.backend.Exec(c.srv.ctx, calls)
}

func onlyReads(calls []command.Call) bool {
	for i := range calls {
		if calls[i].Spec.Class == command.Write {
			return false
		}
	}
	return true
}
