package server

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/raftcask/raftcask/cluster"
	"github.com/raftcask/raftcask/command"
)

// unbounded is the limit of replies that do not travel.
const unbounded = math.MaxInt

// local executes batches on this node while it leads.
//
// A batch is cut into runs that keep its order:
//
//   - Commands that read, as far as the next write, share one confirmation round
//     and are evaluated on the store.
//   - From a write on, reads and writes go through the proposer together, in order;
//     there the reads see the writes before them, applied or not.
//   - A command that reads all keys needs the store itself. It ends a run of writes
//     and begins one of reads, so that everything before it is applied when it runs.
type local struct{ group group }

// run executes calls and returns the replies of a prefix. The rest was certainly
// not executed: this node does not lead, the replies have reached maxBytes, or a
// further run would begin after the deadline.
func (l local) run(ctx context.Context, calls []command.Call, maxBytes int, deadline time.Time) []command.Reply {
	var replies []command.Reply
	for left := calls; len(left) > 0 && maxBytes > 0; {
		if len(replies) > 0 && time.Now().After(deadline) {
			break
		}
		n, writes := nextRun(left)
		var got []command.Reply
		var refused bool
		if writes {
			got, refused = l.propose(ctx, left[:n])
		} else {
			got, refused = l.read(ctx, left[:n], maxBytes)
		}
		if replies == nil {
			replies = got // most batches are one run
		} else {
			replies = append(replies, got...)
		}
		if refused {
			return refuseRest(replies, len(calls))
		}
		if len(got) < n {
			break
		}
		if maxBytes != unbounded {
			maxBytes -= repliesBytes(got)
		}
		left = left[n:]
	}
	return replies
}

// refuseRest gives the commands that are left the refusal of the last one: what
// follows a refused command is not executed (see executor).
func refuseRest(replies []command.Reply, n int) []command.Reply {
	last := replies[len(replies)-1]
	for len(replies) < n {
		replies = append(replies, last)
	}
	return replies
}

// nextRun returns the length of the run that calls begin with, and whether it
// goes through the proposer.
func nextRun(calls []command.Call) (n int, writes bool) {
	firstWrite, afterReadAll := len(calls), 0
	for i := range calls {
		class := calls[i].Spec.Class
		if class == command.Write {
			firstWrite = i
			break
		}
		if class == command.ReadAll {
			afterReadAll = i + 1
		}
	}
	if firstWrite == len(calls) {
		return len(calls), false
	}
	if afterReadAll > 0 {
		return afterReadAll, false
	}
	// The reads before the first write go with it: that saves their round.
	return pointCalls(calls), true
}

// pointCalls counts the commands before the first that reads all keys.
func pointCalls(calls []command.Call) int {
	for i := range calls {
		if calls[i].Spec.Class == command.ReadAll {
			return i
		}
	}
	return len(calls)
}

// propose evaluates a run through the proposer. It returns the replies of those
// that this node took as the leader; refused says that the last one was
// definitely not applied all the same.
func (l local) propose(ctx context.Context, calls []command.Call) (replies []command.Reply, refused bool) {
	replies = make([]command.Reply, len(calls))
	errs := l.group.Propose(ctx, len(calls), effectBytes(calls), func(tx command.Tx, i int) {
		replies[i] = calls[i].Spec.Run(tx, calls[i].Args)
	})
	if errs == nil {
		return replies, false
	}
	taken := len(calls)
	for taken > 0 && notTaken(errs[taken-1]) {
		taken--
	}
	last := taken // the last one that was, or may have been, applied
	for last > 0 && cluster.Definite(errs[last-1]) {
		last--
	}
	for i, err := range errs[:taken] {
		switch {
		case err == nil:
		case i < last && cluster.Definite(err):
			replies[i] = refusedOutOfOrder(err)
		default:
			replies[i] = errorReply(err)
		}
	}
	return replies[:taken], last < taken
}

// refusedOutOfOrder is the reply to a command that was not applied although a
// later one of its pipeline was, or may have been: a disk that was full between the two, an
// election. It must not look like an error that a library answers by sending the whole pipeline again.
func refusedOutOfOrder(err error) command.Reply {
	return command.Err("ERR not applied: " + reason(err) + "; later commands of the pipeline may have been applied")
}

// effectBytes is about what a run adds to the proposer's queue.
func effectBytes(calls []command.Call) int64 {
	n := 0
	for i := range calls {
		if calls[i].Spec.Class == command.Write {
			n += callBytes(calls[i])
		}
	}
	return int64(n)
}

// notTaken reports that an operation was refused because this node does not lead:
// another one can take it.
func notTaken(err error) bool {
	return errors.Is(err, cluster.ErrNotLeader) || errors.Is(err, cluster.ErrNoLeader)
}

// read confirms that this node leads, then evaluates a run of reads on the store.
func (l local) read(ctx context.Context, calls []command.Call, maxBytes int) (replies []command.Reply, refused bool) {
	if err := l.group.ConfirmLeader(ctx); err != nil {
		// Not executed, and a read may always be tried again: at the next leader,
		// or here when the majority answers again.
		return nil, false
	}
	tx := l.group.ReadTx()
	replies = make([]command.Reply, 0, len(calls))
	for i := range calls {
		reply := runRead(tx, calls[i])
		if tx.SawExpired() {
			if calls[i].Spec.Class == command.Read {
				got, refused := l.readExpired(ctx, calls[i:], maxBytes)
				return append(replies, got...), refused
			}
			tx = l.group.ReadTx() // one that has seen nothing
		}
		replies = append(replies, reply)
		if maxBytes != unbounded {
			if maxBytes -= replyBytes(&reply); maxBytes <= 0 {
				break
			}
		}
	}
	return replies, false
}

// readExpired goes on with a run of reads at the command that found a key whose
// time is over. Through the proposer that becomes an effect, and the key cannot
// come back on a leader whose clock is behind. The reads after it go the same
// way, or they could see an older state than it did.
func (l local) readExpired(ctx context.Context, calls []command.Call, maxBytes int) (replies []command.Reply, refused bool) {
	n := pointCalls(calls)
	replies, refused = l.propose(ctx, calls[:n])
	if refused || len(replies) < n || n == len(calls) {
		return replies, refused
	}
	got, refused := l.read(ctx, calls[n:], maxBytes)
	return append(replies, got...), refused
}

func repliesBytes(replies []command.Reply) int {
	n := 0
	for i := range replies {
		n += replyBytes(&replies[i])
	}
	return n
}

// replyBytes is about how long the binary form of a reply is.
func replyBytes(r *command.Reply) int {
	const head = 12
	n := head + len(r.Text()) + len(r.Bytes())
	if r.Kind() == command.KindArray || r.Kind() == command.KindMap || r.Kind() == command.KindSet {
		for elem := range r.All() {
			n += replyBytes(&elem)
		}
	}
	return n
}
